"""Percent-decoding that takes nothing for a byte that is none."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from seerdb.errors import InvalidRequestError

_MALFORMED = re.compile(rb"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)


def decoded(text: bytes) -> bytes:
    """The bytes that percent-encoded ``text`` means.

    Raises ``InvalidRequestError`` for a ``%`` without two hexadecimal digits: whoever sent it did
    not encode it, and would one day mean ``%41`` where an ``A`` is read.
    """
    malformed = _MALFORMED.search(text)
    if malformed is not None:
        raise InvalidRequestError(
            f"{malformed.group().decode(errors='replace')!r} is no percent-encoded byte; "
            "a % itself is %25"
        )
    return unquote_to_bytes(text)
