"""The range read: sources for a merge, from memtables and runs, and what a scan shows of it.

A scan sees the state and seq it started with, whatever is written meanwhile. Blocks that are
not in memory are fetched ahead: at first what a short scan needs, which then is one request a
run, and then twice as many each time, from table to table; of a long scan the next are on their
way while some are used. The first fetches of all runs, which every scan needs, are made side by
side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from seerdb.storage.entry import DELETE, PUT, RangeTombstones
from seerdb.storage.merge import EMPTY, Chunk, Piece, clip, collapse, windows
from seerdb.storage.read.layout import TableRun
from seerdb.storage.read.state import State
from seerdb.storage.sstable.block import Block, Columns
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.tiers.table_store import TableHandle, TableStore
from seerdb.storage.value import Value

MAX_READAHEAD = 64
"""Most blocks fetched by one request of a scan."""

MAX_READAHEAD_BYTES = 4 << 20
"""Most bytes of keys and values in them, where blocks are larger than usual; but one block."""

FIRST_READ = 64 << 10
"""Bytes that the first request of a scan without a limit fetches of a run: a store answers it
hardly later than one for less."""


class Wanted(NamedTuple):
    """What a scan is after: ``[start, end)``, or its last keys if ``reverse``, and how many rows
    at most, which is a hint. What it loads is kept in the caches if ``fill``. ``keys_only``: values
    are not looked at."""

    start: bytes | None
    end: bytes | None
    reverse: bool = False
    limit: int | None = None
    fill: bool = True
    keys_only: bool = False


def scan(state: State, at: int, wanted: Wanted, tables: TableStore) -> Iterator[Chunk]:
    """What is ``wanted`` as of ``at``, newest versions only, a chunk at a time.

    Deleted keys are in the chunks with a value of ``None``; what is merged is stacked, not
    folded. Chunks come in the direction of the scan; inside, keys ascend. Requires: as for
    :func:`~seerdb.storage.read.lookup.find`.
    """
    start, end, reverse, *_ = wanted
    sources = [
        memtable.pieces(start, end, at, reverse=reverse)
        for memtable in state.memtables
        if memtable.newest
    ]
    runs = [run for run in state.layout.runs if run.overlapping(start, end)]
    sources += _begin(runs, wanted, tables)
    tombstones = _tombstones(state, tables)
    special = state.special
    for window in windows(sources, EMPTY, reverse=reverse):
        if wanted.fill:
            state.layout.rows.fit()
        chunk = collapse(window, tombstones, at, special=special)
        if chunk.keys:
            yield chunk


def _begin(
    runs: list[TableRun], wanted: Wanted, tables: TableStore
) -> list[Iterator[Piece[Chunk]]]:
    """The sources of runs. Where several must fetch first, they have done so, side by side."""
    sources = [run_pieces(run, wanted, tables) for run in runs]
    if len(runs) < 2:
        return sources
    cold = [
        position for position, run in enumerate(runs) if not _begins_in_memory(run, wanted, tables)
    ]
    if len(cold) > 1:
        firsts = tables.fetch_all(next, [sources[position] for position in cold])
        for position, first in zip(cold, firsts, strict=True):
            sources[position] = chain((first,), sources[position])
    return sources


def _begins_in_memory(run: TableRun, wanted: Wanted, tables: TableStore) -> bool:
    start, end, reverse, *_ = wanted
    reader = run.overlapping(start, end)[-1 if reverse else 0].reader
    if reader is None:
        return False
    first, last = tables.block_span(reader, start, end)
    return first == last or reader.slots[last - 1 if reverse else first] is not None


def _tombstones(state: State, tables: TableStore) -> RangeTombstones:
    combined = state.layout.load_tombstones(tables)
    for memtable in reversed(state.memtables):
        if memtable.ranged:
            combined = combined.read_under(memtable.tombstones)
    return combined


class _Request(NamedTuple):
    """Neighbouring blocks of a table, or none, with which all up to ``frontier`` is told.
    ``goes_on``: so much was wanted that what follows will be, too."""

    handle: TableHandle
    first: int
    last: int
    frontier: bytes | None
    goes_on: bool = False


def run_pieces(run: TableRun, wanted: Wanted, tables: TableStore) -> Iterator[Piece[Chunk]]:
    """The entries of a run that are ``wanted``, as a source for a merge."""
    start, end, *_ = wanted
    requests = _requests(run, wanted, tables)
    request, ahead = next(requests, None), None
    while request is not None:
        handle, first, last, frontier, goes_on = request
        blocks = tables.load_range(handle, first, last, fill=wanted.fill, ahead=ahead)
        following = ahead = None
        if goes_on and (following := next(requests, None)) is not None:
            ahead = tables.fetch_ahead(following.handle, following.first, following.last)
        yield Piece(clip(chunk_of(blocks), start, end), frontier)
        request = following if goes_on else next(requests, None)


def _requests(run: TableRun, wanted: Wanted, tables: TableStore) -> Iterator[_Request]:
    """What to load of a run, in the direction of the scan."""
    start, end, reverse, *_ = wanted
    ahead = _Readahead(wanted)
    handles = run.overlapping(start, end)
    if reverse:
        handles.reverse()
    for position, handle in enumerate(handles):
        is_last = position == len(handles) - 1
        reader = tables.open(handle)
        beyond = (
            None if is_last else handle.meta.smallest if reverse else _next_start(handles, position)
        )
        first, last = tables.block_span(reader, start, end)
        for low, high in ahead.steps(reader, first, last):
            ends = low == first if reverse else high == last
            frontier = beyond if ends else reader.separator(low if reverse else high)
            yield _Request(handle, low, high, frontier, ahead.goes_on)
        if first == last:
            yield _Request(handle, first, last, beyond)


def _next_start(handles: list[TableHandle], position: int) -> bytes:
    return handles[position + 1].meta.smallest


class _Readahead:
    """How much of a run is taken by the next request: at first one block, or, where it is not in
    memory, what is worth a request; then twice as much each time."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._blocks = 1
        self._taken = -1  # the scan may begin at the end of a block
        self.goes_on = False
        """Whether so much was taken that the scan is a long one, and there is more to it."""

    def steps(self, reader: TableReader, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The blocks ``[first, last)`` of the next table, in the direction of the scan."""
        reverse = self._wanted.reverse
        while first < last:
            if reader.slots[last - 1 if reverse else first] is None:
                self._blocks = max(self._blocks, self._least(reader))
            low, high = self._step(reader, first, last)
            self._taken += high - low
            self.goes_on = self._taken > 2 * MAX_READAHEAD and self._has_more(reader)
            self._blocks = min(2 * self._blocks, MAX_READAHEAD)
            first, last = (first, low) if reverse else (high, last)
            yield low, high

    def _step(self, reader: TableReader, first: int, last: int) -> tuple[int, int]:
        if self._wanted.reverse:
            fitting = reader.stretch_start(last, MAX_READAHEAD_BYTES)
            return max(first, last - self._blocks, fitting), last
        fitting = reader.stretch_end(first, MAX_READAHEAD_BYTES)
        return first, min(last, first + self._blocks, fitting)

    def _has_more(self, reader: TableReader) -> bool:
        limit = self._wanted.limit
        return limit is None or limit * reader.block_count > self._taken * reader.meta.entries

    def _least(self, reader: TableReader) -> int:
        """How many blocks a request is worth that has to be made anyway."""
        meta, limit = reader.meta, self._wanted.limit
        if limit is None:
            blocks = FIRST_READ * reader.block_count // meta.tail_offset
        else:
            # They begin anywhere in the first block.
            blocks = 1 + -(-limit * reader.block_count // meta.entries)
        return max(1, min(blocks, MAX_READAHEAD))


def chunk_of(blocks: Sequence[Block]) -> Chunk:
    """The entries of neighbouring blocks."""
    columns = [block.columns() for block in blocks]
    keys = list(chain.from_iterable(each.keys for each in columns))
    seqs = list(chain.from_iterable(each.seqs for each in columns))
    values = list(chain.from_iterable(each.values for each in columns))
    kinds = b"".join(each.kinds for each in columns)
    if kinds.count(PUT) == len(kinds):
        return Chunk(keys, seqs, values)
    if any(block.special for block in blocks):
        return Chunk(keys, seqs, list(chain.from_iterable(map(_values, blocks, columns))))
    shown = [None if kind == DELETE else value for kind, value in zip(kinds, values, strict=True)]
    return Chunk(keys, seqs, shown)


def _values(block: Block, columns: Columns) -> Iterator[Value]:
    return map(block.decode, columns.kinds, columns.values)
