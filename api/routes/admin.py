"""``/v1/admin``: what an operator asks for."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from seerdb_api.openapi import READ_PROBLEMS, WRITE_PROBLEMS, Success, documented
from seerdb_api.query import byte_string, parse_query
from seerdb_api.reply import json_reply, to_json, to_response
from seerdb_api.service import service_of
from seerdb_api.standby import StandbyDatabase, become_primary

router = APIRouter(prefix="/v1/admin", tags=["admin"])

COMPACT_PARAMETERS = (
    byte_string("start", "Merge from this key on; empty: from the first", "user:"),
    byte_string("end", "Merge up to, not including, this key; empty: to the last"),
)
_REPORT = {"application/json": {"schema": {"type": "object"}}}


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
        problems=WRITE_PROBLEMS,
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
    "/promote",
    **documented(
        success={200: Success("What was taken over", _REPORT, ("seerdb-seq",))},
        problems=WRITE_PROBLEMS,
    ),
)
async def promote(request: Request) -> Response:
    """Make a standby the writer of its database, now, and wait until it is.

    The reply says where it goes on, and which commits of the writer before are known to be lost:
    `lost` is null or holds `from` and `to`. A server that is the writer answers the same about its
    own opening."""
    parse_query(request.scope["query_string"], ())
    service = service_of(request)
    db = service.db
    if isinstance(db, StandbyDatabase):
        become_primary(service, await service.operate(db.promote))
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
