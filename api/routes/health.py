"""Liveness, readiness, metrics and version: what machines ask every few seconds."""

from __future__ import annotations

import platform
from importlib.metadata import version

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from seerdb_api.errors import INVALID_REQUEST, NOT_READY, problem_reply
from seerdb_api.metrics import Metrics
from seerdb_api.openapi import Success, documented
from seerdb_api.query import parse_query
from seerdb_api.reply import json_reply, to_json, to_response
from seerdb_api.service import service_of

router = APIRouter(tags=["health"])

_CHECKS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "ok", "detail"],
        "properties": {
            "name": {"type": "string"},
            "ok": {"type": "boolean"},
            "detail": {"type": "string"},
        },
    },
}


def _object(example: dict[str, object], **properties: object) -> dict[str, object]:
    schema = {"type": "object", "required": list(properties), "properties": properties}
    return {"application/json": {"schema": schema, "example": example}}


_LIVE = _object({"live": True}, live={"type": "boolean"})
_READY = _object(
    {"ready": True, "checks": [{"name": "bucket", "ok": True, "detail": "reachable"}]},
    ready={"type": "boolean"},
    checks=_CHECKS,
)
_VERSION = _object(
    {"name": "seerdb", "version": "0.1.0", "python": "3.11.7"},
    name={"type": "string"},
    version={"type": "string"},
    python={"type": "string"},
)


@router.head("/livez", include_in_schema=False)
@router.get(
    "/livez",
    **documented(success={200: Success("The process answers", _LIVE)}, problems=(INVALID_REQUEST,)),
)
async def livez(request: Request) -> Response:
    """Whether the process is alive; it says nothing about the database."""
    parse_query(request.scope["query_string"], ())
    return to_response(json_reply(to_json({"live": True})))


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    **documented(
        success={200: Success("Reads and writes are taken", _READY)},
        problems=(INVALID_REQUEST, NOT_READY),
    ),
)
async def readyz(request: Request) -> Response:
    """Whether the database takes reads and writes, with each thing that this depends on.

    The problem of a 503 has the same list, as `checks`. A restore drill that failed is in the list,
    and makes no 503.
    """
    parse_query(request.scope["query_string"], ())
    health = service_of(request).db.health()
    checks = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in health]
    failed = [check.name for check in health if not (check.ok or check.is_warning)]
    if failed:
        detail = f"failed: {', '.join(failed)}"
        return to_response(problem_reply(NOT_READY, detail, checks=checks))
    return to_response(json_reply(to_json({"ready": True, "checks": checks})))


@router.head("/metrics", include_in_schema=False)
@router.get(
    "/metrics",
    **documented(
        success={
            200: Success(
                "The Prometheus text format", {"text/plain": {"schema": {"type": "string"}}}
            )
        },
        problems=(INVALID_REQUEST,),
    ),
)
async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms of the service and the engine."""
    parse_query(request.scope["query_string"], ())
    numbers: Metrics = request.app.state.metrics
    return Response(numbers.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.head("/version", include_in_schema=False)
@router.get(
    "/version",
    **documented(success={200: Success("What runs here", _VERSION)}, problems=(INVALID_REQUEST,)),
)
async def show_version(request: Request) -> Response:
    """The release of SeerDB, and the Python it runs on."""
    parse_query(request.scope["query_string"], ())
    answer = {
        "name": "seerdb",
        "version": version("seerdb"),
        "python": platform.python_version(),
    }
    return to_response(json_reply(to_json(answer)))
