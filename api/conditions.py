"""Conditional requests and ranges (RFC 9110, sections 13 and 14), over ETags that are seqs.

An entity tag is ``"<seq>"``, the seq of the commit that wrote the value. It is strong: a seq is
never reused, so equal tags mean equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from seerdb.errors import InvalidRequestError
from seerdb_api.errors import PRECONDITION_FAILED, RANGE_NOT_SATISFIABLE, RefusalError

READ_CONDITIONS = frozenset((b"if-none-match", b"if-match", b"range"))
WRITE_CONDITIONS = frozenset((b"if-none-match", b"if-match"))
"""Names of headers that change what a read or a write does."""

_TAG = re.compile(rb'(W/)?"([^"]*)"')
_ANY_OR_TAG = re.compile(rb"(?<![^, \t])(\*)(?![^, \t])|" + _TAG.pattern)
_SEQ = re.compile(rb"[1-9][0-9]{0,18}")
_RANGE = re.compile(rb"(?i:bytes)=([0-9]{0,100})-([0-9]{0,100})")


def etag(seq: int) -> bytes:
    """The entity tag of a value that was committed at ``seq``."""
    return b'"%d"' % seq


def names_tag(header: bytes, seq: int, *, weak: bool) -> bool:
    """Whether a header's list of tags, or of ``*``, names the value of ``seq``.

    ``weak``: a tag marked weak names it too (If-None-Match); else it never does (If-Match).
    """
    wanted = b"%d" % seq
    return any(
        is_any or (tag == wanted and (weak or not is_weak))
        for is_any, is_weak, tag in _ANY_OR_TAG.findall(header)
    )


def expected_seq(headers: Mapping[bytes, bytes]) -> int | None:
    """The seq that the key must have now for a write to happen; 0: it must be absent.

    ``None``: no condition. Raises: ``RefusalError`` (412) for a tag that no value can have,
    ``InvalidRequestError`` for conditions that one compare cannot express.
    """
    absent, matches = headers.get(b"if-none-match"), headers.get(b"if-match")
    if matches is None:
        if absent is None:
            return None
        if absent.strip() != b"*":
            raise InvalidRequestError("a write takes If-None-Match only as *")
        return 0
    if absent is not None:
        raise InvalidRequestError("a write takes If-Match or If-None-Match, not both")
    tag = _TAG.fullmatch(matches.strip())
    if tag is None:
        raise InvalidRequestError('a write takes If-Match only as one tag: "<seq>"')
    if tag[1] or not _SEQ.fullmatch(tag[2]):
        raise RefusalError(PRECONDITION_FAILED, "no value has the tag that If-Match names")
    return int(tag[2])


def refuse_conditions(headers: Mapping[bytes, bytes]) -> None:
    """Raise ``InvalidRequestError`` for a condition on a write of more than one key."""
    if not WRITE_CONDITIONS.isdisjoint(headers):
        raise InvalidRequestError(
            "If-Match and If-None-Match go with the write of a single key; this is not one"
        )


def requested_range(headers: Mapping[bytes, bytes], seq: int, size: int) -> range | None:
    """The positions of the bytes that a GET asks for; ``None`` for the whole value.

    Several ranges, other units and nonsense are ignored, as is a range whose If-Range names
    another value. Refuses (416) a range outside of the value.
    """
    asked = _RANGE.fullmatch(headers.get(b"range", b"").strip())
    if asked is None or not (asked[1] or asked[2]):
        return None
    if headers.get(b"if-range", etag(seq)).strip() != etag(seq):
        return None
    if asked[1]:
        start = int(asked[1])
        end = min(int(asked[2]) + 1, size) if asked[2] else size
        if asked[2] and int(asked[2]) < start:
            return None
    else:
        start, end = max(0, size - int(asked[2])), size
    if start >= end:
        raise RefusalError(
            RANGE_NOT_SATISFIABLE,
            f"the value has {size:,} bytes",
            ((b"content-range", b"bytes */%d" % size),),
        )
    return range(start, end)
