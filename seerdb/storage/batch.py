"""A batch: operations that are committed together, and the one place that checks keys and values.

Kept in columns (kinds, keys, values), which is how the WAL encodes it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from seerdb.errors import InvalidRequestError
from seerdb.ids import MAX_SEQ
from seerdb.options import MAX_KEY_SIZE, MAX_VALUE_SIZE
from seerdb.storage.entry import DELETE, DELETE_RANGE, PUT, RangeTombstone, RangeTombstones


def check_key(key: object) -> None:
    """Raise ``InvalidRequestError`` unless ``key`` is 1 to 65,535 bytes."""
    if type(key) is not bytes:
        raise InvalidRequestError(f"a key must be bytes, not {type(key).__name__}")
    if not 0 < len(key) <= MAX_KEY_SIZE:
        raise InvalidRequestError(f"a key must be 1 to {MAX_KEY_SIZE:,} bytes, not {len(key):,}")


def check_value(value: object) -> None:
    """Raise ``InvalidRequestError`` unless ``value`` is 0 bytes to 1 GiB."""
    if type(value) is not bytes:
        raise InvalidRequestError(f"a value must be bytes, not {type(value).__name__}")
    if len(value) > MAX_VALUE_SIZE:
        raise InvalidRequestError(
            f"a value must be at most {MAX_VALUE_SIZE:,} bytes, not {len(value):,}"
        )


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
    """Operations not yet committed; the last one on a key wins.

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

    def put(self, key: bytes, value: bytes) -> None:
        """Set ``key`` to ``value``."""
        if type(key) is not bytes or not 0 < len(key) <= MAX_KEY_SIZE:
            check_key(key)
        if type(value) is not bytes or len(value) > MAX_VALUE_SIZE:
            check_value(value)
        self.kinds.append(PUT)
        self.keys.append(key)
        self.values.append(value)

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

    @property
    def size(self) -> int:
        """Bytes of its keys and values."""
        return sum(map(len, self.keys)) + sum(map(len, self.values))

    def normalised(self) -> Batch:
        """An equal batch in which no operation is hidden by a later range delete.

        All operations of a batch share one seq and a range tombstone spares entries of its
        own seq, so what it should hide must not be logged at all.
        """
        if not self.has_ranges:
            return self
        operations = list(zip(self.kinds, self.keys, self.values, strict=True))
        ranges = RangeTombstones(
            RangeTombstone(key, value, position + 1)
            for position, (kind, key, value) in enumerate(operations)
            if kind == DELETE_RANGE
        )
        kept = Batch()
        kept.has_ranges = True
        for position, (kind, key, value) in enumerate(operations):
            if kind == DELETE_RANGE or ranges.covering(key, MAX_SEQ) <= position:
                kept.kinds.append(kind)
                kept.keys.append(key)
                kept.values.append(value)
        return kept


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
