"""What a merge reads: of each run the blocks in a range of keys, fetched ahead of where it is.

A bucket takes tens of milliseconds to answer, however little it is asked for, and a merge that
waited for each answer would do little else. So of every run the next stretch of blocks is on its
way while one is taken apart. Of all runs together that is about :data:`AHEAD_BYTES`, or, where
there are very many, a piece of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import NamedTuple, TypeAlias

from seerdb.storage.merge import Entries, Piece, clip
from seerdb.storage.read.layout import TableRun
from seerdb.storage.sstable.compressor import Payload
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.tiers.table_store import MAX_RANGE, TableHandle, TableStore

AHEAD_BYTES = 16 << 20

WINDOW_BLOCKS = 512
"""Blocks that are taken apart, joined and put into order at a time, of all runs together: about
eight megabytes of entries. Each call has a price, and so has memory that is new: ``KEPT`` in
``workers/allocator.py`` is four times as much."""

WINDOW_BYTES = 16 << 20
"""Of their keys and values, where blocks are larger than usual; but a block of each run."""

Decode: TypeAlias = Callable[[TableReader, int, int, Payload], Entries]
"""Makes entries of the stored bytes of a table's blocks, one at least, from a first up to, not
including, a last."""


class _Stretch(NamedTuple):
    """Blocks of a table, from ``first`` up to, not including, ``last``; all of the run below
    ``frontier`` is in them or before them (``None``: all)."""

    handle: TableHandle
    first: int
    last: int
    frontier: bytes | None


_Coming: TypeAlias = tuple[_Stretch, Future[bytes]] | None
"""What was asked for; ``None``: there is no more."""


class Inputs:
    """The blocks of ``runs`` that may hold keys in ``[start, end)``. For one thread; ``threads``
    make the requests."""

    def __init__(
        self,
        runs: Sequence[TableRun],
        start: bytes | None,
        end: bytes | None,
        tables: TableStore,
        threads: Executor,
    ) -> None:
        self._handles = [run.overlapping(start, end) for run in runs]
        share = max(1, len(runs))
        self._piece_blocks = max(1, WINDOW_BLOCKS // share)
        self._piece_bytes = WINDOW_BYTES // share
        self._start = start
        self._end = end
        self._tables = tables
        self._threads = threads

    def sources(self, decode: Decode[Entries]) -> list[Iterator[Piece[Entries]]]:
        """One for each run. Their first requests are under way, side by side, when this returns;
        taking a piece raises what a request raises."""
        self._tables.open_many([handle for handles in self._handles for handle in handles])
        stretches = [self._stretches(handles) for handles in self._handles]
        coming = [self._ask(each) for each in stretches]
        return [self._pieces(*each, decode) for each in zip(coming, stretches, strict=True)]

    def _stretches(self, handles: Sequence[TableHandle]) -> Iterator[_Stretch]:
        """As many pieces each as are worth a request."""
        size = min(MAX_RANGE, AHEAD_BYTES // (2 * len(self._handles)))
        for position, handle in enumerate(handles, 1):
            reader = self._tables.open(handle)
            beyond = handles[position].meta.smallest if position < len(handles) else None
            first, end = self._tables.block_span(reader, self._start, self._end)
            while first < end:
                last = self._piece_end(reader, first, end)
                while last < end:
                    following = self._piece_end(reader, last, end)
                    if _stored(reader, first, following) > size:
                        break
                    last = following
                yield _Stretch(handle, first, last, _frontier(reader, last, end, beyond))
                first = last

    def _piece_end(self, reader: TableReader, first: int, end: int) -> int:
        """The block after the piece that begins with ``first``."""
        fitting = reader.stretch_end(first, self._piece_bytes)
        return min(first + self._piece_blocks, fitting, end)

    def _ask(self, stretches: Iterator[_Stretch]) -> _Coming:
        stretch = next(stretches, None)
        if stretch is None:
            return None
        handle, first, last, _ = stretch
        return stretch, self._threads.submit(self._tables.fetch_blocks, handle, first, last)

    def _pieces(
        self, coming: _Coming, stretches: Iterator[_Stretch], decode: Decode[Entries]
    ) -> Iterator[Piece[Entries]]:
        while coming is not None:
            (handle, first, end, frontier), asked = coming
            stored = memoryview(asked.result())
            coming = self._ask(stretches)
            reader = self._tables.open(handle)
            while first < end:
                last = self._piece_end(reader, first, end)
                size = _stored(reader, first, last)
                chunk = decode(reader, first, last, stored[:size])
                stored = stored[size:]
                yield Piece(
                    clip(chunk, self._start, self._end), _frontier(reader, last, end, frontier)
                )
                first = last


def _stored(reader: TableReader, first: int, last: int) -> int:
    """Bytes of the blocks from ``first`` up to, not including, ``last``."""
    return sum(reader.block_range(last - 1)) - reader.block_range(first)[0]


def _frontier(reader: TableReader, block: int, end: int, beyond: bytes | None) -> bytes | None:
    """Below what all is told with the blocks before ``block``: ``beyond``, where that is the
    ``end``."""
    return beyond if block == end else reader.separator(block)
