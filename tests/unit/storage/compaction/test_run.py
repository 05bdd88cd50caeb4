"""A merge as a job: what it keeps, what it drops, and how its outputs are cut."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import ClosedError, UnavailableError
from seerdb.ids import MAX_SEQ
from seerdb.storage.compaction import inputs as inputs_module
from seerdb.storage.compaction.ledger import check_merge
from seerdb.storage.compaction.plan import Plan
from seerdb.storage.compaction.run import CompactionJob, CompactionResult, run_compaction
from seerdb.storage.digest import NONE
from seerdb.storage.entry import RangeTombstone
from seerdb.storage.flush import uploads
from seerdb.storage.manifest.version import TableMeta, Version, check_version
from seerdb.storage.object_store.names import table_name
from seerdb.storage.pieces import Body
from seerdb.storage.value import Version as RowVersion
from seerdb.storage.workers.pace import at_full_speed
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.read.test_lookup import KEYS, RANGES, SOURCES, get
from tests.unit.storage.tables import (
    FORMAT,
    Rows,
    id_of,
    layout_of,
    many,
    new_table_store,
    put_table,
)
from tests.unit.storage.test_entry import naive


def merge(
    store: MemoryObjectStore,
    tables: list[TableMeta],
    *,
    bottom: bool,
    target_size: int = 1 << 30,
    outputs: int = 50,
    splits: tuple[bytes, ...] = (),
    requests: int = 1,
) -> list[TableMeta]:
    """Merge all runs of ``tables``, in parts; the outputs are valid as a run."""
    plan = plan_of(tables, bottom=bottom, target_size=target_size, splits=splits)
    made: list[TableMeta] = []
    dropped = NONE
    for number, (start, end) in enumerate(plan.parts):
        ids = tuple(id_of(1000 * (number + 1) + count) for count in range(outputs))
        job = CompactionJob(plan, start, end, ids, FORMAT, requests=requests)
        result: CompactionResult = run_compaction(job, CrashableFileSystem(), store, at_full_speed)
        assert [table.id for table in result.tables] == list(ids[: len(result.tables)])
        made += result.tables
        dropped += result.dropped
    assert all(table.digest for table in (*tables, *made))
    check_merge(tables, made, dropped)
    check_version(Version.of(made))
    for table in made:
        assert len(store.get(table_name(table.id))) == table.size
        assert (table.level, table.run) == (plan.level, plan.run)
    return made


def plan_of(
    tables: list[TableMeta], *, bottom: bool, target_size: int, splits: tuple[bytes, ...] = ()
) -> Plan:
    """The merge of all runs of ``tables`` into level 5, run 99."""
    return Plan(
        inputs=Version.of(tables).runs,
        level=5,
        run=99,
        table_size=target_size,
        bottom=bottom,
        move=False,
        splits=splits,
    )


def contents(store: MemoryObjectStore, tables: list[TableMeta]) -> dict[bytes, tuple[int, int]]:
    """Seq and kind of every entry of every table."""
    table_store = new_table_store(store)
    found: dict[bytes, tuple[int, int]] = {}
    for meta in tables:
        handle = table_store.handle(meta)
        blocks = table_store.load_range(handle, 0, table_store.open(handle).block_count, fill=False)
        for block in blocks:
            keys, seqs, kinds, _ = block.columns()
            found |= {k: (s, kind) for k, s, kind in zip(keys, seqs, kinds, strict=True)}
    return found


def tombstones_of(store: MemoryObjectStore, tables: list[TableMeta]) -> list[RangeTombstone]:
    table_store = new_table_store(store)
    readers = [table_store.open(table_store.handle(meta)) for meta in tables]
    return [tombstone for reader in readers for tombstone in reader.tombstones]


PUT, DELETE = 1, 2


def test_the_newest_version_of_each_key_stays() -> None:
    store = MemoryObjectStore()
    old = put_table(store, 1, {b"a": (1, b"1"), b"b": (2, b"1"), b"d": (3, b"1")})
    new = put_table(store, 2, {b"a": (4, b"2"), b"b": (5, None), b"c": (6, b"2")})
    for bottom in (False, True):
        [made] = merge(store, [old, new], bottom=bottom)
        expected = {b"a": (4, PUT), b"c": (6, PUT), b"d": (3, PUT)}
        if not bottom:
            expected[b"b"] = (5, DELETE)
        assert contents(store, [made]) == expected
        assert (made.entries, made.deletes) == (len(expected), 0 if bottom else 1)
        assert (made.smallest, made.largest) == (b"a", b"d")
        assert made.max_seq == 6


def test_range_tombstones_stay_unless_there_is_nothing_older() -> None:
    store = MemoryObjectStore()
    old = put_table(store, 1, {b"a": (1, b"1"), b"m": (2, b"1"), b"z": (3, b"1")})
    new = put_table(store, 2, {b"n": (6, b"2")}, [RangeTombstone(b"b", b"p", 5)])
    [made] = merge(store, [old, new], bottom=False)
    assert contents(store, [made]).keys() == {b"a", b"n", b"z"}
    assert tombstones_of(store, [made]) == [RangeTombstone(b"b", b"p", 5)]
    [made] = merge(store, [old, new], bottom=True)
    assert contents(store, [made]).keys() == {b"a", b"n", b"z"}
    assert (tombstones_of(store, [made]), made.range_deletes) == ([], 0)


def test_range_tombstones_that_newer_ones_hide_are_left_out() -> None:
    """A log that is trimmed again and again once carried each trim down to the bottom."""
    store = MemoryObjectStore()
    trims = [RangeTombstone(b"log/", b"log/%03d" % n, n) for n in range(1, 100)]
    rest = RangeTombstone(b"log/1", b"log/2", 50)
    inputs = [
        put_table(store, 1, {b"log/001": (1, b"1"), b"log/150": (2, b"1")}, trims[:50]),
        put_table(store, 2, {b"log/099": (98, b"1")}, [rest, *trims[50:]]),
    ]
    [made] = merge(store, inputs, bottom=False)
    assert tombstones_of(store, [made]) == [trims[-1], rest]
    assert contents(store, [made]) == {b"log/099": (98, PUT)}


def test_a_merge_of_tombstones_only() -> None:
    store = MemoryObjectStore()
    ranges = [RangeTombstone(b"b", b"p", 5), RangeTombstone(b"c", b"z", 4)]
    inputs = [put_table(store, 1, {b"a": (1, None)}), put_table(store, 2, {}, ranges)]
    [made] = merge(store, inputs, bottom=False)
    assert (contents(store, [made]), made.entries) == ({b"a": (1, DELETE)}, 1)
    assert sorted(tombstones_of(store, [made])) == ranges
    assert merge(store, inputs, bottom=True) == []
    assert store.list(table_name(id_of(1001))) == []


def test_everything_deleted_is_no_table() -> None:
    store = MemoryObjectStore()
    inputs = [
        put_table(store, 1, many(0, 50, seq=1)),
        put_table(store, 2, {}, [RangeTombstone(b"k", b"l", 99)]),
    ]
    assert merge(store, inputs, bottom=True) == []


def test_outputs_are_cut_at_the_target_size() -> None:
    store = MemoryObjectStore()
    inputs = [
        put_table(store, 1, many(0, 3000, seq=1)),
        put_table(store, 2, many(2500, 6000, seq=9000)),
    ]
    made = merge(store, inputs, bottom=True, target_size=20_000)
    assert len(made) > 5
    rows = contents(store, made)
    assert sorted(rows) == [b"key%04d" % number for number in range(6000)]
    assert rows[b"key2700"] == (9200, PUT)
    assert all(table.size > 15_000 for table in made[:-1])
    assert all(left.largest < right.smallest for left, right in pairwise(made))


def test_the_last_output_takes_the_rest_when_the_ids_are_used_up() -> None:
    store = MemoryObjectStore()
    inputs = [put_table(store, 1, many(0, 3000, seq=1)), put_table(store, 2, {b"z": (9999, b"")})]
    made = merge(store, inputs, bottom=True, target_size=5_000, outputs=2)
    assert len(made) == 2
    assert len(contents(store, made)) == 3001
    plan = plan_of(inputs, bottom=True, target_size=5_000)
    sizes = [table.size for table in inputs]
    assert CompactionJob.outputs_needed(plan, None, None) == 2 + 16 * sum(sizes) // 5_000
    assert CompactionJob.outputs_needed(plan, b"y", None) == 2 + 16 * sizes[1] // 5_000


def test_range_tombstones_are_cut_at_the_borders_of_outputs() -> None:
    store = MemoryObjectStore()
    spanning = RangeTombstone(b"key0000", b"key5000", 50)
    inside = RangeTombstone(b"key0001", b"key0002", 51)
    behind = RangeTombstone(b"zz", b"zzz", 52)
    inputs = [
        put_table(store, 1, {b"a": (1, b"old")}),
        put_table(store, 2, many(0, 5000, seq=1000), [spanning, inside, behind]),
    ]
    made = merge(store, inputs, bottom=False, target_size=20_000)
    assert len(made) > 3
    found = tombstones_of(store, made)
    for key in (b"key0000", b"key0001", b"key2500", b"key4999", b"key5000", b"zz", b"zzz", b"b"):
        for at in (49, 50, 51, 52, MAX_SEQ):
            assert naive(found, key, at) == naive([spanning, inside, behind], key, at)
    for table in made:
        mine = tombstones_of(store, [table])
        assert all(table.smallest <= t.start < t.end <= table.largest for t in mine)
    pieces = [t for t in found if t.seq == 50]
    assert [t.end for t in pieces[:-1]] == [t.start for t in pieces[1:]]
    assert len(pieces) == len(made)


def test_every_key_at_a_border_is_found_over_what_is_older() -> None:
    store = MemoryObjectStore()
    stale = put_table(store, 1, many(0, 5000, seq=1, value=b"stale"), run=1, level=6)
    inputs = [
        put_table(store, 2, many(0, 5000, seq=10_000), run=2),
        put_table(store, 3, {}, [RangeTombstone(b"key0000", b"key5000", 9_999)], run=3),
    ]
    made = merge(store, inputs, bottom=False, target_size=20_000)
    borders = [table.smallest for table in made[1:]]
    assert len(borders) > 3
    tables = new_table_store(store)
    layout = layout_of([stale, *made], tables)
    for key in borders:
        assert get(layout, tables, key) == (10_000 + int(key[3:]), b"v" * 30)


def test_inputs_are_left_as_they_are() -> None:
    store = MemoryObjectStore()
    inputs = [put_table(store, 1, many(0, 9, seq=1)), put_table(store, 2, many(5, 20, seq=50))]
    before = {info.name: store.get(info.name) for info in store.list("")}
    merge(store, inputs, bottom=True)
    assert {name: store.get(name) for name in before} == before
    assert store.calls["delete"] == 0


def test_parts_of_a_plan_together_are_the_whole() -> None:
    store = MemoryObjectStore()
    spanning = RangeTombstone(b"key0100", b"key2900", 50)
    inputs = [
        put_table(store, 1, many(0, 3000, seq=1)),
        put_table(store, 2, many(1000, 1500, seq=9000), [spanning]),
    ]
    splits = (b"key0500", b"key1200", b"key2950", b"x")
    whole = contents(store, merge(store, inputs, bottom=False))
    parts = merge(store, inputs, bottom=False, splits=splits)
    assert len(parts) == 4, "the last part holds nothing"
    assert contents(store, parts) == whole
    found = sorted(tombstones_of(store, parts))
    assert found == [
        RangeTombstone(b"key0100", b"key0500", 50),
        RangeTombstone(b"key0500", b"key1200", 50),
        RangeTombstone(b"key1200", b"key2900", 50),
    ]


def test_blocks_are_full_wherever_windows_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that overlap in a part of their keys, values of one size, a delete now and then."""
    monkeypatch.setattr(inputs_module, "WINDOW_BLOCKS", 3)
    store = MemoryObjectStore()
    expected: dict[bytes, tuple[int, int]] = {}
    inputs = []
    for run, numbers in enumerate((range(900, 3000, 3), range(0, 1700, 2), range(500, 1900)), 1):
        rows: dict[bytes, tuple[int, bytes | None]] = {}
        for number in numbers:
            key, seq = b"key%05d" % number, 10_000 * run + number
            rows[key] = seq, None if number % 97 == 0 else b"%02d" % run * 30
        inputs.append(put_table(store, run, rows))
        expected |= {key: (seq, PUT if value else DELETE) for key, (seq, value) in rows.items()}
    made = merge(store, inputs, bottom=False)
    assert contents(store, made) == expected
    living = {key: each for key, each in expected.items() if each[1] == PUT}
    made = merge(store, inputs, bottom=True)
    assert contents(store, made) == living
    [table] = made
    tables = new_table_store(store)
    handle = tables.handle(table)
    blocks = tables.load_range(handle, 0, tables.open(handle).block_count, fill=False)
    counts = [len(block.columns().keys) for block in blocks]
    assert set(counts[:-1]) == {FORMAT.block_size // (8 + 60)}


def test_requests_beside_the_work_change_nothing_of_it() -> None:
    store = MemoryObjectStore()
    inputs = [
        put_table(store, 1, many(0, 3000, seq=1)),
        put_table(store, 2, many(1000, 2000, seq=9000), [RangeTombstone(b"key01", b"key02", 50)]),
    ]
    objects = []
    for requests in (1, 8):
        made = merge(store, inputs, bottom=False, target_size=9000, requests=requests)
        assert len(made) > 5
        objects.append([(store.get(table_name(table.id)), table) for table in made])
    assert objects[0] == objects[1]


class Uploads(MemoryObjectStore):
    """Keeps an upload from ending before the merge has gone on; one that is ``broken`` fails."""

    def __init__(self) -> None:
        super().__init__()
        self.went_on = threading.Event()
        self.entered = threading.Semaphore(0)
        self.begun: list[str] = []
        self.under_way = self.most = 0
        self.broken = -1

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if self.begun:
            self.went_on.set()
        return super().get_range(name, offset, length)

    def put(self, name: str, data: Body) -> None:
        self.begun.append(name)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.entered.release()
        assert len(self.begun) > 1 or self.went_on.wait(60), "the merge waits for the upload"
        self.under_way -= 1
        if len(self.begun) == self.broken:
            raise UnavailableError("the bucket is away")
        super().put(name, data)


BEGIN = uploads.Uploads.begin


def uploading(monkeypatch: pytest.MonkeyPatch) -> tuple[Uploads, list[TableMeta]]:
    """Inputs that are fetched by many small requests. An upload that is begun is under way before
    the merge goes on, which may have fetched all there is when a thread comes late."""
    monkeypatch.setattr(inputs_module, "WINDOW_BLOCKS", 1)
    monkeypatch.setattr(inputs_module, "AHEAD_BYTES", 1)
    store = Uploads()
    monkeypatch.setattr(store, "put", partial(MemoryObjectStore.put, store))
    tables = [put_table(store, 1, many(0, 500, seq=1)), put_table(store, 2, many(0, 9, seq=600))]
    monkeypatch.setattr(store, "put", partial(Uploads.put, store))

    def begin(begun: uploads.Uploads, put: Callable[[], TableMeta]) -> None:
        BEGIN(begun, put)
        assert store.entered.acquire(timeout=60)

    monkeypatch.setattr(uploads.Uploads, "begin", begin)
    return store, tables


def test_a_merge_goes_on_while_a_table_is_uploaded(monkeypatch: pytest.MonkeyPatch) -> None:
    store, tables = uploading(monkeypatch)
    made = merge(store, tables, bottom=True, target_size=4000, requests=4)
    assert store.begun == [table_name(table.id) for table in made]
    assert len(made) > 3
    assert store.most == 1, "each takes as much memory as a table"


def test_a_merge_whose_upload_fails_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (1, 2):
        store, tables = uploading(monkeypatch)
        store.broken = broken
        with pytest.raises(UnavailableError, match="away"):
            merge(store, tables, bottom=True, target_size=4000, requests=4)
        assert len(store.begun) == broken, "what comes after it would be for nothing"
        assert not store.under_way


def test_a_merge_that_ends_early_leaves_nothing_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    store, tables = uploading(monkeypatch)
    plan = plan_of(tables, bottom=True, target_size=4000)
    job = CompactionJob(plan, None, None, tuple(map(id_of, range(50, 99))), FORMAT, requests=4)

    def until_an_upload(entries: int = 0) -> None:
        if entries and store.begun:
            store.went_on.set()
            raise ClosedError("enough")

    threads = set(threading.enumerate())
    with pytest.raises(ClosedError, match="enough"):
        run_compaction(job, CrashableFileSystem(), store, until_an_upload)
    assert len(store.begun) == 1
    assert not store.under_way
    assert set(threading.enumerate()) <= threads


def living(version: RowVersion | None) -> RowVersion | None:
    """``None`` for a deleted key, whether or not its delete is still there."""
    return version if version is not None and version[1] is not None else None


@given(
    st.lists(st.tuples(SOURCES, RANGES), min_size=2, max_size=5),
    st.integers(1, 5),
    st.lists(st.sampled_from(KEYS), max_size=3, unique=True).map(sorted),
)
def test_a_merge_of_the_oldest_changes_no_answer(
    history: list[tuple[dict[bytes, bytes | None], list[tuple[bytes, bytes]]]],
    count: int,
    splits: list[bytes],
) -> None:
    store = MemoryObjectStore()
    metas = []
    for number, (source, ranges) in enumerate(history, 1):
        rows: Rows = {key: (10 * number + 1, value) for key, value in source.items()}
        tombstones = [RangeTombstone(start, end, 10 * number) for start, end in ranges]
        if rows or tombstones:
            metas.append(put_table(store, number, rows, tombstones))
    chosen = metas[:count]
    if not chosen:
        return
    for bottom in (False, True):
        made = merge(store, chosen, bottom=bottom, target_size=1, splits=tuple(splits))
        tables = new_table_store(store)
        before, after = layout_of(metas, tables), layout_of([*metas[count:], *made], tables)
        for key in KEYS:
            assert living(get(after, tables, key)) == living(get(before, tables, key))
