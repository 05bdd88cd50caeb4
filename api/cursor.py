"""Where a scan goes on: an opaque string that holds the last key and which query it belongs to.

Little-endian; then base64url without padding:

========  =======  ====================================================
field     bytes    meaning
========  =======  ====================================================
version   1        1
query     8        xxh3-64 of the query's bounds and direction
key       any      the last key of the page
checksum  4        CRC32C of everything before it
========  =======  ====================================================

Nothing is kept in the server: a cursor never expires, and it stays valid across restarts.
"""

from __future__ import annotations

import base64
import binascii
import struct

import xxhash
from crc32c import crc32c

from seerdb.errors import InvalidRequestError
from seerdb_api.keyrange import KeyRange

VERSION = 1
_HEAD = struct.Struct("<BQ")
_CHECKSUM = struct.Struct("<I")


def query_identity(keys: KeyRange, *, reverse: bool) -> int:
    """What tells one query from another: its bounds and direction, not its limit."""
    end = b"\x00" if keys.end is None else b"\x01" + keys.end
    parts = (len(keys.start).to_bytes(4, "little"), keys.start, end, b"-" if reverse else b"+")
    return xxhash.xxh3_64_intdigest(b"".join(parts))


def encode_cursor(identity: int, key: bytes) -> str:
    """The cursor of the query ``identity`` after ``key``."""
    content = _HEAD.pack(VERSION, identity) + key
    sealed = content + _CHECKSUM.pack(crc32c(content))
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def decode_cursor(text: bytes, identity: int) -> bytes:
    """The key after which the query ``identity`` goes on.

    Raises: ``InvalidRequestError`` when it is damaged or belongs to another query.
    """
    sealed = _decode(text)
    content, checksum = sealed[: -_CHECKSUM.size], sealed[-_CHECKSUM.size :]
    if len(content) <= _HEAD.size or _CHECKSUM.pack(crc32c(content)) != checksum:
        raise InvalidRequestError("the cursor is damaged: pass it back exactly as it was given")
    version, found = _HEAD.unpack_from(content)
    if version != VERSION or found != identity:
        raise InvalidRequestError(
            "the cursor belongs to another query: keep start, end, prefix and reverse as they were"
        )
    return content[_HEAD.size :]


def _decode(text: bytes) -> bytes:
    padded = text + b"=" * (-len(text) % 4)
    try:
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except binascii.Error:
        return b""
