"""``/v1/batch`` and ``/v1/mget``: many keys in one request."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from seerdb import Batch
from seerdb_api.body import decode_json, read_body
from seerdb_api.conditions import refuse_conditions
from seerdb_api.errors import TOO_LARGE
from seerdb_api.freshness import (
    FRESHNESS,
    FRESHNESS_HEADERS,
    FRESHNESS_PROBLEMS,
    wait_until_fresh,
)
from seerdb_api.openapi import (
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    WRITTEN,
    Success,
    documented,
    json_content,
)
from seerdb_api.port import Database
from seerdb_api.query import parse_query
from seerdb_api.reply import headers_of, json_reply, to_json, to_response
from seerdb_api.schemas import (
    BATCH_DECODER,
    MULTI_GET_DECODER,
    BatchReply,
    BatchRequest,
    MultiGetReply,
    MultiGetRequest,
    absent_item,
    item_of,
)
from seerdb_api.service import Service, service_of

router = APIRouter(tags=["batches"])

INLINE_BYTES = 64 << 10
"""A larger batch is decoded in a thread, so that other requests get their turn."""


def _decode_batch(body: bytes) -> tuple[Batch, str | None]:
    request = decode_json(body, BATCH_DECODER)
    return request.batch(), request.durability


def _multi_get(db: Database, body: bytes) -> tuple[bytes, int]:
    """The items as JSON, and the seq of which they show at least every commit."""
    request = decode_json(body, MULTI_GET_DECODER)
    keys = request.wanted()
    seq = db.visible_seq
    entries = db.multi_get_entries(keys, fill_cache=request.fill_cache)
    items = [
        absent_item(key) if entry is None else item_of(entry)
        for key, entry in zip(keys, entries, strict=True)
    ]
    newest = max((entry.seq for entry in entries if entry is not None), default=0)
    return msgspec.json.encode(MultiGetReply(items)), max(seq, newest)


async def _body(request: Request, service: Service) -> bytes:
    return await read_body(headers_of(request), request.receive, service.settings.body_limit)


@router.post(
    "/v1/batch",
    **documented(
        body=json_content(BatchRequest),
        success={200: Success("Committed", json_content(BatchReply), WRITTEN)},
        problems=(*WRITE_PROBLEMS, TOO_LARGE),
    ),
)
async def commit_batch(request: Request) -> Response:
    """Puts, merges, deletes and range deletes, committed together: all of them or none."""
    service = service_of(request)
    parse_query(request.scope["query_string"], ())
    refuse_conditions(headers_of(request))
    body = await _body(request, service)
    if len(body) <= INLINE_BYTES:
        batch, durability = _decode_batch(body)
    else:
        batch, durability = await service.compute(_decode_batch, body)
    count = len(batch)
    seq = await service.commit(batch, durability)
    status, headers, content = json_reply(to_json(BatchReply(seq, count)))
    return to_response((status, [*headers, *service.written(durability)], content))


@router.post(
    "/v1/mget",
    **documented(
        query=FRESHNESS,
        parameters=FRESHNESS_HEADERS,
        body=json_content(MultiGetRequest),
        success={
            200: Success(
                "One item for each key, in order",
                json_content(MultiGetReply),
                ("seerdb-seq",),
            )
        },
        problems=(*READ_PROBLEMS, *FRESHNESS_PROBLEMS, TOO_LARGE),
    ),
)
async def multi_get(request: Request) -> Response:
    """The values of many keys."""
    service = service_of(request)
    values = parse_query(request.scope["query_string"], FRESHNESS)
    body = await _body(request, service)
    await wait_until_fresh(service, headers_of(request), values)
    content, seq = await service.read(_multi_get, service.db, body)
    return to_response(json_reply(content, seq))
