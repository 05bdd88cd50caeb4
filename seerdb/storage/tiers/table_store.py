"""Tables as the engine sees them: handles that open, fetch and cache their parts.

A :class:`TableHandle` lives as long as anything refers to it, and so does what is cached of
it; :class:`TableStore` finds bytes in this order: block cache, disk tier, ranged GET. Bytes
from the disk tier that fail their checksum are dropped and fetched again from the bucket;
bytes from the bucket that fail are an error.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.ids import TableId
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import table_name
from seerdb.storage.sstable.block import Block
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.sstable.reader import TableReader
from seerdb.storage.tiers.disk_tier import DiskTier
from seerdb.storage.workers.pace import Pace, at_full_speed
from seerdb.storage.workers.threads import closed_meanwhile, side_by_side

T = TypeVar("T")
R = TypeVar("R")

TAIL = -1
"""The part of a table after its data blocks, as the disk tier numbers parts."""

MAX_RANGE = 4 << 20
"""Most bytes of one coalesced GET."""


class TableHandle:
    """A table of the bucket; ``reader`` is ``None`` until its tail has been fetched."""

    __slots__ = ("__weakref__", "meta", "reader")

    def __init__(self, meta: TableMeta) -> None:
        self.meta = meta
        self.reader: TableReader | None = None


BlockKey = tuple[TableHandle, int]
"""A handle and the number of a block in it."""


class TableStore:
    """Opens tables and loads their blocks. Thread-safe."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        cache: BlockCache,
        disk: DiskTier | None,
        fetchers: Executor,
        pass_over: bool = True,
    ) -> None:
        """``pass_over``: ranges are not looked for where a filter says that nothing is there."""
        self._store = store
        self._cache = cache
        self._disk = disk
        self._fetchers = fetchers
        self._pass_over = pass_over
        self._handles: weakref.WeakValueDictionary[TableId, TableHandle] = (
            weakref.WeakValueDictionary()
        )
        self._lock = threading.Lock()
        # Racing readers may lose a count.
        self.blocks_from_disk = 0
        """Single blocks, as point reads want them, that the disk tier had."""
        self.blocks_fetched = 0
        """Single blocks that came from the bucket."""

    def handle(self, meta: TableMeta) -> TableHandle:
        """The one living handle of a table."""
        with self._lock:
            handle = self._handles.get(meta.id)
            if handle is None:
                handle = self._handles[meta.id] = TableHandle(meta)
            return handle

    def known_reader(self, table: TableId) -> TableReader | None:
        """The reader of a table somebody has a handle of, if it was opened."""
        with self._lock:
            handle = self._handles.get(table)
        return handle.reader if handle is not None else None

    def readers(self) -> list[TableReader]:
        """Those of all tables that are open."""
        with self._lock:
            handles = list(self._handles.values())
        return [handle.reader for handle in handles if handle.reader is not None]

    @property
    def spare_memory(self) -> int:
        """Bytes of the block cache that are free."""
        return self._cache.spare

    def hot_blocks(self, reader: TableReader) -> list[int]:
        """Which blocks in memory have been asked for again, in order."""
        return self._cache.hot(reader)

    def live_objects(self) -> set[str]:
        """Names of tables that somebody may still read, and of the blobs they point into; they
        must not be deleted."""
        with self._lock:
            handles = list(self._handles.values())
        return {name for handle in handles for name in handle.meta.objects}

    def drop_cached(self, tables: Iterable[TableId]) -> None:
        """Forget what is cached of tables that left the version; a snapshot that still reads
        one fetches again."""
        for table in tables:
            reader = self.known_reader(table)
            if reader is not None:
                self._cache.forget(reader)
            if self._disk is not None:
                self._disk.drop(table)

    def open(self, handle: TableHandle) -> TableReader:
        """The reader of a table; fetches its tail the first time."""
        reader = handle.reader
        if reader is None:
            reader = self._open_from_disk(handle) or self._open_from_bucket(handle)
            with self._lock:
                reader = handle.reader = handle.reader or reader
        return reader

    def _open_from_disk(self, handle: TableHandle) -> TableReader | None:
        tail = self._disk.read(handle.meta.id, TAIL) if self._disk is not None else None
        if tail is None:
            return None
        try:
            return TableReader(handle.meta, tail)
        except CorruptionError:
            self._reject(handle)
            return None

    def _open_from_bucket(self, handle: TableHandle) -> TableReader:
        meta = handle.meta
        tail = self._fetch(meta, meta.tail_offset, meta.size)
        reader = TableReader(meta, tail)
        if self._disk is not None:
            self._disk.write(meta.id, TAIL, tail)
        return reader

    def block_span(
        self, reader: TableReader, start: bytes | None, end: bytes | None
    ) -> tuple[int, int]:
        """The first of the blocks that a read of ``[start, end)`` has to load, and the one after
        the last."""
        if self._pass_over and not reader.may_hold(start, end):
            return 0, 0
        return reader.block_span(start, end)

    def load(self, handle: TableHandle, number: int, *, fill: bool = True) -> Block:
        """One block, from wherever it is nearest. Unless ``fill``, nothing that is loaded for it
        is kept, in memory or on disk."""
        reader = self.open(handle)
        block = reader.slots[number]
        if block is not None:
            return block
        block = self._block_from_disk(handle, reader, number)
        if block is not None:
            self.blocks_from_disk += 1
        else:
            one = number, number + 1
            stored = self.fetch_blocks(handle, *one)
            [block] = self._decode(handle, reader, *one, stored, fill=fill)
            self.blocks_fetched += 1
        if fill:
            self._cache.admit(reader, number, block)
        return block

    def load_many(self, wanted: Iterable[BlockKey], *, fill: bool = True) -> dict[BlockKey, Block]:
        """As :meth:`load`, several blocks at once, fetched in parallel, neighbours by one GET."""
        numbers: dict[TableHandle, set[int]] = {}
        for handle, number in wanted:
            numbers.setdefault(handle, set()).add(number)
        stretches = [
            (handle, first, last)
            for handle, reader in zip(numbers, self.open_many(numbers), strict=True)
            for first, last in _stretches(reader, sorted(numbers[handle]))
        ]
        loaded = self.fetch_all(lambda each: self._load_stretch(*each, fill=fill), stretches)
        return {
            (handle, number): block
            for (handle, first, _), blocks in zip(stretches, loaded, strict=True)
            for number, block in enumerate(blocks, first)
        }

    def _load_stretch(
        self, handle: TableHandle, first: int, last: int, *, fill: bool
    ) -> list[Block]:
        if last - first == 1:
            return [self.load(handle, first, fill=fill)]
        slots = self.open(handle).slots
        cold = [number for number in range(first, last) if slots[number] is None]
        far = cold if self._disk is None else self._disk.lacks(handle.meta.id, cold)
        self.blocks_fetched += len(far)
        self.blocks_from_disk += len(cold) - len(far)
        return self.load_range(handle, first, last, fill=fill)

    def open_many(self, handles: Iterable[TableHandle]) -> list[TableReader]:
        """Several readers at once, their tails fetched in parallel."""
        closed = [handle for handle in handles if handle.reader is None]
        if len(closed) > 1:
            self.fetch_all(self.open, closed)
        return [self.open(handle) for handle in handles]

    def fetch_all(self, fetch: Callable[[T], R], wanted: Iterable[T]) -> list[R]:
        """``fetch`` of each, side by side on the shared threads; in order.

        Raises: what a call raises, or ``ClosedError`` when those threads have ended.
        """
        return side_by_side(self._fetchers, fetch, wanted)

    def fetch_ahead(self, handle: TableHandle, first: int, last: int) -> Future[bytes] | None:
        """:meth:`fetch_blocks` on the shared threads; ``None`` where that is not what a read of
        these blocks takes: some of them are nearer, there are none, or they are very large.

        Raises: ``ClosedError`` when those threads have ended.
        """
        reader = self.open(handle)
        numbers = range(first, last)
        if not numbers or self._gap_end(reader, [None] * len(numbers), first, 0) < len(numbers):
            return None
        is_near = any(reader.slots[number] is not None for number in numbers)
        if is_near or (
            self._disk and len(self._disk.lacks(handle.meta.id, numbers)) < len(numbers)
        ):
            return None
        try:
            return self._fetchers.submit(self.fetch_blocks, handle, first, last)
        except RuntimeError as error:
            raise closed_meanwhile() from error

    def load_range(
        self,
        handle: TableHandle,
        first: int,
        last: int,
        *,
        fill: bool,
        pace: Pace = at_full_speed,
        ahead: Future[bytes] | None = None,
    ) -> list[Block]:
        """Blocks ``first`` to ``last`` (exclusive); what is missing comes by one GET a gap, or was
        fetched ``ahead``. ``fill`` as for :meth:`load`; ``pace`` is kept after each block."""
        reader = self.open(handle)
        if ahead is None:
            loaded = self._gather(handle, reader, first, last, fill=fill, pace=pace)
        else:
            stored = ahead.result()
            loaded = self._decode(handle, reader, first, last, stored, fill=fill, pace=pace)
        if fill:
            for number, block in enumerate(loaded, first):
                if reader.slots[number] is None:
                    self._cache.admit(reader, number, block)
        return loaded

    def _gather(
        self,
        handle: TableHandle,
        reader: TableReader,
        first: int,
        last: int,
        *,
        fill: bool,
        pace: Pace,
    ) -> list[Block]:
        blocks: list[Block | None] = []
        for number in range(first, last):
            block = reader.slots[number] or self._block_from_disk(handle, reader, number)
            blocks.append(block)
            pace()
        position = 0
        while position < len(blocks):
            if blocks[position] is None:
                end = self._gap_end(reader, blocks, first, position)
                gap = first + position, first + end
                stored = self.fetch_blocks(handle, *gap)
                blocks[position:end] = self._decode(
                    handle, reader, *gap, stored, fill=fill, pace=pace
                )
            position += 1
        return [block for block in blocks if block is not None]

    def fetch_blocks(self, handle: TableHandle, first: int, last: int) -> bytes:
        """The stored bytes of blocks ``first`` to ``last`` (exclusive), at least one, by one GET,
        past all caches."""
        reader = self.open(handle)
        start, (offset, length) = reader.block_range(first)[0], reader.block_range(last - 1)
        return self._fetch(handle.meta, start, offset + length)

    def _fetch(self, meta: TableMeta, start: int, end: int) -> bytes:
        """The bytes of a table from ``start`` to ``end``, by one GET. Raises also
        ``CorruptionError`` when it is gone: nobody may take that for a key that is not there."""
        name = table_name(meta.id)
        try:
            return self._store.get_range(name, start, end - start)
        except NotFoundError as error:
            raise CorruptionError(
                f"the manifest names this table, but it is gone: {error}",
                name=name,
                hint="has another writer taken over? else restore the object from a backup",
            ) from error

    @staticmethod
    def _gap_end(reader: TableReader, blocks: list[Block | None], first: int, position: int) -> int:
        start = reader.block_range(first + position)[0]
        end = position + 1
        while end < len(blocks) and blocks[end] is None:
            offset, length = reader.block_range(first + end)
            if offset + length - start > MAX_RANGE:
                break
            end += 1
        return end

    def _decode(
        self,
        handle: TableHandle,
        reader: TableReader,
        first: int,
        last: int,
        stored: bytes,
        *,
        fill: bool,
        pace: Pace = at_full_speed,
    ) -> list[Block]:
        """The blocks whose bytes came from the bucket; for the disk tier, too, if ``fill``."""
        start = reader.block_range(first)[0]
        blocks = []
        for number, block in enumerate(reader.decode_blocks(first, last, stored), first):
            blocks.append(block)
            if fill and self._disk is not None:
                offset, length = reader.block_range(number)
                begin = offset - start
                self._disk.write(handle.meta.id, number, stored[begin : begin + length])
            pace()
        return blocks

    def not_on_disk(self, handle: TableHandle) -> list[int]:
        """The parts of a table that the disk tier lacks, in the order in which they lie."""
        if self._disk is None:
            return []
        return self._disk.lacks(handle.meta.id, (*range(self.open(handle).block_count), TAIL))

    def fetch_to_disk(self, handle: TableHandle, parts: Sequence[int]) -> None:
        """Bring the first of ``parts`` to the disk tier, and its neighbours among them, by one GET.
        What they hold is checked when it is read."""
        assert self._disk is not None
        meta, reader = handle.meta, self.open(handle)
        places: list[tuple[int, int, int]] = []
        for part in parts:
            tail = meta.tail_offset, meta.size - meta.tail_offset
            offset, length = tail if part == TAIL else reader.block_range(part)
            if places and not (
                offset == places[-1][1] and offset + length <= places[0][0] + MAX_RANGE
            ):
                break
            places.append((offset, offset + length, part))
        start = places[0][0]
        data = self._fetch(meta, start, places[-1][1])
        for begin, end, part in places:
            self._disk.write(meta.id, part, data[begin - start : end - start])

    def _block_from_disk(
        self, handle: TableHandle, reader: TableReader, number: int
    ) -> Block | None:
        stored = self._disk.read(handle.meta.id, number) if self._disk is not None else None
        if stored is None:
            return None
        try:
            return reader.decode_block(number, stored)
        except CorruptionError:
            self._reject(handle)
            return None

    def _reject(self, handle: TableHandle) -> None:
        if self._disk is not None:
            self._disk.reject(handle.meta.id)


def _stretches(reader: TableReader, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first of neighbours among ``numbers``, which ascend, and the one after the last: each
    what one GET should fetch."""
    first = last = numbers[0]
    for number in numbers:
        offset, length = reader.block_range(number)
        is_near = offset + length - reader.block_range(first)[0] <= MAX_RANGE
        if number > last or (number > first and not is_near):
            yield first, last
            first = number
        last = number + 1
    yield first, last
