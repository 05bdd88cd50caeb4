"""Ranges of keys as requests name them: ``start`` and ``end``, or a ``prefix``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from seerdb.errors import InvalidRequestError

FIRST_KEY = b"\x00"


class KeyRange(NamedTuple):
    """The keys in ``[start, end)``; an ``end`` of ``None`` is no bound."""

    start: bytes
    end: bytes | None

    @property
    def empty(self) -> bool:
        """Whether no key can be in it."""
        return self.end is not None and self.start >= self.end

    def after(self, key: bytes) -> KeyRange:
        """The part of it that follows ``key``."""
        return KeyRange(key + b"\x00", self.end)

    def before(self, key: bytes) -> KeyRange:
        """The part of it that precedes ``key``."""
        return KeyRange(self.start, key)


def keys_with_prefix(prefix: bytes) -> KeyRange:
    """All keys that start with ``prefix``."""
    stem = prefix.rstrip(b"\xff")
    return KeyRange(prefix, stem[:-1] + bytes([stem[-1] + 1]) if stem else None)


def range_to_scan(values: Mapping[str, bytes]) -> KeyRange:
    """The range of a scan. ``prefix`` and bounds narrow each other; an empty one is no bound."""
    start, end = keys_with_prefix(values.get("prefix", b""))
    start = max(start, values.get("start", b""))
    last = values.get("end", b"")
    if last:
        end = last if end is None else min(end, last)
    return KeyRange(start, end)


def range_to_delete(values: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """The bounds of a range delete: of a prefix, or both given, so that no slip of a client
    deletes everything.

    Raises: ``InvalidRequestError`` for anything else, and for a prefix without an end.
    """
    names = values.keys() & {"prefix", "start", "end"}
    if names == {"prefix"}:
        start, end = keys_with_prefix(values["prefix"])
        if end is None:
            raise InvalidRequestError(
                "a prefix to delete must not be empty nor all 0xFF; give start and end"
            )
        return start, end
    if names != {"start", "end"}:
        raise InvalidRequestError("a range delete takes either prefix, or start and end")
    return values["start"] or FIRST_KEY, values["end"]
