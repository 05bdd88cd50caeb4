"""Request bodies: read within a limit, decoded strictly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from starlette.types import Receive

from seerdb.errors import MALFORMED, InvalidRequestError
from seerdb_api.errors import TOO_LARGE, RefusalError

T = TypeVar("T")


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The whole body, at most ``limit`` bytes.

    Refuses a larger one with 413, at once where its length is declared, else as soon as the
    limit is passed; the rest is not read. Raises ``InvalidRequestError`` when the client goes
    away before the end.
    """
    declared = headers.get(b"content-length")
    if declared is not None and (not declared.isdigit() or int(declared) > limit):
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        return body
    parts = bytearray()
    while message["type"] == "http.request":
        parts += message.get("body", b"")
        if len(parts) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(parts)
        message = await receive()
    raise InvalidRequestError("the connection ended before the body did")


def decode_json(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """``body`` as the decoder's type. Raises: ``InvalidRequestError`` saying where it is wrong."""
    try:
        return decoder.decode(body)
    except MALFORMED as error:
        raise InvalidRequestError(f"the JSON body is not valid: {error}") from error


def _too_large(limit: int) -> RefusalError:
    return RefusalError(
        TOO_LARGE, f"a request body is at most {limit:,} bytes", ((b"connection", b"close"),)
    )
