"""DB.ingest: many pairs at once, beside everything else that a database does."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from seerdb import DB, ClosedError, ConflictError, InvalidRequestError
from seerdb.storage.ingest import dump, sorting
from seerdb.storage.ingest import run as ingest
from seerdb.storage.object_store.local_store import LocalObjectStore
from tests.db.conftest import OpenDB
from tests.fixtures.database import ROOMY, World

Rows = dict[bytes, bytes]


def some(count: int, seed: int = 1) -> Rows:
    draw = random.Random(seed)
    return {b"%08x" % draw.getrandbits(32): draw.randbytes(60) for _ in range(count)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several runs and several tables of a few hundred rows."""
    monkeypatch.setattr(sorting, "SORT_MEMORY", 30_000)
    monkeypatch.setattr(dump, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(ingest, "TABLE_SIZE", 4000)


@pytest.mark.usefixtures("small")
def test_everything_is_there_under_one_seq_in_one_new_run() -> None:
    db = World(memtable_capacity=64 << 20).open()  # so large that nothing is merged yet
    rows = some(500)
    first = db.put(b"first", b"1")
    report = db.ingest(rows.items())
    assert (report.seq, report.entries) == (first + 1, len(rows))
    tables = db._engine.manifest.state.version.runs[0].tables
    assert [table.id for table in tables] == report.tables
    assert len(tables) > 5
    assert sum(table.size for table in tables) == report.bytes
    assert {(entry.key, entry.value) for entry in db.scan_entries()} == {
        (b"first", b"1"),
        *rows.items(),
    }
    assert {entry.seq for entry in db.scan_entries()} == {first, report.seq}
    assert db.visible_seq == report.seq
    assert db.verify().problems == []
    db.compact()
    assert {entry.seq for entry in db.scan_entries()} == {first, report.seq}
    assert db.put(b"last", b"1") == report.seq + 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("background", "beside"), [("inline", False), ("thread", True)])
def test_tables_are_uploaded_while_the_next_is_built_where_there_are_threads(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch, background: str, beside: bool
) -> None:
    db = open_db(background=background)
    rows = some(500)
    threads: set[str] = set()
    put = LocalObjectStore.put

    def noted(store: LocalObjectStore, *wanted: Any) -> None:
        threads.add(threading.current_thread().name.rpartition("_")[0])
        put(store, *wanted)

    with monkeypatch.context() as patch:
        patch.setattr(LocalObjectStore, "put", noted)
        db.ingest(rows.items())
    assert ("seerdb-transfer" in threads) == beside
    assert dict(db.scan()) == rows


def test_nothing_is_nothing() -> None:
    world = World()
    db = world.open()
    seq = db.put(b"a", b"1")
    number = db.statistics().manifest_number
    report = db.ingest([])
    assert (report.entries, report.bytes, report.tables, report.seq) == (0, 0, [], 0)
    assert (db.visible_seq, db.statistics().manifest_number) == (seq, number)


def test_of_equal_keys_the_last_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "SORT_MEMORY", 500)
    db = World().open()
    pairs = [(b"%d" % (number % 3), b"%d" % number) for number in range(50)]
    assert db.ingest(pairs).entries == 3
    assert dict(db.scan()) == {b"0": b"48", b"1": b"49", b"2": b"47"}


def test_it_is_newer_than_memtables_tables_and_range_deletes() -> None:
    db = World(**ROOMY).open()
    db.put(b"flushed", b"old")
    db.flush()
    db.put(b"in memory", b"old")
    db.delete(b"deleted")
    db.delete_range(b"r", b"s")
    keys = [b"flushed", b"in memory", b"deleted", b"range"]
    db.ingest((key, b"new") for key in keys)
    assert [db.get(key) for key in keys] == [b"new"] * 4
    db.delete(b"flushed")
    db.put(b"in memory", b"newer")
    db.delete_range(b"r", b"s")
    assert [db.get(key) for key in keys] == [None, b"newer", b"new", None]
    for verb in (db.flush, db.compact):
        verb()
        assert dict(db.scan()) == {b"in memory": b"newer", b"deleted": b"new"}


def test_it_is_newer_than_rows_that_are_kept_at_hand() -> None:
    db = World(**ROOMY).open()
    db.put(b"k", b"old")
    db.flush()
    assert db.get(b"k") == b"old"
    assert db._engine.live.current.layout.rows.get(b"k") == (1, b"old")
    db.put(b"another", b"1")
    db.ingest([(b"k", b"new")])
    assert db.get(b"k") == b"new"


def test_a_snapshot_and_a_scan_begun_before_do_not_see_it() -> None:
    db = World().open()
    for number in range(30):
        db.put(b"%02d" % number, b"old" * 50)
    before = dict(db.scan())
    snapshot, rows = db.snapshot(), db.scan()
    begun = [next(rows)]
    report = db.ingest((b"%02d" % number, b"new") for number in range(60))
    assert dict([*begun, *rows]) == before
    assert dict(snapshot.scan()) == before
    assert snapshot.get(b"05") == before[b"05"]
    assert snapshot.seq == report.seq - 1
    with db.snapshot() as after:
        assert after.seq == report.seq
        assert list(after.scan()) == [(b"%02d" % number, b"new") for number in range(60)]
        db.compact()
        db.ingest([(b"05", b"newest")])
        assert after.get(b"05") == b"new"
    assert dict(snapshot.scan()) == before


def test_a_write_that_expects_sees_it() -> None:
    db = World().open()
    report = db.ingest([(b"a", b"1")])
    with pytest.raises(ConflictError):
        db.put(b"a", b"2", expect=0)
    assert db.put(b"a", b"2", expect=report.seq) == report.seq + 1


@pytest.mark.parametrize("bad", [(b"", b""), (b"k" * 65_536, b""), (b"k", "v"), ("k", b"v")])
def test_a_pair_that_is_none_is_named_and_nothing_is_changed(bad: tuple[bytes, bytes]) -> None:
    world = World()
    db = world.open()
    seq = db.put(b"a", b"1")
    with pytest.raises(InvalidRequestError, match="pair 2 cannot be ingested"):
        db.ingest([(b"b", b"2"), bad])
    assert (dict(db.scan()), db.visible_seq) == ({b"a": b"1"}, seq)
    assert world.files.list("data/ingest") == []


def test_an_error_of_the_pairs_is_raised_and_nothing_is_changed() -> None:
    db = World().open()

    def failing() -> Iterator[tuple[bytes, bytes]]:
        yield b"a", b"1"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        db.ingest(failing())
    assert list(db.scan()) == []
    assert db.put(b"b", b"1") == 1


def test_a_closed_database_takes_nothing() -> None:
    db = World().open()
    db.close()
    with pytest.raises(ClosedError):
        db.ingest([(b"a", b"1")])


def test_values_of_any_size_go_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "SORT_MEMORY", 1 << 20)
    rows = {b"empty": b"", b"huge": bytes(20 << 20), b"k" * 65_535: b"1", b"large": bytes(2 << 20)}
    with DB.open(str(tmp_path), min_free_disk=0) as db:
        assert db.ingest(rows.items()).entries == 4
        assert {key: db.get(key) for key in rows} == rows
        db.compact()
        assert dict(db.scan()) == rows


def test_another_machine_has_all_of_it(tmp_path: Path) -> None:
    world = World(**ROOMY)
    db = world.open()
    db.put(b"before", b"1", durability="object")
    rows = some(50)
    report = db.ingest(rows.items())
    db.put(b"after", b"1", durability="object")
    elsewhere = world.lose_machine().open()
    assert dict(elsewhere.scan()) == rows | {b"before": b"1", b"after": b"1"}
    assert elsewhere.visible_seq == report.seq + 1
    assert elsewhere.verify().problems == []


@pytest.mark.parametrize("background", ["inline", "thread", "process"])
def test_tables_are_built_wherever_jobs_run(tmp_path: Path, background: str) -> None:
    rows = some(2000)
    with DB.open(str(tmp_path), min_free_disk=0, background=background) as db:
        db.put(b"a", b"1")
        db.ingest(rows.items())
        assert dict(db.scan()) == rows | {b"a": b"1"}
        requests = {row.purpose: row.operation for row in db.statistics().store_requests}
        assert "ingest" in requests
        assert list(Path(tmp_path, "ingest").iterdir()) == []


@pytest.mark.usefixtures("small")
def test_writers_and_readers_beside_it_see_all_of_it_or_nothing(tmp_path: Path) -> None:
    """Every round replaces all rows; a writer counts up keys that an ingest sets back."""
    keys = [b"%03d" % number for number in range(200)]
    with (
        DB.open(
            str(tmp_path), min_free_disk=0, memtable_capacity=20_000, durability="memory"
        ) as db,
        ThreadPoolExecutor(3) as pool,
    ):
        ended: list[bool] = []

        def write(worker: int) -> list[int]:
            return [
                db.put(b"w%d-%d" % (worker, number % 50), b"x" * 50)
                for number in range(100_000)
                if not ended
            ]

        def scan() -> set[int]:
            seen = set()
            while not ended:
                values = {value for _, value in db.scan(b"0", b"9")}
                seen.add(len(values))
                assert len(values) <= 1, "rows of two rounds together"
            return seen

        workers = [pool.submit(write, 1), pool.submit(write, 2)]
        scanner = pool.submit(scan)
        reports = []
        try:
            for number in range(5):
                reports.append(db.ingest((key, b"round %d" % number) for key in keys))
                assert db.get(keys[number]) == b"round %d" % number
        finally:
            ended.append(True)
        assert scanner.result() <= {0, 1}
        seqs = [seq for worker in workers for seq in worker.result()]
        seqs += [report.seq for report in reports]
        assert len(seqs) == len(set(seqs)) == max(seqs), "each seq once, none left out"
        expected = dict.fromkeys(keys, b"round 4")
        assert dict(db.scan(b"0", b"9")) == expected
        assert db.verify().problems == []
    with DB.open(str(tmp_path), min_free_disk=0) as db:
        assert db.visible_seq == max(seqs)
        assert dict(db.scan(b"0", b"9")) == expected


def test_many_at_the_same_time_each_get_their_own_seq(tmp_path: Path) -> None:
    with DB.open(str(tmp_path), min_free_disk=0) as db, ThreadPoolExecutor(4) as pool:
        parts = [some(300, seed) for seed in range(6)]
        reports = list(pool.map(lambda part: db.ingest(part.items()), parts))
        assert sorted(report.seq for report in reports) == [1, 2, 3, 4, 5, 6]
        assert dict(db.scan()) == {key: value for part in parts for key, value in part.items()}
