"""``/v1/admin/backups`` and ``/v1/admin/recovery-points``: copies of the database elsewhere."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from seerdb import Transfer, errors
from seerdb_api.body import decode_json, read_body
from seerdb_api.errors import PROBLEMS, TOO_LARGE
from seerdb_api.openapi import (
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    Success,
    documented,
    json_content,
)
from seerdb_api.query import parse_query, text
from seerdb_api.reply import headers_of, json_reply, seq_header, to_json, to_response
from seerdb_api.schemas import BackupRequest
from seerdb_api.service import service_of

router = APIRouter(prefix="/v1/admin", tags=["admin"])

_DECODER = msgspec.json.Decoder(BackupRequest)
POINTS_PARAMETERS = (
    text(
        "from", "A repository of backups; by default the bucket of the database", "s3://b/backups"
    ),
)
ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "Of the backup in the background.",
    "schema": {"type": "string"},
    "example": "5eedb0a7c0ffee00",
}
_COUNT = {"type": "integer"}
_BACKUP = {
    "type": "object",
    "required": ["id", "to", "state", "objects", "bytes", "total_objects", "total_bytes"],
    "properties": {
        "id": {"type": "string"},
        "to": {"type": "string", "description": "The repository, without secrets."},
        "state": {"type": "string", "enum": ["running", "done", "failed"]},
        "objects": _COUNT,
        "bytes": _COUNT,
        "total_objects": _COUNT,
        "total_bytes": _COUNT,
        "error": {"type": ["string", "null"]},
        "report": {"type": ["object", "null"], "description": "What it consists of."},
    },
}
_ONE = {"application/json": {"schema": _BACKUP}}
_ALL = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["backups"],
            "properties": {"backups": {"type": "array", "items": _BACKUP}},
        }
    }
}
_POINTS = {"application/json": {"schema": {"type": "object"}}}


@router.post(
    "/backups",
    **documented(
        body=json_content(BackupRequest),
        success={202: Success("It has begun", _ONE, ("seerdb-seq",))},
        problems=(*WRITE_PROBLEMS, TOO_LARGE),
    ),
)
async def start(request: Request) -> Response:
    """Back everything committed so far up, in the background, while writes go on."""
    parse_query(request.scope["query_string"], ())
    service = service_of(request)
    body = await read_body(headers_of(request), request.receive, service.settings.body_limit)
    wish = decode_json(body, _DECODER)
    begin = partial(
        service.db.start_backup,
        wish.to,
        label=wish.label,
        keep=wish.keep,
        full=wish.full,
        transfer=Transfer(jobs=wish.jobs, rate=wish.rate, target_options=wish.store_options),
    )
    began = await service.operate(begin)
    _, headers, content = json_reply(to_json(began), service.db.visible_seq)
    return to_response((202, headers, content))


@router.get(
    "/backups",
    **documented(
        success={200: Success("Those of late too, oldest first", _ALL, ("seerdb-seq",))},
        problems=READ_PROBLEMS,
    ),
)
async def list_all(request: Request) -> Response:
    """The backups in the background since the start."""
    parse_query(request.scope["query_string"], ())
    service = service_of(request)
    found = service.db.backups()
    return to_response(json_reply(to_json({"backups": found}), service.db.visible_seq))


@router.get(
    "/backups/{id}",
    **documented(
        parameters=(ID,),
        success={200: Success("How far it is, or what became of it", _ONE, ("seerdb-seq",))},
        problems=(*READ_PROBLEMS, PROBLEMS[errors.NotFoundError]),
    ),
)
async def show(request: Request) -> Response:
    """One backup in the background."""
    parse_query(request.scope["query_string"], ())
    service = service_of(request)
    wanted = request.path_params["id"]
    found: list[Any] = [each for each in service.db.backups() if each.id == wanted]
    if not found:
        raise errors.NotFoundError(f"there is no backup {wanted!r} in the background")
    return to_response(json_reply(to_json(found[0]), service.db.visible_seq))


@router.delete(
    "/backups/{id}",
    **documented(
        parameters=(ID,),
        success={204: Success("It ends soon", headers=("seerdb-seq",))},
        problems=(*READ_PROBLEMS, PROBLEMS[errors.NotFoundError]),
    ),
)
async def cancel(request: Request) -> Response:
    """End a backup in the background; what it has copied stays for the next one."""
    parse_query(request.scope["query_string"], ())
    service = service_of(request)
    service.db.cancel_backup(request.path_params["id"])
    return to_response((204, [seq_header(service.db.visible_seq)], b""))


@router.get(
    "/recovery-points",
    **documented(
        query=POINTS_PARAMETERS,
        success={200: Success("Backups, ranges of seqs and gaps", _POINTS, ("seerdb-seq",))},
        problems=(*READ_PROBLEMS, PROBLEMS[errors.NotFoundError]),
    ),
)
async def recovery_points(request: Request) -> Response:
    """What can be restored from the bucket of the database, or from a repository."""
    values = parse_query(request.scope["query_string"], POINTS_PARAMETERS)
    service = service_of(request)
    points = await service.operate(partial(service.db.recovery_points, values.get("from")))
    return to_response(json_reply(to_json(points), service.db.visible_seq))
