"""The point read over memtables and runs: what it finds, what it needs, what it never touches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.ids import MAX_SEQ
from seerdb.storage.entry import RangeTombstone
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.memtable import Memtable
from seerdb.storage.read.layout import Layout
from seerdb.storage.read.lookup import Loaded, Need, find, find_in_tables, find_many, load
from seerdb.storage.read.state import State
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.value import Version
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.tables import Rows, layout_of, many, new_table_store, put_table
from tests.unit.storage.test_batch import batch_of
from tests.unit.storage.test_entry import naive

KEYS = [b"a", b"b", b"c", b"d", b"e"]


def get(layout: Layout, tables: TableStore, key: bytes, at: int = MAX_SEQ) -> Version | None:
    """Look up past the memtables, loading whatever is needed."""
    loaded: Loaded = {}
    while isinstance(found := find_in_tables(layout, key, at, loaded), Need):
        load(found, layout, tables, loaded)
    return found


def two_runs(store: MemoryObjectStore) -> list[TableMeta]:
    old: Rows = {b"a": (1, b"old"), b"b": (2, b"old"), b"c": (3, b"old")}
    new: Rows = {b"a": (4, b"new"), b"b": (5, None), b"d": (6, b"new")}
    return [put_table(store, 1, old), put_table(store, 2, new)]


def test_the_newest_run_wins() -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store)
    layout = layout_of(two_runs(store), tables)
    assert get(layout, tables, b"a") == (4, b"new")
    assert get(layout, tables, b"b") == (5, None), "deleted"
    assert get(layout, tables, b"c") == (3, b"old")
    assert get(layout, tables, b"d") == (6, b"new")
    assert (
        get(layout, tables, b"0") is get(layout, tables, b"bb") is get(layout, tables, b"z") is None
    )


def test_needs_are_told_one_after_the_other() -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store)
    layout = layout_of(two_runs(store), tables)
    needs = []
    while isinstance(found := find_in_tables(layout, b"c"), Need):
        needs.append((found.handle.meta.id if found.handle else None, found.block))
        load(found, layout, tables, {})
    assert found == (3, b"old")
    ids = [run.handles[0].meta.id for run in layout.runs]
    assert needs[0] == (ids[0], -1), "the tail of the newer run"
    assert needs[-2:] == [(ids[1], -1), (ids[1], 0)]
    assert find_in_tables(layout, b"c") == (3, b"old"), "now from memory"


def test_a_key_out_of_every_range_needs_nothing() -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store)
    layout = layout_of([put_table(store, 1, many(10, 20, seq=1))], tables)
    store.calls.clear()
    assert find_in_tables(layout, b"a") is find_in_tables(layout, b"z") is None
    assert store.calls.total() == 0


def test_progress_does_not_depend_on_the_cache() -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store, capacity=0)
    layout = layout_of(two_runs(store), tables)
    assert get(layout, tables, b"c") == (3, b"old")
    assert isinstance(find_in_tables(layout, b"c"), Need)


def test_range_deletes_of_tables_hide_what_is_older() -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store)
    old = put_table(store, 1, {b"a": (1, b"1"), b"b": (2, b"2"), b"c": (9, b"3")})
    ranges = put_table(store, 2, {}, [RangeTombstone(b"a", b"d", 5)])
    layout = layout_of([old, ranges], tables)
    assert layout.tombstones is None, "not loaded yet"
    assert get(layout, tables, b"a") is get(layout, tables, b"b") is None
    assert get(layout, tables, b"c") == (9, b"3")
    assert get(layout, tables, b"a", 4) == (1, b"1")
    assert get(layout, tables, b"c", 4) is None


def test_the_border_of_two_tables_that_a_range_delete_spans() -> None:
    """The first ends, exclusively, at the key with which the second begins. It was taken for
    the one that holds the key, and older runs answered."""
    store = MemoryObjectStore()
    tables = new_table_store(store)
    older = put_table(store, 1, {b"m": (1, b"stale")}, run=1)
    left = put_table(store, 2, {b"a": (7, b"a")}, [RangeTombstone(b"a", b"m", 5)], run=2)
    right = put_table(store, 3, {b"m": (8, b"m")}, [RangeTombstone(b"m", b"z", 5)], run=2)
    assert left.largest == right.smallest == b"m"
    layout = layout_of([older, left, right], tables)
    assert get(layout, tables, b"m") == (8, b"m")
    assert get(layout, tables, b"a") == (7, b"a")
    assert find_many(State(Memtable([9]), (), layout), [b"m"], MAX_SEQ, tables, {}) == [(8, b"m")]


def test_every_key_of_a_run_of_several_tables() -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store)
    metas = [
        put_table(store, n + 1, many(30 * n, 30 * n + 20, seq=1 + 30 * n), run=1) for n in range(4)
    ]
    layout = layout_of(metas, tables)
    assert len(layout.runs) == 1
    for number in range(120):
        found = get(layout, tables, b"key%04d" % number)
        assert found == ((number + 1, b"v" * 30) if number % 30 < 20 else None)


def memtable_of(seq: int, *operations: tuple[str, bytes, bytes]) -> Memtable:
    memtable = Memtable([seq])
    batch = batch_of(list(operations)).normalised()
    memtable.apply(seq, batch.kinds, batch.keys, batch.values)
    return memtable


def test_memtables_come_before_tables_and_newer_ones_before_older() -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store)
    layout = layout_of([put_table(store, 1, {b"a": (1, b"1"), b"t": (2, b"2")})], tables)
    older = memtable_of(10, ("put", b"a", b"10"), ("put", b"s", b"10"))
    newer = memtable_of(11, ("put", b"a", b"11"), ("delete", b"s", b""))
    active = memtable_of(12, ("put", b"x", b"12"))
    state = State(active, (newer, older), layout)
    assert find(state, b"a") == (11, b"11")
    assert find(state, b"a", 10) == (10, b"10")
    assert find(state, b"s") == (11, None)
    assert find(state, b"x", 11) is None
    assert find_many(state, [b"t", b"a", b"s", b"none"], MAX_SEQ, tables, {})[:2] == [
        (2, b"2"),
        (11, b"11"),
    ]


@pytest.mark.parametrize("where", ["active", "sealed"])
def test_a_range_delete_in_a_memtable_hides_all_below(where: str) -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store)
    layout = layout_of([put_table(store, 1, {b"a": (1, b"1"), b"z": (2, b"2")})], tables)
    below = memtable_of(10, ("put", b"b", b"10"))
    ranged = memtable_of(11, ("delete_range", b"a", b"c"), ("put", b"aa", b"11"))
    empty = Memtable([99])
    state = (
        State(ranged, (below,), layout)
        if where == "active"
        else State(empty, (ranged, below), layout)
    )
    assert find_many(state, [b"a", b"aa", b"b", b"z"], MAX_SEQ, tables, {}) == [
        None,
        (11, b"11"),
        None,
        (2, b"2"),
    ]
    assert find_many(state, [b"a", b"aa", b"b"], 10, tables, {}) == [(1, b"1"), None, (10, b"10")]


def test_many_keys_of_many_blocks_are_loaded_once_each() -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store, capacity=0)
    layout = layout_of([put_table(store, 1, many(0, 100, seq=1))], tables)
    state = State(Memtable([1]), (), layout)
    store.calls.clear()
    keys = [b"key%04d" % number for number in (1, 1, 50, 51, 99, 200)]
    found = find_many(state, keys, MAX_SEQ, tables, {})
    assert found == [(n + 1, b"v" * 30) if n < 100 else None for n in (1, 1, 50, 51, 99, 200)]
    assert store.calls["get_range"] <= 1 + 4


def test_many_keys_load_tails_blocks_and_range_deletes_as_needed() -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store, capacity=0)
    metas = [
        put_table(store, 1, many(0, 40, seq=1)),
        put_table(store, 2, {b"key0001": (60, b"back")}, [RangeTombstone(b"key", b"key0020", 50)]),
    ]
    state = State(Memtable([1]), (), layout_of(metas, tables))
    keys = [b"key%04d" % number for number in (0, 1, 19, 20, 39, 40)]
    assert find_many(state, keys, MAX_SEQ, tables, {}) == [
        None,
        (60, b"back"),
        None,
        (21, b"v" * 30),
        (40, b"v" * 30),
        None,
    ]
    assert find_many(state, keys[:2], 49, tables, {}) == [(1, b"v" * 30), (2, b"v" * 30)]


SOURCES = st.dictionaries(st.sampled_from(KEYS), st.sampled_from([b"", b"1", None]), max_size=5)
RANGES = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS)).filter(lambda p: p[0] < p[1]),
    max_size=2,
)


@given(st.lists(st.tuples(SOURCES, RANGES), min_size=1, max_size=4))
def test_any_stack_of_tables_answers_as_the_history_does(
    history: list[tuple[dict[bytes, bytes | None], list[tuple[bytes, bytes]]]],
) -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store)
    metas, newest, every_range = [], {}, []
    for number, (source, ranges) in enumerate(history, 1):
        seq = 10 * number
        rows = {key: (seq + 1, value) for key, value in source.items()}
        tombstones = [RangeTombstone(start, end, seq) for start, end in ranges]
        newest.update(rows)
        every_range += tombstones
        if rows or tombstones:
            metas.append(put_table(store, number, rows, tombstones))
    layout = layout_of(metas, tables)
    for key in KEYS:
        row = newest.get(key)
        covered = row is not None and naive(every_range, key, MAX_SEQ) > row[0]
        expected = None if row is None or covered else row
        assert get(layout, tables, key) == expected
