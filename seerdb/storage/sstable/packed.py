"""Entries packed in arrays: what tables are merged and built from, without an object for each.

numpy does what would be a loop over entries: putting keys in order, choosing entries, finding
where they end. A key or value becomes an object only where somebody asks for it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from seerdb.errors import InternalError
from seerdb.storage.sstable.order import Bytes, Flags, Order, order_by_one_word, order_by_words

Lengths: TypeAlias = NDArray[np.int64]
Seqs: TypeAlias = NDArray[np.uint64]
Hashes: TypeAlias = NDArray[np.uint64]
Shape: TypeAlias = tuple[int, int]
"""The length of every key, and that of every value."""

Number = TypeVar("Number", bound=np.generic)

_MOST_PADDING = 4
"""Keys of several lengths are sorted as arrays if that is at most so many times as large."""


class Packed:
    """``n`` entries in arrays. Immutable, so thread-safe.

    ``parts`` is key 0, value 0, key 1, … joined; ``seqs`` and ``kinds`` have one number for each
    entry; values are as tables store them (``value.py``). ``shape`` is there if all entries have
    it, then all that is done with them is done to a matrix; ``None`` says nothing.
    """

    __slots__ = ("_ends", "_lengths", "kinds", "parts", "seqs", "shape")

    def __init__(
        self,
        parts: Bytes,
        seqs: Seqs,
        kinds: Bytes,
        *,
        lengths: Lengths | None = None,
        shape: Shape | None = None,
    ) -> None:
        """``lengths``, of shape ``(n, 2)``, are those of keys and values; or ``shape`` is given."""
        self.parts = parts
        self.seqs = seqs
        self.kinds = kinds
        self.shape = shape
        self._lengths = lengths
        self._ends: Lengths | None = None

    def __len__(self) -> int:
        return len(self.seqs)

    @property
    def lengths(self) -> Lengths:
        """The lengths of key and value of each entry."""
        lengths = self._lengths
        if lengths is None:
            lengths = np.broadcast_to(np.array(self.shape, np.int64), (len(self), 2))
        return lengths

    @property
    def ends(self) -> Lengths:
        """Where in ``parts`` each entry ends."""
        ends = self._ends
        if ends is None:
            lengths = self.lengths
            ends = self._ends = (lengths[:, 0] + lengths[:, 1]).cumsum()
        return ends

    def end_positions(self) -> Sequence[int]:
        """:attr:`ends`, to look for positions in one by one."""
        if self.shape:
            size = sum(self.shape)
            return range(size, size * len(self) + 1, size)
        ends: list[int] = self.ends.tolist()
        return ends

    @property
    def first_key(self) -> bytes:
        """Requires: at least one entry."""
        return self.key(0)

    def key(self, position: int) -> bytes:
        """The key of one entry."""
        size = self.shape[0] if self.shape else self.lengths[position, 0]
        start = self.start(position)
        return self.parts[start : start + size].tobytes()

    def keys_at(self, positions: Sequence[int]) -> list[bytes]:
        """The keys of some entries."""
        if not self.shape:
            return list(map(self.key, positions))
        column = _items(self._rows(self.shape)[:, : self.shape[0]])
        keys: list[bytes] = column[np.asarray(positions, np.intp)].tolist()
        return keys

    def value(self, position: int) -> bytes:
        """The value of one entry, as it is stored."""
        end = self.start(position + 1)
        return self.parts[end - self.lengths[position, 1] : end].tobytes()

    def keys(self) -> list[bytes]:
        """All keys."""
        rows = self._key_rows()
        if rows is not None:
            keys: list[bytes] = _items(rows).tolist()
            return keys
        starts = self._starts()
        return self._cut(starts, starts + self.lengths[:, 0])

    def values(self) -> list[bytes]:
        """All values, as they are stored."""
        if self.shape and self.shape[1]:
            values: list[bytes] = _items(self._rows(self.shape)[:, self.shape[0] :]).tolist()
            return values
        return self._cut(self.ends - self.lengths[:, 1], self.ends)

    def _cut(self, starts: Lengths, ends: Lengths) -> list[bytes]:
        parts, bounds = self.parts.tobytes(), zip(starts.tolist(), ends.tolist(), strict=True)
        return [parts[start:end] for start, end in bounds]

    def _starts(self) -> Lengths:
        starts = np.zeros(len(self), np.int64)
        starts[1:] = self.ends[:-1]
        return starts

    def _rows(self, shape: Shape) -> NDArray[np.uint8]:
        return self.parts.reshape(len(self), sum(shape))

    def key_rows(self) -> Bytes | None:
        """A row of bytes for each key, if all are of one length."""
        found = self._key_rows()
        if found is None:
            return None
        return np.ascontiguousarray(_items(found)).view(np.uint8).reshape(found.shape)

    def _key_rows(self) -> Bytes | None:
        """The same, of which each row may lie apart."""
        if self.shape:
            return self._rows(self.shape)[:, : self.shape[0]]
        sizes = self.lengths[:, 0]
        size = int(sizes[0]) if len(sizes) else 0
        if not size or (sizes != size).any():
            return None
        return self.parts.take(self._starts()[:, np.newaxis] + np.arange(size))

    def between(self, start: int, stop: int) -> Packed:
        """The entries at these positions; nothing is copied."""
        lengths = self._lengths
        return Packed(
            self.parts[self.start(start) : self.start(stop)],
            self.seqs[start:stop],
            self.kinds[start:stop],
            lengths=None if lengths is None else lengths[start:stop],
            shape=self.shape,
        )

    def portions(self, size: int, group: int = 1) -> Iterator[Packed]:
        """The entries in order, of about ``size`` bytes at a time: whole groups of ``group``, where
        one is no larger. Nothing is copied."""
        fitting = max(1, len(self) * size // max(1, self.parts.size))
        count = max(fitting - fitting % group, min(fitting, group))
        for start in range(0, len(self), count):
            yield self.between(start, min(start + count, len(self)))

    def tails(self, chosen: Flags, size: int) -> bytes:
        """The last ``size`` bytes of each chosen entry, joined. Requires: they have so many."""
        starts = self.ends[chosen] - size
        return self.parts.take(starts[:, np.newaxis] + np.arange(size)).tobytes()

    def with_values(self, values: Mapping[int, bytes], kinds: Bytes) -> Packed:
        """The same keys, with other ``values`` at some positions, and all of other ``kinds``."""
        lengths = self.lengths.copy()
        parts: list[memoryview | bytes] = []
        view, copied = self.parts.data, 0
        for position, value in sorted(values.items()):
            end = self.start(position + 1)
            parts += view[copied : end - lengths[position, 1]], value
            lengths[position, 1] = len(value)
            copied = end
        joined = np.frombuffer(b"".join((*parts, view[copied:])), np.uint8)
        return Packed(joined, self.seqs, kinds, lengths=lengths)

    def with_seq(self, seq: int) -> Packed:
        """The same entries, all of them with this seq."""
        seqs = np.full(len(self), seq, np.uint64)
        return Packed(self.parts, seqs, self.kinds, lengths=self._lengths, shape=self.shape)

    def without_parts(self) -> Packed:
        """What is known of the entries, without their bytes."""
        nothing = np.empty(0, np.uint8)
        return Packed(nothing, self.seqs, self.kinds, lengths=self._lengths, shape=self.shape)

    def start(self, position: int) -> int:
        """Where in ``parts`` an entry starts, or, of the position after it, the last one ends."""
        if self.shape:
            return position * sum(self.shape)
        return int(self.ends[position - 1]) if position else 0

    def split(self, bound: bytes) -> tuple[Packed, Packed]:
        """The entries below ``bound``, and the others. Requires: in order."""
        at = bisect_left(range(len(self)), bound, key=self.key)
        if at == len(self):
            return self, NOTHING
        return (self.between(0, at), self.between(at, len(self))) if at else (NOTHING, self)

    def take(self, order: Order) -> Packed:
        """The entries at the positions ``order``."""
        shape = self.shape
        return Packed(
            self._rows(shape).take(order, axis=0).ravel() if shape else self._parts_of(order),
            self.seqs.take(order),
            self.kinds.take(order),
            lengths=None if shape else self.lengths.take(order, axis=0),
            shape=shape,
        )

    def stretches(self, order: Order, size: int) -> Iterator[Packed]:
        """:meth:`take`, ``size`` entries at a time, each to be let go of before the next."""
        whole = None if self.shape else self.take(order)  # what is cut out is copied as a whole
        for start in range(0, len(order), size):
            if whole is None:
                yield self.take(order[start : start + size])
            else:
                yield whole.between(start, min(start + size, len(order)))

    def _parts_of(self, order: Order) -> Bytes:
        entries = self._cut(self._starts().take(order), self.ends.take(order))
        return np.frombuffer(b"".join(entries), np.uint8)

    def without(self, kind: int) -> tuple[Packed, Packed]:
        """The entries that are of another kind, and those that are of this one."""
        others = self.kinds != kind
        if others.all():
            return self, NOTHING
        return self.take(others.nonzero()[0]), self.take((~others).nonzero()[0])

    def order(self) -> Order:
        """Positions in order of the keys. Requires: at least one entry, and no key twice."""
        rows = self._key_rows()
        found = None if rows is None else order_by_one_word(rows, "quicksort")
        return self._order()[0] if found is None else found[0]

    def latest(self) -> Order:
        """Of each key the position of the last entry, in order of the keys. Requires: at least one
        entry."""
        order, is_new = self._order()
        is_last: Flags = np.append(is_new[1:], True)
        return order.compress(is_last)

    def newest(self) -> tuple[Packed, Packed]:
        """Of each key the first entry, in order of the keys; and all others, which are older.

        Requires: at least one entry. Raises ``InternalError`` when one is not older.
        """
        order, is_new = self._order()
        if is_new.all():
            return self.take(order), NOTHING
        seqs = self.seqs.take(order)
        if (seqs[1:] > seqs[:-1])[~is_new[1:]].any():
            raise InternalError("an older version of a key comes before a newer one")
        return self.take(order[is_new]), self.take(order[~is_new])

    def _order(self) -> tuple[Order, Flags]:
        """Positions by key, those of one key as they come, and which of them have a new key."""
        rows = self._key_rows()
        found = None if rows is None else order_by_words(rows)
        if found is not None:
            return found
        keys = self._comparable_keys()
        if keys is not None:
            order = keys.argsort(kind="stable")
            keys = keys.take(order)
            is_new = np.append(True, keys[1:] != keys[:-1])
            if self.shape or not self._padding_hides(order, is_new):
                return order, is_new
        listed = self.keys()
        by_key = sorted(range(len(listed)), key=listed.__getitem__)
        is_new = np.array([True, *(listed[a] != listed[b] for a, b in pairwise(by_key))])
        return np.array(by_key, np.intp), is_new

    def _padding_hides(self, order: Order, is_new: Flags) -> bool:
        """Whether keys that end in zeros were taken for others that have fewer."""
        sizes = self.lengths[:, 0].take(order)
        return bool((~is_new[1:] & (sizes[1:] != sizes[:-1])).any())

    def _comparable_keys(self) -> NDArray[np.bytes_] | None:
        """The keys, padded with zeros, unless that is a waste."""
        rows = self.key_rows()
        if rows is not None:
            return rows.view(f"S{rows.shape[1]}")[:, 0]
        sizes = self.lengths[:, 0]
        longest = int(sizes.max())
        if longest * len(sizes) > _MOST_PADDING * int(sizes.sum()):
            return None
        return np.array(self.keys(), f"S{longest}")


def _items(rows: Bytes) -> NDArray[np.void]:
    """Rows of bytes, where they lie, as one item each: numpy copies that in a fourth of the time
    that it takes for the bytes of a row."""
    items: NDArray[np.void] = rows.view(f"V{rows.shape[1]}")[:, 0]
    return items


def pack(
    keys: Sequence[bytes], seqs: Sequence[int], kinds: bytes, values: Sequence[bytes]
) -> Packed:
    """Columns as packed entries.

    Raises ``InternalError`` when they differ in length, or a seq is negative.
    """
    if not len(keys) == len(seqs) == len(kinds) == len(values):
        raise InternalError("the columns of a table differ in length")
    parts = [b""] * (2 * len(keys))
    parts[0::2], parts[1::2] = keys, values
    sizes = set(map(len, keys)), set(map(len, values))
    try:
        numbers = np.frombuffer(array("Q", seqs), np.uint64)
    except OverflowError as error:
        raise InternalError(f"not a sequence number: {min(seqs)}") from error
    shape = lengths = None
    if [len(each) for each in sizes] == [1, 1] and 0 not in sizes[0]:
        shape = len(keys[0]), len(values[0])
    else:
        lengths = np.fromiter(map(len, parts), np.int64, len(parts)).reshape(-1, 2)
    return Packed(
        np.frombuffer(b"".join(parts), np.uint8),
        numbers,
        np.frombuffer(kinds, np.uint8),
        lengths=lengths,
        shape=shape,
    )


def join(several: Sequence[Packed]) -> Packed:
    """All entries of ``several``, at least one, in this order."""
    if len(several) == 1:
        return several[0]
    return _with_parts(several, _joined([each.parts for each in several]))


def gather(pieces: Iterable[Packed], size: int) -> Packed:
    """:func:`join`, of pieces that are let go of one by one. ``size``: of all parts, about, and
    rather too much: what is not needed of it costs nothing."""
    parts, end = np.empty(size, np.uint8), 0
    columns = []
    for piece in pieces:
        start, end = end, end + piece.parts.size
        if end > parts.size:
            parts = np.append(parts, np.empty(end, np.uint8))
        parts.data[start:end] = piece.parts.data
        columns.append(piece.without_parts())
    return _with_parts(columns, parts[:end]) if columns else NOTHING


def _with_parts(several: Sequence[Packed], parts: Bytes) -> Packed:
    shape = several[0].shape
    if any(each.shape != shape for each in several):
        shape = None
    lengths = None
    if not shape:
        lengths = _joined([each.lengths for each in several]).reshape(-1, 2)
    return Packed(
        parts,
        _joined([each.seqs for each in several]),
        _joined([each.kinds for each in several]),
        lengths=lengths,
        shape=shape,
    )


def _joined(arrays: list[NDArray[Number]]) -> NDArray[Number]:
    """What is in all of them, one after the other.

    By one call that keeps the interpreter lock: numpy lets go of it for each array, and may wait
    for milliseconds to get it back.
    """
    # Broadcast arrays have no bytes of their own.
    parts = [np.ascontiguousarray(each).data for each in arrays]
    return np.frombuffer(b"".join(parts), arrays[0].dtype)


NOTHING = pack((), (), b"", ())
"""No entries."""
