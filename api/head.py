"""Header lines of a request, and which of them ask for nothing special."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from seerdb_api.conditions import READ_CONDITIONS, WRITE_CONDITIONS
from seerdb_api.reply import Header

MAX_LINES = 256
"""Header lines of one request, those of a trailer among them; more are refused."""
MAX_PLAIN_HEAD = 2 << 10
REMEMBERED_HEADS = 1024
"""Clients repeat their header lines: what so many different ones mean is kept."""

# Nothing in it gives back what it took: a head that does not match is known at once.
_HEAD = re.compile(rb"(?:[A-Za-z0-9!#$%%&'*+.^_`|~-]++:[ -~]*+\r\n){0,%d}+\r\n" % MAX_LINES)
_LENGTH = re.compile(rb"[0-9]{1,9}")
_HOST = re.compile(rb"([A-Za-z0-9._~!$&'()*+,;=%-]*+|\[[0-9A-Fa-fv.:]++\])(:[0-9]*+)?")
_SPECIAL = frozenset(
    (
        b"expect",
        b"proxy-connection",
        b"seerdb-deadline",
        b"seerdb-epoch",
        b"seerdb-min-seq",
        b"transfer-encoding",
        b"upgrade",
    )
)
_UNUSUAL = READ_CONDITIONS | WRITE_CONDITIONS | _SPECIAL


def plain_body_length(head: bytes) -> int | None:
    """The length of the body after the header lines ``head``, which end with an empty line.

    ``None``: they are many, ask for more than a plain request does, or are not spelled plainly.
    """
    return _body_length(head) if len(head) <= MAX_PLAIN_HEAD else None


@lru_cache(REMEMBERED_HEADS)
def _body_length(head: bytes) -> int | None:
    if not _HEAD.fullmatch(head):
        return None
    lengths, hosts = [], []
    for name, value in fields_of(head):
        if name == b"content-length":
            lengths.append(value)
        elif name == b"host":
            hosts.append(value)
        elif name in _UNUSUAL or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
    if not names_host(hosts):
        return None
    if not lengths:
        return 0
    return int(lengths[0]) if len(lengths) == 1 and _LENGTH.fullmatch(lengths[0]) else None


def names_host(values: Sequence[bytes], *, is_optional: bool = False) -> bool:
    """Whether the ``Host`` lines of a request are what they must be (RFC 9112, section 3.2): one,
    of a host and perhaps a port, or none where that ``is_optional``."""
    if len(values) == 1:
        return _HOST.fullmatch(values[0]) is not None
    return is_optional and not values


def fields_of(head: bytes) -> list[Header]:
    """The names, in lower case, and values of header lines."""
    pairs = (line.partition(b":") for line in head.split(b"\r\n") if line)
    return [(name.lower(), value.strip()) for name, _, value in pairs]
