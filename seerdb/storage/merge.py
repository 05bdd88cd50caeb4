"""Merging sorted sources, a window of keys at a time, with bulk operations.

A source is an iterator of :class:`Piece`: a sorted chunk of columns and the *frontier* up to
which the source has now told everything. The window is the range below the lowest frontier;
what every source has in it is complete, so the window can be resolved as a whole: sorting
the keys of all sources, the newest first, finds the runs that are already sorted and leaves the
winner of each key in front. Memory is bounded by one chunk a source.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import chain, compress, islice
from operator import itemgetter, ne
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

from seerdb.ids import MAX_SEQ
from seerdb.storage.entry import RangeTombstones
from seerdb.storage.value import Value, is_open, stack


class Splits(Protocol):
    """Sorted entries that can be cut at a key."""

    def split(self, bound: bytes) -> tuple[Self, Self]:
        """Those below ``bound``, and the others."""


class Chunk(NamedTuple):
    """Sorted columns. ``values`` holds ``None`` for a deleted key; keys are unique."""

    keys: Sequence[bytes]
    seqs: Sequence[int]
    values: Sequence[Value]

    def split(self, bound: bytes) -> tuple[Chunk, Chunk]:
        """The entries below ``bound``, and the others."""
        keys, seqs, values = self
        at = bisect_left(keys, bound)
        if at == len(keys):
            return self, EMPTY
        if at == 0:
            return EMPTY, self
        return Chunk(keys[:at], seqs[:at], values[:at]), Chunk(keys[at:], seqs[at:], values[at:])


EMPTY = Chunk([], [], [])

Entries = TypeVar("Entries", bound=Splits)


class Piece(NamedTuple, Generic[Entries]):
    """The next chunk of a source, and how far the source is told.

    Ascending: everything below ``frontier`` is told; descending: everything from ``frontier``
    up. ``None``: everything.
    """

    chunk: Entries
    frontier: bytes | None


def windows(
    sources: Sequence[Iterator[Piece[Entries]]], empty: Entries, *, reverse: bool = False
) -> Iterator[list[Entries]]:
    """Cut the sources into windows of keys; each has what every source holds there.

    The chunks of a window are in the order of ``sources``; keys inside ascend even when
    ``reverse``, only the windows then descend. A source that is at its end has ``empty``.
    """
    held = [next(source, Piece(empty, None)) for source in sources]
    while True:
        frontiers = [piece.frontier for piece in held if piece.frontier is not None]
        if not frontiers:
            yield [piece.chunk for piece in held]
            return
        bound = max(frontiers) if reverse else min(frontiers)
        window = []
        for position, piece in enumerate(held):
            low, high = piece.chunk.split(bound)
            inside, rest = (high, low) if reverse else (low, high)
            window.append(inside)
            held[position] = Piece(rest, piece.frontier)
        yield window
        # Only now: a source may have to fetch, and whoever takes the windows may have enough.
        for position, piece in enumerate(held):
            if piece.frontier == bound:
                held[position] = next(sources[position], Piece(empty, None))


def collapse(
    window: list[Chunk], tombstones: RangeTombstones, at: int = MAX_SEQ, *, special: bool = False
) -> Chunk:
    """The newest version of each key of a window; deleted ones keep a value of ``None``.

    Requires: for one key, an earlier chunk holds a higher seq than a later one. What a range
    tombstone (not above ``at``) hides is left out altogether. ``special``: there may be open
    merges, which are stacked onto what is under them.
    """
    filled = [chunk for chunk in window if chunk.keys]
    if not filled:
        return EMPTY
    if len(filled) == 1:
        merged = filled[0]
    else:
        merged = _in_order(filled)
        merged = _newest(_stacked(merged, tombstones, at) if special else merged)
    return _without_covered(merged, tombstones, at) if tombstones else merged


def _in_order(filled: list[Chunk]) -> Chunk:
    """All versions by key, those of one key newest first; ``filled`` has several chunks."""
    keys: Sequence[bytes] = list(chain.from_iterable(chunk.keys for chunk in filled))
    # Stable, so that of equal keys the newest stays first; and it finds the sorted runs.
    order = sorted(range(len(keys)), key=keys.__getitem__)
    in_order = itemgetter(*order)
    keys = in_order(keys)
    seqs = in_order(list(chain.from_iterable(chunk.seqs for chunk in filled)))
    values = in_order(list(chain.from_iterable(chunk.values for chunk in filled)))
    return Chunk(keys, seqs, values)


def _stacked(chunk: Chunk, tombstones: RangeTombstones, at: int) -> Chunk:
    """The same, where the newest version of each key holds all that was found of its value."""
    keys, _, values = chunk
    stacked = list(values)
    for position, value in enumerate(values):
        if is_open(value) and (position == 0 or keys[position - 1] != keys[position]):
            stacked[position] = _stacked_at(chunk, position, tombstones, at)
    return chunk._replace(values=stacked)


def _stacked_at(chunk: Chunk, newest: int, tombstones: RangeTombstones, at: int) -> Value:
    keys, seqs, values = chunk
    key, value = keys[newest], values[newest]
    covered = tombstones.covering(key, at)
    for position in range(newest + 1, len(keys)):
        if keys[position] != key or not is_open(value):
            break
        value = stack(value, values[position] if seqs[position] >= covered else None)
    return value


def _newest(chunk: Chunk) -> Chunk:
    """The first version of each key."""
    keys, seqs, values = chunk
    is_first = [True, *map(ne, keys, islice(keys, 1, None))]
    if all(is_first):
        return Chunk(keys, seqs, values)
    return Chunk(*(list(compress(column, is_first)) for column in (keys, seqs, values)))  # type: ignore[arg-type]


def _without_covered(chunk: Chunk, tombstones: RangeTombstones, at: int) -> Chunk:
    keys, seqs, values = chunk
    hidden = tombstones.hidden(keys, seqs, at)
    if not hidden:
        return chunk
    shown = [position not in hidden for position in range(len(keys))]
    return Chunk(*(list(compress(column, shown)) for column in (keys, seqs, values)))  # type: ignore[arg-type]


def uncovered(chunk: Chunk, tombstones: RangeTombstones) -> Chunk:
    """What no range tombstone hides of columns in any order."""
    if not tombstones:
        return chunk
    covering = tombstones.covering
    kept = [entry for entry in zip(*chunk, strict=True) if covering(entry[0], MAX_SEQ) <= entry[1]]
    if not kept:
        return EMPTY
    keys, seqs, values = zip(*kept, strict=True)
    return Chunk(list(keys), list(seqs), list(values))


def clip(chunk: Entries, start: bytes | None, end: bytes | None) -> Entries:
    """The part of ``chunk`` in ``[start, end)``."""
    if start is not None:
        chunk = chunk.split(start)[1]
    return chunk if end is None else chunk.split(end)[0]
