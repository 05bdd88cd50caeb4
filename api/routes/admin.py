"""``/v1/admin``: what an operator asks for."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from seerdb import errors
from seerdb_api.errors import PROBLEMS
from seerdb_api.openapi import READ_PROBLEMS, WRITE_PROBLEMS, Success, documented
from seerdb_api.query import AS_OF, boolean, byte_string, parse_query, text
from seerdb_api.reply import json_reply, to_json, to_response
from seerdb_api.service import service_of
from seerdb_api.standby import StandbyDatabase, become_primary

router = APIRouter(prefix="/v1/admin", tags=["admin"])

COMPACT_PARAMETERS = (
    byte_string("start", "Merge from this key on; empty: from the first", "user:"),
    byte_string("end", "Merge up to, not including, this key; empty: to the last"),
)
RESTORE_PARAMETERS = (
    AS_OF,
    text("checkpoint", "Instead of an instant: what this checkpoint keeps", "before-the-import"),
    boolean("dry_run", "`true`: only say what would be done."),
)
_REPORT = {"application/json": {"schema": {"type": "object"}}}
_COUNT = {"type": "integer"}
_RESTORED = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["seq", "restored_seq", "replaced_seq", "checkpoint"],
            "properties": {
                "seq": {"type": "integer", "description": "Of the restore; 0 as a dry run."},
                "restored_seq": {"type": "integer", "description": "All is as it was after it."},
                "replaced_seq": {"type": "integer", "description": "What was the newest before."},
                "checkpoint": {"type": "string", "description": "What keeps the replaced state."},
                "commits": {"type": "integer", "description": "How many came from the log."},
                "tables_added": _COUNT,
                "tables_removed": _COUNT,
                "seconds": {"type": "number"},
            },
        }
    }
}


@router.post(
    "/flush",
    **documented(
        success={200: Success("What was flushed", _REPORT, ("seerdb-seq",))},
        problems=WRITE_PROBLEMS,
    ),
)
async def flush(request: Request) -> Response:
    """Move everything in memory into tables in the bucket, and wait until it is there."""
    parse_query(request.scope["query_string"], ())
    service = service_of(request)
    report = await service.operate(service.db.flush)
    return to_response(json_reply(to_json(report), service.db.visible_seq))


@router.post(
    "/compact",
    **documented(
        query=COMPACT_PARAMETERS,
        success={200: Success("What was merged", _REPORT, ("seerdb-seq",))},
        problems=(*WRITE_PROBLEMS, PROBLEMS[errors.WorkerError]),
    ),
)
async def compact(request: Request) -> Response:
    """Merge all tables, or what lies in a range of keys, and wait for it."""
    values = parse_query(request.scope["query_string"], COMPACT_PARAMETERS)
    start, end = values.get("start") or None, values.get("end") or None
    service = service_of(request)
    report = await service.operate(partial(service.db.compact, start, end))
    return to_response(json_reply(to_json(report), service.db.visible_seq))


@router.post(
    "/restore",
    **documented(
        query=RESTORE_PARAMETERS,
        success={200: Success("What was done, or would be", _RESTORED, ("seerdb-seq",))},
        problems=(*WRITE_PROBLEMS, PROBLEMS[errors.NotFoundError], PROBLEMS[errors.HistoryError]),
    ),
)
async def restore(request: Request) -> Response:
    """Have the database be again what it was, as its next commit, and wait until it is.

    Older seqs tell what they told, and later writes follow. What is replaced is kept as a
    checkpoint, which the reply names; to restore that is to undo it."""
    values = parse_query(request.scope["query_string"], RESTORE_PARAMETERS)
    service = service_of(request)
    call = partial(
        service.db.restore_in_place,
        values.get("as_of"),
        checkpoint=values.get("checkpoint"),
        dry_run=values.get("dry_run", False),
    )
    report = await service.operate(call)
    return to_response(json_reply(to_json(report), service.db.visible_seq))


@router.post(
    "/promote",
    **documented(
        success={200: Success("What was taken over", _REPORT, ("seerdb-seq",))},
        problems=WRITE_PROBLEMS,
    ),
)
async def promote(request: Request) -> Response:
    """Make a standby the writer of its database, now, and wait until it is.

    The reply says where it goes on, and which commits of the writer before are known to be lost:
    `lost` is null or holds `from` and `to`. `own_log` says exactly what is lost of the log that it
    had from when it was the writer itself. A server that is the writer answers the same about its
    own opening. A replica, and a writer that was overtaken, refuse with 409."""
    parse_query(request.scope["query_string"], ())
    service = service_of(request)
    standby: StandbyDatabase | None = request.app.state.standby
    if standby is not None:
        become_primary(service, await service.operate(standby.promote))
    if service.db.is_fenced:
        raise errors.FencedError(
            "another writer took over from this one; a standby can be promoted, this cannot"
        )
    return to_response(json_reply(to_json(service.db.takeover), service.db.visible_seq))


@router.get(
    "/status",
    **documented(
        success={200: Success("The state of the database", _REPORT, ("seerdb-seq",))},
        problems=READ_PROBLEMS,
    ),
)
async def status(request: Request) -> Response:
    """Levels, tables, memtables, log, caches, uploads, costs and workers."""
    parse_query(request.scope["query_string"], ())
    service = service_of(request)
    report = await service.read(service.db.stats)
    return to_response(json_reply(to_json(report), service.db.visible_seq))
