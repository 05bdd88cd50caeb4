"""The point read: memtables, then runs from newest to oldest; the first version found wins.

:func:`find` never does I/O. When an answer needs a part of a table that is not in memory it
returns a :class:`Need`; the caller loads it and asks again, asks for many at once
(:func:`find_many`), or hands the read to a thread.
"""

from __future__ import annotations

from bisect import bisect_right

from seerdb.ids import MAX_SEQ
from seerdb.storage.read.layout import Layout
from seerdb.storage.read.state import State
from seerdb.storage.sstable.block import FINGERPRINT_SHIFT, Block
from seerdb.storage.sstable.filter import LOW_BITS, SECOND_SHIFT, key_hash
from seerdb.storage.tiers.table_store import BlockKey, TableHandle, TableStore
from seerdb.storage.value import Version, is_open, stack


class Need:
    """What must be loaded before a read can go on: a block, or (``NO_BLOCK``) a tail, or (no
    handle) the range tombstones of the layout, or (a ``seq``) the value in a blob of the version
    that was found, which has that seq."""

    __slots__ = ("block", "handle", "seq")

    def __init__(self, handle: TableHandle | None, block: int, seq: int = 0) -> None:
        self.handle = handle
        self.block = block
        self.seq = seq


NO_BLOCK = -1
_NEED_TOMBSTONES = Need(None, NO_BLOCK)

Loaded = dict[BlockKey, Block]
"""Blocks at hand beside the cache, so that progress never depends on the cache's capacity."""


class Trace:
    """How far a read went."""

    __slots__ = ("reached_tables",)

    def __init__(self) -> None:
        self.reached_tables = False


def find(
    state: State,
    key: bytes,
    at: int = MAX_SEQ,
    loaded: Loaded | None = None,
    *,
    skip: int = 0,
    trace: Trace | None = None,
) -> Version | Need | None:
    """The version of ``key`` visible at ``at``: ``None`` if it never was or is deleted.

    A deleted key may also come back as a version whose value is ``None``. What is merged comes
    stacked, not folded, and what has expired as it is. Requires: with ``at`` below the newest
    seq, the active memtable was pinned there; with range tombstones in the active memtable and
    no ``at``, the state lock is held. ``skip``: how many of the newest memtables to leave out.
    ``trace`` is told whether the tables were asked.
    """
    covered = 0
    for memtable in state.memtables[skip:] if skip else state.memtables:
        version = memtable.find(key, at)
        if memtable.ranged:
            covered = memtable.tombstones.covering(key, at)
        if version is not None:
            if version[0] < covered:
                return None
            if memtable.special and is_open(version[1]):
                below = state.memtables.index(memtable) + 1
                older = find(state, key, version[0] - 1, loaded, skip=below, trace=trace)
                return _onto(version, older)
            return version
        if covered:
            return None
    # A row is the newest version in the tables of the newest layout of its cache, so no other that
    # ``at`` may see is newer, also not in the tables of an older layout. There, what is deleted may
    # only have expired, and after the moment that is read.
    row = state.layout.rows.get(key)
    if row is not None and row[0] <= at and (row[1] is not None or not state.layout.special):
        return row
    if trace is not None:
        trace.reached_tables = True
    return find_in_tables(state.layout, key, at, loaded)


def _onto(newer: Version, older: Version | Need | None) -> Version | Need:
    """An open merge with what was found under it."""
    if isinstance(older, Need):
        return older
    return newer[0], stack(newer[1], None if older is None else older[1])


def find_in_tables(
    layout: Layout, key: bytes, at: int = MAX_SEQ, loaded: Loaded | None = None
) -> Version | Need | None:
    """As :func:`find`, past the memtables."""
    digest = key_hash(key)
    mask_number = digest & LOW_BITS
    for run in layout.runs:
        # By the smallest: the largest of a table with range tombstones may be the smallest of
        # the next, which then is the one that holds the key.
        position = bisect_right(run.smallest, key) - 1 if run.count > 1 else 0
        handle = run.handles[position]
        reader = handle.reader
        if reader is None:
            meta = handle.meta
            if meta.smallest <= key <= meta.largest:
                return Need(handle, NO_BLOCK)
            continue
        table_filter = reader.filter
        mask = table_filter.masks[mask_number]
        if (
            table_filter.words[digest % table_filter.count] & mask != mask
            or table_filter.second_words[(digest >> SECOND_SHIFT) % table_filter.second_count]
            & mask
            != mask
        ):
            continue
        separators = reader.separators
        number = (bisect_right(separators, key) if separators else reader.rank(key)) - 1
        if number < 0:
            continue
        block = reader.slots[number]
        if block is None:
            if key > reader.largest:
                continue
            block = loaded.get((handle, number)) if loaded else None
            if block is None:
                return Need(handle, number)
        else:
            block.visited = True
        version = block.find(key, digest >> FINGERPRINT_SHIFT, at)
        if version is None:
            continue
        return version if layout.plain else _whole(version, layout, key, at, loaded)
    return None


def _whole(
    version: Version, layout: Layout, key: bytes, at: int, loaded: Loaded | None
) -> Version | Need | None:
    """The newest version in the tables with what is under it, unless a range delete hides it."""
    if layout.tombstones is None:
        return _NEED_TOMBSTONES
    if layout.tombstones.covering(key, at) > version[0]:
        return None
    if is_open(version[1]):
        return _onto(version, find_in_tables(layout, key, version[0] - 1, loaded))
    return version


def load(
    need: Need, layout: Layout, tables: TableStore, loaded: Loaded, *, fill: bool = True
) -> None:
    """Load what a read needs; a block goes to ``loaded``, and to the caches if ``fill``."""
    if need.handle is None:
        layout.load_tombstones(tables)
    elif need.block < 0:
        tables.open(need.handle)
    else:
        loaded[need.handle, need.block] = tables.load(need.handle, need.block, fill=fill)


def find_many(
    state: State,
    keys: list[bytes],
    at: int,
    tables: TableStore,
    loaded: Loaded,
    *,
    fill: bool = True,
) -> list[Version | None]:
    """As :func:`find` for each key; what is not in memory is fetched in parallel, into ``loaded``,
    and kept in the caches if ``fill``."""
    found: list[Version | Need | None] = [find(state, key, at) for key in keys]
    waiting = [position for position, result in enumerate(found) if isinstance(result, Need)]
    while waiting:
        needs = [found[position] for position in waiting]
        _load_all(needs, state.layout, tables, loaded, fill=fill)
        for position in waiting:
            found[position] = find(state, keys[position], at, loaded)
        waiting = [position for position in waiting if isinstance(found[position], Need)]
    return [result for result in found if not isinstance(result, Need)]


def _load_all(
    needs: list[Version | Need | None],
    layout: Layout,
    tables: TableStore,
    loaded: Loaded,
    *,
    fill: bool,
) -> None:
    blocks: list[BlockKey] = []
    tails: list[TableHandle] = []
    for need in needs:
        if not isinstance(need, Need):
            continue
        if need.handle is None:
            layout.load_tombstones(tables)
        elif need.block < 0:
            tails.append(need.handle)
        else:
            blocks.append((need.handle, need.block))
    tables.open_many(dict.fromkeys(tails))
    loaded.update(tables.load_many(blocks, fill=fill))
