"""``/v1/admin/checkpoints``: states of the database that are kept under a name."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from seerdb import errors
from seerdb_api.errors import PROBLEMS
from seerdb_api.openapi import READ_PROBLEMS, WRITE_PROBLEMS, Success, documented
from seerdb_api.query import boolean, parse_query, seconds, text
from seerdb_api.reply import json_reply, seq_header, to_json, to_response
from seerdb_api.service import service_of

router = APIRouter(prefix="/v1/admin/checkpoints", tags=["admin"])

MAX_LIFETIME = 100 * 365 * 24 * 3600
CREATE_PARAMETERS = (
    text("name", "Its name; by default the time and the seq", "before-the-import"),
    seconds("expires", "Seconds after which it goes by itself; by default it stays.", MAX_LIFETIME),
    boolean(
        "flush",
        "`false`: it shows what tables hold by now, and not all that was committed.",
        default=True,
    ),
)
NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "The name it was given.",
    "schema": {"type": "string"},
    "example": "before-the-import",
}
_CHECKPOINT = {
    "type": "object",
    "required": ["name", "seq", "time", "number", "expires"],
    "properties": {
        "name": {"type": "string"},
        "seq": {"type": "integer", "description": "It shows every commit up to here."},
        "time": {"type": "number", "description": "When it was made, seconds since 1970."},
        "number": {"type": "integer", "description": "Of the manifest record it shows."},
        "expires": {"type": ["number", "null"], "description": "When it goes, at the earliest."},
    },
}
_ONE = {"application/json": {"schema": _CHECKPOINT}}
_ALL = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["checkpoints"],
            "properties": {"checkpoints": {"type": "array", "items": _CHECKPOINT}},
        }
    }
}


@router.post(
    "",
    **documented(
        query=CREATE_PARAMETERS,
        success={200: Success("What is kept from now on", _ONE, ("seerdb-seq",))},
        problems=(*WRITE_PROBLEMS, PROBLEMS[errors.AlreadyExistsError]),
    ),
)
async def create(request: Request) -> Response:
    """Keep the database as it is now, under a name, until that is dropped or expires."""
    values = parse_query(request.scope["query_string"], CREATE_PARAMETERS)
    service = service_of(request)
    made = await service.operate(
        partial(
            service.db.checkpoint,
            values.get("name"),
            values.get("expires"),
            flush=values.get("flush", True),
        )
    )
    return to_response(json_reply(to_json(made), service.db.visible_seq))


@router.get(
    "",
    **documented(
        success={200: Success("What is kept, by name", _ALL, ("seerdb-seq",))},
        problems=READ_PROBLEMS,
    ),
)
async def list_all(request: Request) -> Response:
    """Every checkpoint."""
    parse_query(request.scope["query_string"], ())
    service = service_of(request)
    found = await service.operate(service.db.checkpoints)
    return to_response(json_reply(to_json({"checkpoints": found}), service.db.visible_seq))


@router.delete(
    "/{name}",
    **documented(
        parameters=(NAME,),
        success={204: Success("It is kept no longer", headers=("seerdb-seq",))},
        problems=(*WRITE_PROBLEMS, PROBLEMS[errors.NotFoundError]),
    ),
)
async def drop(request: Request) -> Response:
    """Keep a checkpoint no longer; what only it kept is deleted later."""
    parse_query(request.scope["query_string"], ())
    service = service_of(request)
    await service.operate(partial(service.db.drop_checkpoint, request.path_params["name"]))
    return to_response((204, [seq_header(service.db.visible_seq)], b""))
