"""A reply as plain values: what one request is answered with, before anything is sent.

The thin path (``fast.py``) and the documented routes send the same values, so they cannot differ.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

Header: TypeAlias = tuple[bytes, bytes]
Reply: TypeAlias = tuple[int, list[Header], bytes]
"""Status, headers (lower-case names) and the whole body; ``content-length`` is among the
headers wherever a body is possible."""

JSON = b"application/json"


def seq_header(seq: int) -> Header:
    """``seerdb-seq``: the reply reflects at least every commit up to ``seq``."""
    return (b"seerdb-seq", b"%d" % seq)


def json_reply(body: bytes, seq: int | None = None) -> Reply:
    """200 with ``body``, encoded JSON; ``seq`` becomes ``seerdb-seq``."""
    headers = [(b"content-type", JSON), (b"content-length", b"%d" % len(body))]
    if seq is not None:
        headers.append(seq_header(seq))
    return 200, headers, body


def to_json(value: Any) -> bytes:
    """JSON of structs, dataclasses, mappings; bytes become base64."""
    return msgspec.json.encode(value)


def to_response(reply: Reply) -> Response:
    """The reply as an object that FastAPI sends."""
    status, headers, body = reply
    response = Response(body, status)
    response.raw_headers = list(headers)
    return response


def encoded(reply: Reply, more: bytes = b"") -> bytes:
    """The reply as it goes over HTTP/1.1; ``more``: whole header lines to come after its own."""
    status, headers, body = reply
    first = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
    return b"".join((first, lines_of(headers), more, b"\r\n", body))


def lines_of(headers: list[Header]) -> bytes:
    """Header lines as they go over HTTP/1.1."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


async def send_reply(reply: Reply, method: str, send: Send) -> None:
    """Send the reply over ASGI; a HEAD request gets the headers only."""
    status, headers, body = reply
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


def headers_of(request: Request) -> dict[bytes, bytes]:
    """The request's headers by lower-case name; see :func:`by_name`."""
    return by_name(request.scope["headers"])


def by_name(headers: list[Header]) -> dict[bytes, bytes]:
    """Headers with lower-case names by these; of one that is repeated all values as one list
    (RFC 9110, section 5.3)."""
    found = dict(headers)
    if len(found) == len(headers):
        return found
    found.clear()
    for name, value in headers:
        found[name] = b"%b, %b" % (found[name], value) if name in found else value
    return found
