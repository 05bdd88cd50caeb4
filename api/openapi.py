"""What the OpenAPI document says about a route, from the same declarations the route runs on.

Parameters come from ``query.py``, bodies from ``schemas.py``, failures from ``errors.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct
from starlette.responses import Response

from seerdb import errors
from seerdb_api.errors import PROBLEMS, Problem
from seerdb_api.query import Parameter
from seerdb_api.schemas import (
    BackupRequest,
    BatchReply,
    BatchRequest,
    History,
    MultiGetReply,
    MultiGetRequest,
    Page,
    json_schemas,
)

Json = dict[str, Any]

TAGS: list[Json] = [
    {"name": "keys", "description": "One key: read, write, delete, compare-and-set."},
    {"name": "ranges", "description": "Many keys in order: scan, stream, delete."},
    {"name": "batches", "description": "Many keys in one request: atomic writes, multi-get."},
    {"name": "admin", "description": "What an operator asks for."},
    {"name": "replication", "description": "What followers read."},
    {"name": "health", "description": "Liveness, readiness, metrics, version."},
]

DESCRIPTION = """
A key-value database that lives in a bucket. Keys and values are bytes.

* A key in a path or a query is percent-encoded bytes: `/`, NUL and invalid UTF-8 are fine, and
  `+` is a plus.
* In JSON, bytes that are valid UTF-8 are strings under `key` and `value`; others are base64 under
  `key_base64` and `value_base64`. Requests may use either form.
* `ETag` is the sequence number of the commit that wrote the value, and works with `If-Match`,
  `If-None-Match` and `If-Range`.
* Every reply from the database carries `seerdb-seq`: it reflects at least every commit up to it.
  Replies of replicas also carry `seerdb-lag-seq` and `seerdb-lag-seconds`.
* Errors are `application/problem+json`; `retryable` says whether the same request may succeed
  later. 429 and 503 say in `Retry-After` when.
"""

PROBLEM_SCHEMA: Json = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "retryable"],
    "properties": {
        "type": {"type": "string", "description": "A URN that names the problem."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong with this request."},
        "retryable": {
            "type": "boolean",
            "description": "Whether the same request may succeed later.",
        },
    },
}
READ_PROBLEMS = tuple(
    PROBLEMS[kind]
    for kind in (
        errors.InvalidRequestError,
        errors.MergeError,
        errors.HistoryError,
        errors.InternalError,
        errors.CorruptionError,
        errors.UnavailableError,
    )
)
"""What any read may end in."""
READ_ONLY = PROBLEMS[errors.ReadOnlyError]
WRITE_PROBLEMS = tuple(
    PROBLEMS[kind]
    for kind in (
        errors.InvalidRequestError,
        errors.ReadOnlyError,
        errors.FencedError,
        errors.BusyError,
        errors.InternalError,
        errors.UnavailableError,
        errors.PoisonedError,
        errors.DiskFullError,
    )
)
"""What any write may end in."""
WRITTEN = ("seerdb-durability", "seerdb-epoch", "seerdb-seq")
"""The headers of every reply to a write."""

BYTES_CONTENT: Json = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
}

_ITEM: Json = {"key": "a", "value": "1", "seq": 7}
EXAMPLES: dict[type[Struct], Json] = {
    BatchRequest: {
        "ops": [
            {"op": "put", "key": "a", "value": "1"},
            {"op": "put", "key_base64": "/wA=", "value_base64": "AP8="},
            {"op": "put", "key": "session", "value": "x", "ttl": 30},
            {"op": "merge", "key": "counter", "operand_base64": "AQAAAAAAAAA="},
            {"op": "delete", "key": "b"},
            {"op": "delete_range", "start": "c", "end": "d"},
        ],
        "durability": "local",
    },
    BackupRequest: {"to": "s3://backups/orders", "label": "nightly", "jobs": 8},
    BatchReply: {"seq": 9, "count": 6},
    MultiGetRequest: {"keys": ["a", "b"]},
    MultiGetReply: {"items": [_ITEM, {"key": "b", "value": None}]},
    History: {
        "versions": [
            {"seq": 7, "time": "2026-11-20T18:00:00.250000Z", "value": "1"},
            {"seq": 9, "time": None, "deleted": True},
        ]
    },
    Page: {"items": [_ITEM], "cursor": None},
}
"""The structs of requests and replies. The examples stand in their schemas, because FastAPI
drops every ``null`` from what it is told about routes."""

_SEQ: Json = {"schema": {"type": "string", "pattern": "^[0-9]+$"}}
HEADERS: dict[str, Json] = {
    "ETag": {
        "description": "The sequence number that wrote the value, in quotes.",
        "schema": {"type": "string"},
        "example": '"7"',
    },
    "seerdb-seq": {"description": "The reply reflects every commit up to this.", **_SEQ},
    "seerdb-epoch": {
        "description": "The epoch of the writer: with a seq of its, it names a commit for ever.",
        **_SEQ,
    },
    "seerdb-durability": {
        "description": "What the write survives.",
        "schema": {"type": "string", "enum": ["memory", "interval", "local", "object"]},
    },
    "Content-Range": {"description": "Which bytes these are.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", **_SEQ},
    "Allow": {"description": "The methods this path takes.", "schema": {"type": "string"}},
}


@dataclass(frozen=True)
class Success:
    """A status code that is not a problem: what it means, its content and its headers."""

    description: str
    content: Json = field(default_factory=dict)
    headers: tuple[str, ...] = ()

    def documented(self) -> Json:
        """The OpenAPI response object."""
        shown: Json = {"description": self.description}
        if self.content:
            shown["content"] = self.content
        if self.headers:
            shown["headers"] = {name: HEADERS[name] for name in self.headers}
        return shown


def json_content(struct: type[Struct]) -> Json:
    """JSON of ``struct``."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{struct.__name__}"}}}


def header_parameter(name: str, description: str) -> Json:
    """A request header that a route understands."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
    }


def documented(
    *,
    success: Mapping[int, Success],
    problems: tuple[Problem, ...] = (),
    query: tuple[Parameter, ...] = (),
    parameters: tuple[Json, ...] = (),
    body: Json | None = None,
) -> Json:
    """Arguments for a FastAPI route decorator that document it.

    The first status of ``success`` is the usual one. ``body`` is the content of the request.
    """
    extra: Json = {}
    listed = [*parameters, *(parameter.documented() for parameter in query)]
    if listed:
        extra["parameters"] = listed
    if body is not None:
        extra["requestBody"] = {"required": True, "content": body}
    responses: dict[int, Json] = {status: reply.documented() for status, reply in success.items()}
    for status in sorted({problem.status for problem in problems}):
        same = [problem for problem in problems if problem.status == status]
        responses[status] = _problem_response(same)
    return {
        "status_code": next(iter(success)),
        "responses": responses,
        "openapi_extra": extra,
        "response_class": Response,
    }


def _problem_response(problems: list[Problem]) -> Json:
    examples = {
        problem.name: {"value": problem.document(f"{problem.title.lower()}: …")}
        for problem in problems
    }
    content = {
        "schema": {"$ref": "#/components/schemas/Problem"},
        "examples": examples,
    }
    shown: Json = {
        "description": "; ".join(problem.title for problem in problems),
        "content": {"application/problem+json": content},
    }
    headers = {405: "Allow", 416: "Content-Range", 429: "Retry-After", 503: "Retry-After"}
    name = headers.get(problems[0].status)
    if name:
        shown["headers"] = {name: HEADERS[name]}
    return shown


def component_schemas() -> Json:
    """The schemas that the document refers to, by name."""
    schemas = json_schemas(EXAMPLES)
    for struct, example in EXAMPLES.items():
        schemas[struct.__name__]["examples"] = [example]
    return {"Problem": PROBLEM_SCHEMA, **schemas}
