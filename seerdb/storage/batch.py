"""A batch: operations that are committed together, and the one place that checks keys and values.

Kept in columns (kinds, keys, values), which is how the WAL encodes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from types import TracebackType
from typing import Self

from seerdb.errors import InvalidRequestError
from seerdb.options import MAX_KEY_SIZE, MAX_TTL, MAX_VALUE_SIZE
from seerdb.storage.entry import (
    DELETE,
    DELETE_RANGE,
    MERGE,
    PUT,
    PUT_WITH_EXPIRY,
)
from seerdb.storage.value import SECOND_US, expires_at, pack_expiring, unpack_expiring


def check_key(key: object) -> None:
    """Raise ``InvalidRequestError`` unless ``key`` is 1 to 65,535 bytes."""
    if type(key) is not bytes:
        raise InvalidRequestError(f"a key must be bytes, not {type(key).__name__}")
    if not 0 < len(key) <= MAX_KEY_SIZE:
        raise InvalidRequestError(f"a key must be 1 to {MAX_KEY_SIZE:,} bytes, not {len(key):,}")


def check_keys(keys: object) -> None:
    """Raise ``InvalidRequestError`` unless ``keys`` is a list, or alike, of keys."""
    try:
        for key in keys:  # type: ignore[attr-defined]
            if type(key) is not bytes or not 0 < len(key) <= MAX_KEY_SIZE:
                check_key(key)
        len(keys)  # type: ignore[arg-type]
    except TypeError as error:
        raise InvalidRequestError(
            f"keys must be a list of keys, not {type(keys).__name__}"
        ) from error


def check_value(value: object) -> None:
    """Raise ``InvalidRequestError`` unless ``value`` is 0 bytes to 1 GiB."""
    if type(value) is not bytes:
        raise InvalidRequestError(f"a value must be bytes, not {type(value).__name__}")
    if len(value) > MAX_VALUE_SIZE:
        raise InvalidRequestError(
            f"a value must be at most {MAX_VALUE_SIZE:,} bytes, not {len(value):,}"
        )


def check_batch(batch: object) -> None:
    """Raise ``InvalidRequestError`` unless ``batch`` is a :class:`Batch`."""
    if not isinstance(batch, Batch):
        raise InvalidRequestError(f"a batch must be a Batch, not {type(batch).__name__}")


def lifetime_us(ttl: object) -> int:
    """A time to live of ``ttl`` seconds, in microseconds.

    Raises ``InvalidRequestError`` unless it is a number above 0, of at most 100 years.
    """
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise InvalidRequestError(f"a ttl must be a number of seconds, not {type(ttl).__name__}")
    if not 0 < ttl <= MAX_TTL:
        raise InvalidRequestError(
            f"a ttl must be more than 0 and at most {MAX_TTL:,} seconds, not {ttl}"
        )
    return math.ceil(ttl * SECOND_US)


def check_range(start: object, end: object) -> None:
    """Raise ``InvalidRequestError`` unless both are keys and ``start < end``."""
    check_key(start)
    check_key(end)
    if start >= end:  # type: ignore[operator]
        raise InvalidRequestError(
            f"the start of a range must be before its end: {start!r}, {end!r}"
        )


def prefix_end(prefix: bytes) -> bytes | None:
    """The first key after every key with ``prefix``; ``None`` when there is no such key."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


class Batch:
    """Operations not yet committed, in their order: the last put or delete of a key wins, and
    merges build on what is before them. A value's time to live begins with the call
    that commits it.

    Not thread-safe. Every method raises ``InvalidRequestError`` for a bad key, value or
    range and then leaves the batch as it was.
    """

    __slots__ = ("has_ranges", "keys", "kinds", "values")

    def __init__(self) -> None:
        self.kinds = bytearray()
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.has_ranges = False

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def is_plain(self) -> bool:
        """Whether there are puts in it, that never expire, and nothing else."""
        count = self.kinds.count(PUT)
        return count == len(self.kinds) and count > 0

    def put(self, key: bytes, value: bytes, ttl: float | None = None) -> None:
        """Set ``key`` to ``value``, for ``ttl`` seconds (default: for good)."""
        if type(key) is not bytes or not 0 < len(key) <= MAX_KEY_SIZE:
            check_key(key)
        if type(value) is not bytes or len(value) > MAX_VALUE_SIZE:
            check_value(value)
        if ttl is None:
            self.kinds.append(PUT)
        else:
            value = pack_expiring(lifetime_us(ttl), value)
            self.kinds.append(PUT_WITH_EXPIRY)
        self.keys.append(key)
        self.values.append(value)

    def merge(self, key: bytes, operand: bytes) -> None:
        """Have the database's merge operator fold ``operand`` into what ``key`` holds."""
        check_key(key)
        check_value(operand)
        self.kinds.append(MERGE)
        self.keys.append(key)
        self.values.append(operand)

    def delete(self, key: bytes) -> None:
        """Remove ``key``; no error when it is not there."""
        check_key(key)
        self.kinds.append(DELETE)
        self.keys.append(key)
        self.values.append(b"")

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Remove every key in ``[start, end)``."""
        check_range(start, end)
        self.kinds.append(DELETE_RANGE)
        self.keys.append(start)
        self.values.append(end)
        self.has_ranges = True

    def clear(self) -> None:
        """Drop all operations. Whoever took the columns before keeps them as they were."""
        self.kinds, self.keys, self.values = bytearray(), [], []
        self.has_ranges = False

    def copy(self) -> Batch:
        """A batch of its own with the same operations."""
        twin = Batch()
        twin.kinds, twin.keys, twin.values = self.kinds[:], self.keys[:], self.values[:]
        twin.has_ranges = self.has_ranges
        return twin

    __copy__ = copy  # what Python would make of the columns is not a batch of its own

    @property
    def size(self) -> int:
        """Bytes of its keys and values."""
        return sum(map(len, self.keys)) + sum(map(len, self.values))

    def stamped(self, now_us: Callable[[], int]) -> Batch:
        """An equal batch in which values expire at a time, where here they have lifetimes."""
        if PUT_WITH_EXPIRY not in self.kinds:
            return self
        twin, now = self.copy(), now_us()
        for position, kind in enumerate(self.kinds):
            if kind == PUT_WITH_EXPIRY:
                value, lifetime = unpack_expiring(self.values[position])
                twin.values[position] = pack_expiring(expires_at(now, lifetime), value)
        return twin

    def normalised(self) -> Batch:
        """An equal batch in which no operation is hidden by a later range delete.

        All operations of a batch share one seq and a range tombstone spares entries of its
        own seq, so what it should hide must not be logged at all.
        """
        hidden = self._hidden() if self.has_ranges else None
        if not hidden:
            return self
        kept = Batch()
        kept.has_ranges = True
        operations = zip(self.kinds, self.keys, self.values, strict=True)
        for position, (kind, key, value) in enumerate(operations):
            if position not in hidden:
                kept.kinds.append(kind)
                kept.keys.append(key)
                kept.values.append(value)
        return kept

    def _hidden(self) -> set[int]:
        """The positions of what a later range delete hides: keys in order, beside a heap of the
        ranges that have begun, the latest first."""
        at = [position for position, kind in enumerate(self.kinds) if kind == DELETE_RANGE]
        last = at[-1] if at else 0
        single = (position for position in range(last) if self.kinds[position] != DELETE_RANGE)
        keys = sorted((self.keys[position], position) for position in single)
        if not keys:
            return set()
        ranges = sorted(((self.keys[each], self.values[each], each) for each in at), reverse=True)
        begun: list[tuple[int, bytes]] = []
        hidden = set()
        for key, position in keys:
            while ranges and ranges[-1][0] <= key:
                _, end, later = ranges.pop()
                heappush(begun, (-later, end))
            while begun and begun[0][1] <= key:
                heappop(begun)
            if begun and -begun[0][0] > position:
                hidden.add(position)
        return hidden


class WriteBatch(Batch):
    """A batch that commits itself when its ``with`` block is left without an exception.

    However the block is left, the batch is empty then and may be used again.
    """

    __slots__ = ("_commit", "seq")

    def __init__(self, commit: Callable[[Batch], int]) -> None:
        super().__init__()
        self._commit = commit
        self.seq = 0

    def __enter__(self) -> Self:
        self.seq = 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and len(self):
                self.seq = self._commit(self)
        finally:
            self.clear()
