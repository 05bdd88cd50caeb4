"""``/v1/kv/{key}``, documented. The thin path answers these before they get here."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from seerdb_api.errors import (
    NO_SUCH_KEY,
    PRECONDITION_FAILED,
    RANGE_NOT_SATISFIABLE,
    TOO_LARGE,
)
from seerdb_api.freshness import FRESHNESS_HEADERS, FRESHNESS_PROBLEMS
from seerdb_api.keys import DELETE_PARAMETERS, GET_PARAMETERS, PUT_PARAMETERS, Keys
from seerdb_api.openapi import (
    BYTES_CONTENT,
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    WRITTEN,
    Success,
    documented,
    header_parameter,
)
from seerdb_api.reply import to_response


class _AnyBytes(StringConvertor):
    """A key in a path: slashes and line ends too, at which Starlette's own end."""

    regex = "(?s:.*)"


register_url_convertor("key", _AnyBytes())

router = APIRouter(tags=["keys"])
PATH = "/v1/kv/{key:key}"

KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": "The key, 1 to 65,535 bytes, percent-encoded; it may hold `/` as it is.",
    "schema": {"type": "string", "minLength": 1},
    "example": "user:42",
}
IF_MATCH = header_parameter("If-Match", 'Only if the value has this tag, as `"7"`; else 412.')


def _reading(**more: Any) -> dict[str, Any]:
    return documented(
        parameters=(
            KEY,
            header_parameter("If-None-Match", "304 if the value has one of these tags."),
            IF_MATCH,
            *FRESHNESS_HEADERS,
            *more.pop("parameters", ()),
        ),
        query=GET_PARAMETERS,
        problems=(
            *READ_PROBLEMS,
            *FRESHNESS_PROBLEMS,
            NO_SUCH_KEY,
            PRECONDITION_FAILED,
            *more.pop("problems", ()),
        ),
        **more,
    )


async def _answer(request: Request) -> Response:
    keys: Keys = request.app.state.keys
    status, headers, body = await keys.answer(request.scope, request.receive)
    return to_response((status, headers, b"" if request.method == "HEAD" else body))


@router.get(
    PATH,
    **_reading(
        parameters=(
            header_parameter("Range", "One range of bytes, as `bytes=0-99`; else ignored."),
            header_parameter("If-Range", "Heed `Range` only if the value has this tag."),
        ),
        success={
            200: Success("The value", BYTES_CONTENT, ("ETag", "seerdb-seq")),
            206: Success(
                "The bytes asked for", BYTES_CONTENT, ("ETag", "Content-Range", "seerdb-seq")
            ),
            304: Success("The client has this value", headers=("ETag", "seerdb-seq")),
        },
        problems=(RANGE_NOT_SATISFIABLE,),
    ),
)
async def get_key(request: Request) -> Response:
    """The value of a key, or a range of its bytes."""
    return await _answer(request)


@router.head(
    PATH,
    **_reading(
        success={
            200: Success("Length and tag of the value", headers=("ETag", "seerdb-seq")),
            304: Success("The client has this value", headers=("ETag", "seerdb-seq")),
        }
    ),
)
async def head_key(request: Request) -> Response:
    """Whether a key is there, how long its value is, and its tag."""
    return await _answer(request)


@router.put(
    PATH,
    **documented(
        parameters=(
            KEY,
            IF_MATCH,
            header_parameter("If-None-Match", "`*`: only if the key is not there; else 412."),
        ),
        query=PUT_PARAMETERS,
        body=BYTES_CONTENT,
        success={204: Success("Written", headers=("ETag", *WRITTEN))},
        problems=(*WRITE_PROBLEMS, PRECONDITION_FAILED, TOO_LARGE),
    ),
)
async def put_key(request: Request) -> Response:
    """Set a key to the body, any bytes or none. Acknowledged once it is as durable as asked."""
    return await _answer(request)


@router.delete(
    PATH,
    **documented(
        parameters=(KEY, IF_MATCH),
        query=DELETE_PARAMETERS,
        success={204: Success("It is not there (any more)", headers=WRITTEN)},
        problems=(*WRITE_PROBLEMS, PRECONDITION_FAILED),
    ),
)
async def delete_key(request: Request) -> Response:
    """Remove a key; the reply is the same where nothing was there."""
    return await _answer(request)
