"""The range read: how runs are cut into pieces, how far ahead it reads, what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from itertools import product
from typing import Any

import pytest

from seerdb.ids import MAX_SEQ
from seerdb.storage.entry import RangeTombstone
from seerdb.storage.memtable import Memtable
from seerdb.storage.object_store.names import table_name
from seerdb.storage.read import scan as module
from seerdb.storage.read.layout import Layout, TableRun
from seerdb.storage.read.scan import FIRST_READ, MAX_READAHEAD, Wanted, run_pieces, scan
from seerdb.storage.read.state import State
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.workers.threads import InlineExecutor
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.read.test_lookup import memtable_of
from tests.unit.storage.tables import layout_of, many, new_table_store, put_table

Bound = bytes | None


class Runs:
    """A bucket with one run of three tables with gaps between them."""

    def __init__(self, capacity: int = 1 << 20) -> None:
        self.store = MemoryObjectStore()
        self.tables = new_table_store(self.store, capacity)
        metas = [
            put_table(self.store, n + 1, many(60 * n, 60 * n + 40, seq=1 + 60 * n), run=1)
            for n in range(3)
        ]
        self.layout: Layout = layout_of(metas, self.tables)
        self.numbers = [n for n in range(180) if n % 60 < 40]
        self.store.calls.clear()

    @property
    def run(self) -> TableRun:
        return self.layout.runs[0]


def key(number: int) -> bytes:
    return b"key%04d" % number


def keys_in_pieces(
    run: TableRun, tables: TableStore, start: Bound, end: Bound, *, reverse: bool, limit: int | None
) -> list[bytes]:
    """The keys of all pieces; checks that a piece keeps what the frontiers promise."""
    found: list[bytes] = []
    told = end if reverse else start
    pieces = list(run_pieces(run, Wanted(start, end, reverse, limit), tables))
    assert [p.frontier for p in pieces if p.frontier is None] == [None] * bool(pieces)
    for chunk, frontier in pieces:
        keys = list(chunk.keys)
        low, high = (frontier, told) if reverse else (told, frontier)
        assert all((low is None or k >= low) and (high is None or k < high) for k in keys)
        assert keys == sorted(set(keys))
        assert len(keys) == len(chunk.seqs) == len(chunk.values)
        told = frontier
        found += keys[:: -1 if reverse else 1]
    return found


BOUNDS = [None, b"a", key(0), key(5), key(39), key(45), key(60), key(99) + b"\0", key(159), b"z"]


@pytest.mark.parametrize("limit", [1, 30, None])
@pytest.mark.parametrize("reverse", [False, True])
def test_every_range_of_a_run(limit: int | None, *, reverse: bool) -> None:
    place = Runs()
    for start, end in product(BOUNDS, BOUNDS):
        if start is not None and end is not None and start >= end:
            continue
        found = keys_in_pieces(place.run, place.tables, start, end, reverse=reverse, limit=limit)
        expected = [
            key(n)
            for n in place.numbers
            if (start is None or key(n) >= start) and (end is None or key(n) < end)
        ]
        assert found == expected[:: -1 if reverse else 1]


class Noted:
    """How many blocks each request of ``place`` was for, by the table."""

    def __init__(self, place: Runs) -> None:
        self.requests: list[tuple[str, int]] = []
        readers = {table_name(h.meta.id): place.tables.open(h) for h in place.run.handles}
        fetch = place.store.get_range

        def noted(name: str, offset: int, length: int) -> bytes:
            ranges = map(readers[name].block_range, range(readers[name].block_count))
            inside = [each for each in ranges if offset <= each[0] < offset + length]
            self.requests.append((name, len(inside)))
            return fetch(name, offset, length)

        place.store.get_range = noted  # type: ignore[method-assign]

    @property
    def blocks(self) -> list[int]:
        return [count for _, count in self.requests]


@pytest.mark.parametrize("reverse", [False, True])
def test_the_first_request_is_small_and_the_next_are_twice_as_large(*, reverse: bool) -> None:
    place = Runs(capacity=0)
    noted = Noted(place)
    pieces = run_pieces(
        place.run,
        Wanted(None, None, reverse, limit=1),
        place.tables,
    )
    assert noted.blocks == []
    next(pieces)
    assert noted.blocks == [2], "one row may lie in either"
    list(pieces)
    first, *rest = (handle.reader for handle in place.run.handles)
    assert first is not None
    assert all(reader is not None and reader.block_count == first.block_count for reader in rest)
    assert noted.blocks[:3] == [2, 4, first.block_count - 6]
    assert noted.blocks[3] == min(16, first.block_count), "it goes on growing in the next table"
    assert sum(noted.blocks) == 3 * first.block_count


@pytest.mark.parametrize("reverse", [False, True])
def test_a_limit_is_reached_by_one_request(*, reverse: bool) -> None:
    """Wherever it begins, and with no more than it may need."""
    place = Runs(capacity=0)
    noted = Noted(place)
    for number in range(15, 25):
        noted.requests.clear()
        bounds: tuple[Bound, Bound] = (None, key(number)) if reverse else (key(number), None)
        [first, *_] = (handle.reader for handle in place.run.handles)
        assert first is not None
        piece = next(
            run_pieces(
                place.run,
                Wanted(*bounds, reverse, limit=6),
                place.tables,
            )
        )
        assert len(piece.chunk.keys) >= 6
        assert noted.blocks == [1 + -(-6 * first.block_count // 40)]


def test_without_a_limit_the_first_request_is_worth_its_latency() -> None:
    place = Runs(capacity=0)
    noted = Noted(place)
    next(run_pieces(place.run, Wanted(key(1), None), place.tables))
    reader = place.tables.open(place.run.handles[0])
    assert reader.meta.tail_offset < FIRST_READ
    assert noted.blocks == [reader.block_count]


def test_what_is_in_memory_is_taken_a_block_at_a_time() -> None:
    """Columns of blocks that nobody asks for cost time, and no request has to be made."""
    place = Runs()
    list(run_pieces(place.run, Wanted(None, None), place.tables))
    noted = Noted(place)
    reader = place.tables.open(place.run.handles[0])
    piece = next(run_pieces(place.run, Wanted(None, None), place.tables))
    assert piece.frontier == reader.separator(1)
    assert noted.blocks == []


class Noting(InlineExecutor):
    """How many calls were made by it."""

    calls = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls += 1
        return super().submit(fn, *args, **kwargs)


def long_run(capacity: int = 0) -> tuple[TableRun, TableStore, Noting]:
    """Two tables of more blocks than some requests fetch."""
    store, executor = MemoryObjectStore(), Noting()
    metas = [
        put_table(store, number, many(start, start + 2400, seq=1), run=1)
        for number, start in enumerate((0, 2400), 1)
    ]
    tables = TableStore(store, cache=BlockCache(capacity), disk=None, fetchers=executor)
    return layout_of(metas, tables).runs[0], tables, executor


@pytest.mark.parametrize("reverse", [False, True])
def test_of_a_long_scan_the_next_request_is_made_before_one_is_used(*, reverse: bool) -> None:
    run, tables, executor = long_run()
    reader = tables.open(run.handles[0])
    assert reader.block_count > 5 * MAX_READAHEAD
    numbers: list[bytes] = []
    made = [0]
    for chunk, _ in run_pieces(run, Wanted(None, None, reverse), tables):
        numbers += chunk.keys[:: -1 if reverse else 1]
        made.append(executor.calls)
    assert numbers == [key(n) for n in range(4800)][:: -1 if reverse else 1]
    beginning = made.count(0)
    assert 2 <= beginning < 10, "at first nobody knows that it will be long"
    assert made[beginning:-1] == list(range(1, len(made) - beginning))
    assert made[-1] == made[-2], "all was asked for"


@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_read_ahead_is_bounded_however_large_blocks_are(
    monkeypatch: pytest.MonkeyPatch, *, reverse: bool
) -> None:
    """Blocks of one large value each, between many that are as small as usual."""
    most, large = 10_000, b"v" * 2000
    monkeypatch.setattr(module, "MAX_READAHEAD_BYTES", most)
    rows = many(0, 900, seq=1) | many(900, 999, seq=1, value=large)
    rows |= {b"l" + key: row for key, row in many(0, 900, seq=1).items()}
    store = MemoryObjectStore()
    tables = new_table_store(store, 0)
    [run] = layout_of([put_table(store, 1, rows)], tables).runs
    chunks = [piece.chunk for piece in run_pieces(run, Wanted(None, None, reverse), tables)]
    assert sorted(key for chunk in chunks for key in chunk.keys) == sorted(rows)
    sizes = [sum(len(key) + len(rows[key][1] or b"") for key in chunk.keys) for chunk in chunks]
    assert max(sizes) <= 1.1 * most
    assert max(len(chunk.keys) for chunk in chunks) > 100, "small ones come many at a time"


def test_nothing_is_asked_for_behind_a_limit() -> None:
    for limit in (1, 100, 400, 500, 1000, 3000):
        run, tables, executor = long_run()
        rows = requests = 0
        for chunk, _ in run_pieces(run, Wanted(key(3), None, limit=limit), tables):
            rows += len(chunk.keys)
            requests += 1
            if rows >= limit:
                break
        assert executor.calls <= requests - 1, limit
        assert limit < 3000 or executor.calls, limit


def test_a_long_scan_of_what_is_in_memory_asks_for_nothing() -> None:
    run, tables, executor = long_run(capacity=1 << 30)
    list(run_pieces(run, Wanted(None, None), tables))
    assert executor.calls
    executor.calls = 0
    list(run_pieces(run, Wanted(None, None), tables))
    assert executor.calls == 0


def test_what_should_not_fill_the_cache_does_not() -> None:
    place = Runs()
    for fill, blocks in ((False, 0), (True, 1)):
        list(
            run_pieces(
                place.run,
                Wanted(key(1), key(2), fill=fill),
                place.tables,
            )
        )
        reader = place.tables.open(place.run.handles[0])
        assert len([block for block in reader.slots if block is not None]) == blocks


def test_tables_beside_the_range_are_not_opened() -> None:
    place = Runs()
    list(run_pieces(place.run, Wanted(key(70), key(75)), place.tables))
    assert [handle.reader is not None for handle in place.run.handles] == [False, True, False]
    assert list(run_pieces(place.run, Wanted(key(45), key(50)), place.tables)) == []
    assert list(run_pieces(place.run, Wanted(b"z", None), place.tables)) == []


def rows_of(
    state: State, tables: TableStore, at: int = MAX_SEQ, *, reverse: bool = False
) -> dict[bytes, int]:
    """Living keys and their seqs, in the order of the scan."""
    found: dict[bytes, int] = {}
    for chunk in scan(state, at, Wanted(None, None, reverse), tables):
        rows = list(zip(*chunk, strict=True))[:: -1 if reverse else 1]
        found |= {k: seq for k, seq, value in rows if value is not None}
    return found


@pytest.mark.parametrize("reverse", [False, True])
def test_memtables_and_runs_are_one_view(*, reverse: bool) -> None:
    place = Runs()
    sealed = memtable_of(500, ("put", key(3), b"sealed"), ("delete", key(4), b""))
    active = memtable_of(501, ("put", key(3), b"active"), ("put", b"a", b"1"))
    state = State(active, (sealed,), place.layout)
    expected = {key(n): n + 1 for n in place.numbers} | {key(3): 501, b"a": 501}
    del expected[key(4)]
    assert rows_of(state, place.tables, reverse=reverse) == expected
    assert list(rows_of(state, place.tables, reverse=reverse)) == sorted(expected, reverse=reverse)
    assert rows_of(state, place.tables, 500)[key(3)] == 500
    assert b"a" not in rows_of(state, place.tables, 500)


def test_range_deletes_of_every_layer_hide_what_is_older() -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store)
    bottom = put_table(store, 1, many(0, 20, seq=1))
    ranges = put_table(store, 2, {key(2): (60, b"back")}, [RangeTombstone(key(0), key(5), 50)])
    layout = layout_of([bottom, ranges], tables)
    sealed = memtable_of(100, ("delete_range", key(10), key(15)), ("put", key(12), b"back"))
    active = memtable_of(101, ("delete_range", key(18), key(99)))
    state = State(active, (sealed,), layout)
    living = {2: 60, 12: 100} | {n: n + 1 for n in (5, 6, 7, 8, 9, 15, 16, 17)}
    assert rows_of(state, tables) == {key(n): seq for n, seq in sorted(living.items())}
    assert key(18) in rows_of(state, tables, 100)
    assert key(11) in rows_of(state, tables, 99)


def test_nothing_is_fetched_before_the_first_row_is_asked_for() -> None:
    place = Runs()
    state = State(Memtable([1]), (), place.layout)
    rows = scan(state, MAX_SEQ, Wanted(None, None), place.tables)
    assert place.store.calls.total() == 0
    next(rows)
    assert place.store.calls["get_range"] == 2
