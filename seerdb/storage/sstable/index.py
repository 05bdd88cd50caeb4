"""Which block of a table may hold a key: the bytes of an index, and two ways to hold it in memory.

Blocks are told apart by separators. That of the first block is its first key; that of any other
is the shortest prefix of its first key that is above the last key of the block before. The *rank*
of a key is the number of separators up to it, so block ``rank - 1`` is the only one that may hold
it. Separators ascend strictly.

Payload, MessagePack, one of::

    [[separator, …], [stored length, …], last key, nil]
    [[],             [stored length, …], last key, [prefix, heads, long, starts, slopes, error]]

In the first form the separators are bisected. In version 1 of the table they are the first keys,
which separate as well, and there is no fourth element.

The second form is learned, after the PGM-index (Ferragina and Vinciguerra, 2020). What all keys of
the table begin with is ``prefix``; the 8 bytes after it, filled up with zeros, are the head of a
separator, a number. ``heads`` are all of them as u64 in planes, the lowest byte of every number
first; they ascend, but need not differ. A separator that its head does not tell, as it is longer
or ends with a zero, is in ``long`` by the number of its block. Lines in pieces say about where a
head belongs: piece ``i`` begins with head ``starts[i]``, at that height, and rises by ``slopes[i]``
for each 1 of head.

The bound. Let ``below(x)`` and ``upto(x)`` be how many heads are less than ``x``, and at most
``x``. The line ``f`` of a piece is made so that ``upto(h) - error <= f(h) <= below(h) + error`` for
each head ``h`` in it. Take any ``x``, a head or not, that is not below the first head of a piece
but below that of the next. Let ``h`` be the largest head up to ``x``, and ``g`` the head after it.
Lines do not fall, so ``f(x) >= f(h) >= upto(h) - error = upto(x) - error``. If ``g`` is in the
piece, ``f(x) <= f(g) <= below(g) + error = upto(x) + error``; if not, the next piece starts at
``upto(x)``, and ``f`` is cut off there. So ``upto(x)`` is always within ``error`` of ``f(x)``, and
a bisect of that stretch finds it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, pairwise
from operator import le, lt
from sys import getsizeof
from typing import Protocol

import msgspec
import numpy as np

from seerdb.errors import CorruptionError

ERROR = 32
"""Of lines when they are built: fewer pieces than with less, and a bisect of six steps."""
_HEAD = 8
_PIECE_MEMORY = 3 * (32 + 8)
"""Three numbers, and their places in lists."""
_LONG_SHARE = 8
"""A table in which more than one separator in so many is long is not learned."""
_LONG_PREFIX = 1024
"""Where all keys begin with more bytes than so many the index is learned in any case: else each
separator has them, and where keys are as long as blocks the index is as large as the table."""


class LearnedColumns(msgspec.Struct, frozen=True, array_like=True):
    """The learned form as it is stored; see the docstring of the module."""

    prefix: bytes
    heads: bytes
    long: dict[int, bytes]
    starts: list[int]
    slopes: list[float]
    error: int


class TableIndex(msgspec.Struct, frozen=True, array_like=True):
    """Where the blocks are: what separates them, the stored length of each, the last key of all."""

    separators: list[bytes]
    lengths: list[int]
    last_key: bytes
    learned: LearnedColumns | None = None


class BlockIndex(Protocol):
    """An index in memory. Immutable, so thread-safe."""

    rank: Callable[[bytes], int]
    """The number of separators up to a key."""
    separators: list[bytes] | None
    """For whoever bisects them without the call, if that is how it works."""
    memory: int
    """Bytes it costs."""

    def separator(self, number: int) -> bytes:
        """That of a block."""


def separators_of(
    first_keys: Sequence[bytes], last_keys: Sequence[bytes], before: bytes | None
) -> list[bytes]:
    """What separates blocks with these first and last keys; ``before``: the last key of the block
    before them, ``None`` where there is none."""
    if before is None:
        return [*first_keys[:1], *map(_separator, last_keys, first_keys[1:])]
    return list(map(_separator, (before, *last_keys[:-1]), first_keys))


def build_index(
    separators: list[bytes], last_key: bytes, lengths: list[int], *, learned: bool
) -> TableIndex:
    """The index of blocks that these separate. Not learned where heads tell too few of them apart,
    and in any case where all keys have much in common."""
    columns = None
    if separators and (learned or _common(separators[0], last_key) > _LONG_PREFIX):
        columns = _learn(separators, last_key)
    if columns is None:
        return TableIndex(separators, lengths, last_key)
    return TableIndex([], lengths, last_key, columns)


def open_index(index: TableIndex, *, name: str, offset: int) -> BlockIndex:
    """The index made ready. Raises ``CorruptionError`` when its columns do not fit together."""
    separators, columns, count = index.separators, index.learned, len(index.lengths)
    if columns is None:
        fits = len(separators) == count and all(map(lt, separators, separators[1:]))
    else:
        fits = _fit(columns, count)
    if not fits:
        raise CorruptionError("the index is malformed", name=name, offset=offset)
    return BisectedIndex(separators) if columns is None else LearnedIndex(columns)


class BisectedIndex:
    """The separators as they are."""

    __slots__ = ("memory", "rank", "separator", "separators")

    def __init__(self, separators: list[bytes]) -> None:
        self.separators: list[bytes] | None = separators
        self.separator = separators.__getitem__
        self.rank: Callable[[bytes], int] = partial(bisect_right, separators)
        self.memory = getsizeof(separators) + sum(map(getsizeof, separators))


class LearnedIndex:
    """Heads of separators, and lines that say about where each is."""

    __slots__ = ("_heads", "_long", "_prefix", "memory", "rank", "separators")

    def __init__(self, columns: LearnedColumns) -> None:
        """Requires: the columns fit together."""
        self.separators: list[bytes] | None = None
        self._prefix = columns.prefix
        self._heads = _from_planes(columns.heads)
        self._long = columns.long
        self.rank = _ranking(columns, self._heads)
        kept = (self._heads, self._long, *self._long.values())
        self.memory = sum(map(getsizeof, kept)) + len(columns.starts) * _PIECE_MEMORY

    def separator(self, number: int) -> bytes:
        """That of a block."""
        exact = self._long.get(number)
        if exact is not None:
            return exact
        return self._prefix + self._heads[number].to_bytes(_HEAD).rstrip(b"\0")


def _ranking(columns: LearnedColumns, heads: array[int]) -> Callable[[bytes], int]:
    """The rank of a key in a learned index; a closure, whose names are found sooner than fields."""
    prefix, error, count = columns.prefix, columns.error, len(heads)
    length, stop = len(prefix), len(prefix) + _HEAD
    ends, slopes, long = [*columns.starts, count], columns.slopes, columns.long
    piece_heads = [heads[start] for start in columns.starts]

    def rank(key: bytes) -> int:
        if key[:length] != prefix:
            return 0 if key < prefix else count
        head = int.from_bytes(key[length:stop].ljust(_HEAD, b"\0"))
        piece = bisect_right(piece_heads, head)
        if not piece:
            return 0
        end = ends[piece]
        about = ends[piece - 1] + int((head - piece_heads[piece - 1]) * slopes[piece - 1])
        if about > end:
            about = end
        low, high = about - error, about + error
        found = bisect_right(heads, head, low if low > 0 else 0, high if high < count else count)
        # A separator that its head tells is never above a key with this head.
        exact = long.get(found - 1)
        while exact is not None and exact > key:
            found -= 1
            exact = long.get(found - 1)
        return found

    return rank


def _separator(before: bytes, key: bytes) -> bytes:
    """The shortest prefix of ``key`` above ``before``, which is below ``key``."""
    return key[: _common(before, key) + 1]


def _common(a: bytes, b: bytes) -> int:
    """How many bytes both begin with."""
    size = min(len(a), len(b))
    differing = int.from_bytes(a[:size]) ^ int.from_bytes(b[:size])
    return size - (differing.bit_length() + 7) // 8


def _learn(separators: list[bytes], last_key: bytes) -> LearnedColumns | None:
    prefix = last_key[: _common(separators[0], last_key)]
    width = len(prefix) + _HEAD
    heads = [
        int.from_bytes(separator[len(prefix) : width].ljust(_HEAD, b"\0"))
        for separator in separators
    ]
    long = {
        number: separator
        for number, separator in enumerate(separators)
        if len(separator) > width or (len(separator) > len(prefix) and separator.endswith(b"\0"))
    }
    if max(len(list(same)) for _, same in groupby(heads)) > ERROR:
        return None
    if len(long) > 1 + len(heads) // _LONG_SHARE:
        return None
    starts, slopes = _pieces(heads)
    return LearnedColumns(prefix, _to_planes(heads), long, starts, slopes, ERROR)


def _pieces(heads: list[int]) -> tuple[list[int], list[float]]:
    """As few lines as a cone that shrinks from head to head finds.

    The line of a piece goes through its first head's ``below``. Each further head leaves a range of
    slopes; when none is left, the next piece begins. The 1 that is kept back of the error pays for
    computing with floats and for rounding down.
    """
    starts, slopes = [0], []
    start, low, high = 0, 0.0, float("inf")
    below = 0
    for upto in _ends_of_equal(heads):
        run = heads[below] - heads[start]
        if run:
            lowest = (upto - (ERROR - 1) - start) / run
            highest = (below + (ERROR - 1) - start) / run
            if max(low, lowest) > min(high, highest):
                slopes.append(_middle(low, high))
                starts.append(below)
                start, low, high = below, 0.0, float("inf")
            else:
                low, high = max(low, lowest), min(high, highest)
        below = upto
    slopes.append(_middle(low, high))
    return starts, slopes


def _ends_of_equal(heads: list[int]) -> list[int]:
    """``upto`` of each different head."""
    return [number for number, (a, b) in enumerate(pairwise(heads), 1) if a != b] + [len(heads)]


def _middle(low: float, high: float) -> float:
    return 0.0 if high == float("inf") else (low + high) / 2


def _to_planes(heads: list[int]) -> bytes:
    return np.array(heads, np.uint64).view(np.uint8).reshape(-1, _HEAD).T.tobytes()


def _from_planes(planes: bytes) -> array[int]:
    columns = np.frombuffer(planes, np.uint8).reshape(_HEAD, -1)
    return array("Q", columns.T.tobytes())


def _fit(columns: LearnedColumns, count: int) -> bool:
    starts = columns.starts
    return (
        len(columns.heads) == _HEAD * count
        and all(map(le, heads := _from_planes(columns.heads), heads[1:]))
        and starts[:1] == [0]
        and len(columns.slopes) == len(starts)
        and all(a < b for a, b in pairwise([*starts, count]))
        and all(0 <= slope <= count + columns.error for slope in columns.slopes)
        and columns.error > 0
        and all(0 <= number < count for number in columns.long)
    )
