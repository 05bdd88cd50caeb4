"""``/v1/history``: the versions of a key."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from seerdb_api.freshness import (
    FRESHNESS,
    FRESHNESS_HEADERS,
    FRESHNESS_PROBLEMS,
    wait_until_fresh,
)
from seerdb_api.keys import key_of
from seerdb_api.openapi import READ_PROBLEMS, Success, documented, json_content
from seerdb_api.query import parse_query
from seerdb_api.reply import headers_of, json_reply, to_json, to_response
from seerdb_api.routes.keys import KEY
from seerdb_api.schemas import History, version_item
from seerdb_api.service import service_of

router = APIRouter(tags=["keys"])

PREFIX = b"/v1/history/"


@router.get(
    "/v1/history/{key:key}",
    **documented(
        parameters=(KEY, *FRESHNESS_HEADERS),
        query=FRESHNESS,
        success={200: Success("Oldest first", json_content(History), ("seerdb-seq",))},
        problems=(*READ_PROBLEMS, *FRESHNESS_PROBLEMS),
    ),
)
async def history(request: Request) -> Response:
    """Every version of a key within `history_retention`, oldest first; at the beginning the one
    that was in effect then. It reads all of the log since then."""
    values = parse_query(request.scope["query_string"], FRESHNESS)
    service = service_of(request)
    key = key_of(request.scope["raw_path"], PREFIX)
    await wait_until_fresh(service, headers_of(request), values)
    seq = service.db.visible_seq
    versions = await service.read(service.db.history, key)
    body = to_json(History([version_item(each) for each in versions]))
    return to_response(json_reply(body, seq))
