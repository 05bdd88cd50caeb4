"""The range read: sources for a merge, from memtables and runs, and what a scan shows of it.

A scan sees the state and seq it started with, whatever is written meanwhile. Blocks that are
not in memory are fetched ahead: one at first, for a short scan is one request, then twice as
many each time. The first fetches of all runs, which every scan needs, are made side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from seerdb.storage.entry import DELETE, PUT, RangeTombstones
from seerdb.storage.layout import TableRun
from seerdb.storage.merge import EMPTY, Chunk, Entries, Piece, clip, collapse, windows
from seerdb.storage.sstable.block import Block, Columns
from seerdb.storage.state import State
from seerdb.storage.table_store import TableHandle, TableStore
from seerdb.storage.value import Value

MAX_READAHEAD = 64
"""Most blocks fetched by one request of a scan."""


def scan(
    state: State,
    start: bytes | None,
    end: bytes | None,
    at: int,
    tables: TableStore,
    *,
    reverse: bool,
) -> Iterator[Chunk]:
    """What is in ``[start, end)`` at ``at``, newest versions only, a chunk at a time.

    Deleted keys are in the chunks with a value of ``None``; what is merged is stacked, not
    folded. Chunks come in the direction of the scan; inside, keys ascend. Requires: as for
    :func:`~seerdb.storage.lookup.find`.
    """
    sources = [
        memtable.pieces(start, end, at, reverse=reverse)
        for memtable in state.memtables
        if memtable.entries
    ]
    runs = [run for run in state.layout.runs if run.overlapping(start, end)]
    sources += _begin(runs, start, end, tables, reverse=reverse)
    tombstones = _tombstones(state, tables)
    special = state.special
    for window in windows(sources, EMPTY, reverse=reverse):
        chunk = collapse(window, tombstones, at, special=special)
        if chunk.keys:
            yield chunk


def _begin(
    runs: list[TableRun],
    start: bytes | None,
    end: bytes | None,
    tables: TableStore,
    *,
    reverse: bool,
) -> list[Iterator[Piece[Chunk]]]:
    """The sources of runs. Where several must fetch first, they have done so, side by side."""
    sources = [run_pieces(run, start, end, tables, decoded, reverse=reverse) for run in runs]
    if len(runs) < 2:
        return sources
    cold = [
        position
        for position, run in enumerate(runs)
        if not _begins_in_memory(run, start, end, tables, reverse=reverse)
    ]
    if len(cold) > 1:
        firsts = tables.fetch_all(next, [sources[position] for position in cold])
        for position, first in zip(cold, firsts, strict=True):
            sources[position] = chain((first,), sources[position])
    return sources


def _begins_in_memory(
    run: TableRun, start: bytes | None, end: bytes | None, tables: TableStore, *, reverse: bool
) -> bool:
    reader = run.overlapping(start, end)[-1 if reverse else 0].reader
    if reader is None:
        return False
    first, last = tables.block_span(reader, start, end)
    return first == last or reader.slots[last - 1 if reverse else first] is not None


def _tombstones(state: State, tables: TableStore) -> RangeTombstones:
    combined = state.layout.load_tombstones(tables)
    for memtable in state.memtables:
        if memtable.ranged:
            combined = combined.with_added(memtable.tombstones.tombstones)
    return combined


def run_pieces(
    run: TableRun,
    start: bytes | None,
    end: bytes | None,
    tables: TableStore,
    decode: Callable[[list[Block]], Entries],
    *,
    reverse: bool = False,
    fill: bool = True,
    readahead: int = 1,
) -> Iterator[Piece[Entries]]:
    """The entries of a run in ``[start, end)`` as a source for a merge.

    ``decode`` makes a chunk of neighbouring blocks, or of none. ``readahead`` is how many blocks
    the first request fetches; ``fill`` whether fetched blocks go to the block cache.
    """
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
        for low, high in _requests(first, last, reverse=reverse, readahead=readahead):
            chunk = decode(tables.load_range(handle, low, high, fill=fill))
            if low == first or high == last:
                chunk = clip(chunk, start, end)
            ends = low == first if reverse else high == last
            yield Piece(chunk, beyond if ends else reader.separator(low if reverse else high))
        if first == last:
            yield Piece(decode([]), beyond)


def _next_start(handles: list[TableHandle], position: int) -> bytes:
    return handles[position + 1].meta.smallest


def _requests(first: int, last: int, *, reverse: bool, readahead: int) -> Iterator[tuple[int, int]]:
    while first < last:
        count = min(readahead, last - first)
        if reverse:
            yield last - count, last
            last -= count
        else:
            yield first, first + count
            first += count
        readahead = min(readahead * 2, MAX_READAHEAD)


def decoded(blocks: list[Block]) -> Chunk:
    """The entries of neighbouring blocks as one chunk."""
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
