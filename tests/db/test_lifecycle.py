"""Keys and values of every kind, from the first write to the last reopening."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seerdb import DB, NEEDS_IO, ClosedError, Components, Entry, Event
from seerdb.events import FlushCompleted
from seerdb.storage.write.gauges import MAX_SEALED
from seerdb.testing.objects import MemoryObjectStore
from tests.db.conftest import OpenDB
from tests.db.layers import LAYERS, Layered
from tests.fixtures.database import World


def test_empty_value_full_lifecycle(open_db: OpenDB) -> None:
    db = open_db()
    db.put(b"empty", b"")
    for _ in range(2):
        for step in (lambda: None, db.flush, db.compact):
            step()
            assert db.get(b"empty") == b""
            assert db.multi_get([b"empty", b"absent"]) == [b"", None]
            assert list(db.scan()) == [(b"empty", b"")]
            assert db.get_entry(b"empty") == Entry(b"empty", b"", 1)
            with db.snapshot() as snapshot:
                assert (snapshot.get(b"empty"), list(snapshot.scan())) == (b"", [(b"empty", b"")])
        db.close()
        db = open_db()
    db.delete(b"empty")
    assert db.get(b"empty") is None
    db.compact()
    assert list(db.scan()) == []


def test_key_with_null_bytes(open_db: OpenDB) -> None:
    keys = [b"\0", b"\0\0", b"a\0b", b"a", b"a\0", b"\0a"]
    db = open_db()
    for number, key in enumerate(keys):
        db.put(key, b"%d" % number)
    db.delete(b"a\0")
    expected = sorted((key, b"%d" % n) for n, key in enumerate(keys) if key != b"a\0")
    for _ in range(2):
        assert list(db.scan()) == expected
        assert [db.get(key) for key, _ in expected] == [value for _, value in expected]
        assert list(db.scan(prefix=b"\0", keys_only=True)) == [b"\0", b"\0\0", b"\0a"]
        assert list(db.scan(b"a", b"a\0b")) == [(b"a", b"3")]
        db.compact()
        db.close()
        db = open_db()


@pytest.mark.parametrize("layer", LAYERS)
def test_every_byte_is_a_key(layer: str) -> None:
    layered = Layered(layer)
    layered.write(*(("put", bytes([byte]), bytes([byte])) for byte in range(256)))
    db = layered.db
    assert [db.get(bytes([byte])) for byte in range(256)] == [bytes([n]) for n in range(256)]
    assert list(db.scan(keys_only=True)) == [bytes([byte]) for byte in range(256)]
    assert list(db.scan(prefix=b"\xff")) == [(b"\xff", b"\xff")]


def test_the_longest_key(open_db: OpenDB) -> None:
    db = open_db()
    longest = b"\xff" * 65_535
    db.put(longest, b"longest")
    db.put(longest[:-1], b"shorter")
    for _ in range(2):
        assert db.get(longest) == b"longest"
        assert list(db.scan(longest[:-1], keys_only=True)) == [longest[:-1], longest]
        assert list(db.scan(prefix=longest)) == [(longest, b"longest")]
        db.flush()
    assert db.delete_range(b"\xff", longest) == 3
    assert list(db.scan(keys_only=True)) == [longest]


def test_a_value_larger_than_memtable_and_segment(open_db: OpenDB) -> None:
    db = open_db(memtable_capacity=8 << 10)
    large = random.Random(1).randbytes(300_000)
    db.put(b"before", b"1")
    db.put(b"large", large)
    db.put(b"after", b"2")
    db.close()
    db = open_db()
    assert db.get(b"large") == large
    assert [key for key, _ in db.scan()] == [b"after", b"before", b"large"]


def test_memtables_seal_and_flush_by_themselves(open_db: OpenDB) -> None:
    db = open_db(memtable_capacity=16 << 10)
    for number in range(500):
        db.put(b"%05d" % number, b"x" * 100, durability="memory")
    statistics = db.statistics()
    assert statistics.visible_seq == 500
    assert statistics.memtables.active_bytes < 32 << 10
    assert statistics.memtables.sealed <= MAX_SEALED
    assert db.multi_get([b"%05d" % n for n in range(500)]) == [b"x" * 100] * 500
    db.flush()
    assert db.statistics().flushes.flushes >= 10


def test_the_sequence_goes_on_over_openings(open_db: OpenDB) -> None:
    db = open_db()
    assert db.visible_seq == 0
    assert [db.put(b"a", b"1"), db.delete(b"a"), db.delete_range(b"a", b"b")] == [1, 2, 3]
    with db.batch() as batch:
        batch.put(b"a", b"1")
        batch.put(b"b", b"2")
    assert (batch.seq, db.visible_seq) == (4, 4)
    db.close()
    db = open_db()
    assert db.put(b"c", b"3") == 5
    db.compact()
    db.close()
    db = open_db()
    assert (db.visible_seq, db.put(b"d", b"4")) == (5, 6)
    assert [entry.seq for entry in db.scan_entries()] == [4, 4, 5, 6]


def test_a_database_without_writes(open_db: OpenDB, tmp_path: Path) -> None:
    for _ in range(3):
        db = open_db()
        assert (db.get(b"a"), list(db.scan()), db.visible_seq) == (None, [], 0)
        assert db.flush().tables == []
        assert (db.compact().added, db.compact().removed) == ([], [])
        db.close()
    assert list((tmp_path / "db" / "bucket").glob("tables/*")) == []


def test_reopening_after_only_deletes(open_db: OpenDB) -> None:
    db = open_db()
    db.delete(b"a")
    db.delete_range(b"b", b"z")
    db.close()
    db = open_db()
    assert (db.visible_seq, list(db.scan())) == (2, [])
    db.compact()
    assert db.statistics().tables == 0
    assert db.put(b"c", b"1") == 3


def test_close_twice_and_with_leaving_the_block(open_db: OpenDB) -> None:
    with open_db() as db:
        db.put(b"a", b"1")
        db.close()
    db.close()
    with open_db() as db:
        assert db.get(b"a") == b"1"


CHANGES: dict[str, Callable[[DB], object]] = {
    "overwritten": lambda db: db.put(b"hot", b"new"),
    "deleted": lambda db: db.delete(b"hot"),
    "deleted with its range": lambda db: db.delete_range(b"h", b"i"),
}


@pytest.mark.parametrize(
    "steps", [["flush"], ["flush", "flush"], ["compact"], ["flush", "compact"]]
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_hot_key_is_never_stale(db: DB, change: str, steps: list[str]) -> None:
    """What point reads remember of tables is forgotten when a newer table says otherwise."""
    db.put(b"hot", b"old")
    db.put(b"other", b"1")
    db.flush()
    for _ in range(50):
        assert db.get(b"hot") == b"old"
    CHANGES[change](db)
    expected = b"new" if change == "overwritten" else None
    for step in ["", *steps]:
        if step:
            db.put(b"other", step.encode())
            getattr(db, step)()
        for _ in range(50):
            assert db.get(b"hot") == expected
            assert db.multi_get([b"hot"]) == [expected]


def test_reads_go_on_while_it_closes() -> None:
    """A listener that reads when the last flush is told."""
    world = World()
    db = world.open()
    db.put(b"a", b"1")
    seen = []

    def read(event: Event) -> None:
        if isinstance(event, FlushCompleted):
            seen.append((db.get(b"a"), db.try_get_entry(b"b"), list(db.scan())))

    db._engine.flusher._listener = read
    db.close()
    assert seen == [(b"1", None, [(b"a", b"1")])]
    with pytest.raises(ClosedError):
        db.get(b"a")


class ClosingStore(MemoryObjectStore):
    """Makes a call before the next ranged read."""

    def __init__(self) -> None:
        super().__init__()
        self.before_reading: Callable[[], None] | None = None

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        call, self.before_reading = self.before_reading, None
        if call is not None:
            call()
        return super().get_range(name, offset, length)


def test_a_cold_read_that_meets_a_close_says_so(open_db: OpenDB) -> None:
    """It asked the threads, which had ended, for its next fetch: a bare ``RuntimeError``."""
    store = ClosingStore()
    components = Components(object_store=store)
    db = open_db(components=components, disk_cache_capacity=0)
    for number in range(100):
        db.put(b"%03d" % number, b"v" * 200)
    db.close()
    db = open_db(components=components, disk_cache_capacity=0, background="inline")
    store.before_reading = db.close
    with pytest.raises(ClosedError):
        db.multi_get([b"%03d" % number for number in range(100)])


def test_a_directory_moved_elsewhere_is_the_same_database(open_db: OpenDB, tmp_path: Path) -> None:
    db = open_db("here")
    db.put(b"a", b"1")
    db.flush()
    db.put(b"b", b"2")
    db.close()
    (tmp_path / "here").rename(tmp_path / "there")
    assert list(open_db("there").scan()) == [(b"a", b"1"), (b"b", b"2")]


def test_a_bucket_apart_from_the_data_directory(open_db: OpenDB, tmp_path: Path) -> None:
    db = open_db(store=str(tmp_path / "bucket"))
    db.put(b"a", b"1")
    db.close()
    assert not (tmp_path / "db" / "bucket").exists()
    assert open_db("elsewhere", store=str(tmp_path / "bucket")).get(b"a") == b"1"


def test_a_read_without_io_says_when_it_needs_some(open_db: OpenDB) -> None:
    db = open_db()
    db.put(b"a", b"1")
    assert db.try_get_entry(b"a") == Entry(b"a", b"1", 1)
    assert db.try_get_entry(b"b") is None
    db.close()
    db = open_db()
    assert db.try_get_entry(b"a") is NEEDS_IO
    assert repr(NEEDS_IO) == "NEEDS_IO"
    assert db.get(b"a") == b"1"
    assert db.try_get_entry(b"a") == Entry(b"a", b"1", 1)
    db.delete(b"a")
    assert db.try_get_entry(b"a") is None


def test_lookups_agree(db: DB) -> None:
    db.put(b"a", b"1")
    db.flush()
    db.put(b"b", b"2")
    db.delete(b"c")
    keys = [b"b", b"a", b"c", b"a"]
    assert db.multi_get(keys) == [b"2", b"1", None, b"1"]
    assert db.multi_get_entries(keys) == [db.get_entry(key) for key in keys]
    assert [db.get(key) for key in keys] == db.multi_get(keys)
    assert db.multi_get([]) == []


AT_EXIT = """
import atexit, sys
from seerdb import DB, ClosedError

db = DB.open(sys.argv[1], min_free_disk=0, background=sys.argv[2])
db.put(b"a", b"1")


def end():
    try:
        db.flush()
    except ClosedError as error:
        print(error)
    db.close()


atexit.register(end)
"""


@pytest.mark.parametrize("background", ["thread", "process"])
def test_what_is_closed_at_exit_says_that_it_is_too_late_and_keeps_its_log(
    tmp_path: Path, background: str
) -> None:
    """Python ends its pools of threads before ``atexit``; the runtime, it said, was closed."""
    ended = subprocess.run(
        [sys.executable, "-c", AT_EXIT, str(tmp_path / "db"), background],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "before that, not in atexit" in ended.stdout
    assert ended.stderr == ""
    with DB.open(tmp_path / "db", min_free_disk=0) as db:
        assert db.get(b"a") == b"1"
