"""Tiers: what is pinned to the local disk, and what an opening brings in by itself."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seerdb import DB, Components, Event
from seerdb.events import WarmedUp, WorkFailed
from seerdb.storage.tiers.disk_tier import DiskTierStatistics
from seerdb.testing.objects import MemoryObjectStore
from tests.db.conftest import OpenDB
from tests.fixtures.database import World
from tests.fixtures.stores import S3Server

VALUE = b"v" * 100
COUNT = 500
PINNED: dict[str, Any] = {
    "pin_levels": 2,
    "disk_cache_capacity": 1 << 20,
    "block_cache_capacity": 0,
    "memtable_capacity": 1 << 20,
}


def key(number: int) -> bytes:
    return b"key%05d" % number


def fill(db: DB, numbers: range) -> None:
    with db.batch() as batch:
        for number in numbers:
            batch.put(key(number), VALUE)
    db.flush()


def disk(db: DB) -> DiskTierStatistics:
    found = db.statistics().disk_cache
    assert found is not None
    return found


def made_by(world: World, before: Counter[str]) -> Counter[str]:
    return world.bucket.calls - before


def test_a_flushed_table_of_a_pinned_level_is_never_downloaded() -> None:
    world = World(**PINNED)
    db = world.open()
    fill(db, range(0, COUNT, 2))
    before = world.bucket.calls.copy()
    fill(db, range(1, COUNT, 2))
    assert made_by(world, before) == {"put": 1, "get": 1, "put_if_absent": 1}
    before = world.bucket.calls.copy()
    assert db.multi_get([key(number) for number in range(COUNT)]) == [VALUE] * COUNT
    assert len(list(db.scan())) == COUNT
    db.close()
    assert "get_range" not in made_by(world, before)
    db = world.open()
    before = world.bucket.calls.copy()
    assert len(list(db.scan())) == COUNT
    assert not made_by(world, before)
    assert disk(db).pinned_tables == 2
    assert disk(db).pinned_bytes == disk(db).bytes


def test_a_merged_table_of_a_pinned_level_is_never_downloaded() -> None:
    world = World(**PINNED | {"pin_levels": 8})
    db = world.open()
    fill(db, range(0, COUNT, 2))
    fill(db, range(1, COUNT, 2))
    before = world.bucket.calls.copy()
    db.compact()
    merging = made_by(world, before)["get_range"]
    before = world.bucket.calls.copy()
    assert len(list(db.scan())) == COUNT
    assert not made_by(world, before)
    assert disk(db).pinned_tables == disk(db).tables == 1
    assert merging <= 2 * 2 + 2, "the inputs, as ever: a job reads the bucket"


def test_copies_of_a_merge_that_compresses_worse_keep_to_the_capacity_of_the_disk() -> None:
    capacity = 20_000
    world = World(**PINNED | {"pin_levels": 8, "disk_cache_capacity": capacity}, table_size=6000)
    with world.open() as db:
        fill(db, range(0, COUNT, 2))
        fill(db, range(1, COUNT, 2))
        assert disk(db).pinned_tables == 2
    with world.open(compression="none") as db:
        db.compact()
        assert sum(table.size for table in db._engine.manifest.state.version.tables) > 2 * capacity
        assert 0 < disk(db).bytes <= capacity
        on_disk = [world.files.open_read(f"data/cache/{name}") for name in on_disk_of(world)]
        assert sum(file.size() for file in on_disk) == disk(db).bytes
        assert len(list(db.scan())) == COUNT


def on_disk_of(world: World) -> list[str]:
    return [name for name in world.files.list("data/cache") if name.endswith(".parts")]


def test_what_leaves_the_pinned_levels_leaves_the_disk() -> None:
    world = World(**PINNED)
    db = world.open()
    fill(db, range(0, COUNT, 2))
    fill(db, range(1, COUNT, 2))
    assert disk(db).pinned_tables == 2
    db.compact()
    [level] = db.statistics().levels
    assert level.level >= 2
    found = disk(db)
    assert (found.pinned_tables, found.pinned_bytes) == (0, 0)


def test_a_merge_that_is_given_up_leaves_nothing_on_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a merge of several parts, which a restore in place has end after the first ones."""
    monkeypatch.setattr("seerdb.storage.compaction.plan.SPLIT_TABLES", 1)
    settings = {"pin_levels": 8, "compression": "none", "compaction": "tiered"}
    world = World(**PINNED | settings, table_size=3000)
    db = world.open()
    fill(db, range(COUNT))
    fill(db, range(0, COUNT, 2))
    db.compact()
    fill(db, range(0, COUNT, 3))
    compactor, parts = db._engine.compactor, 0
    run = compactor._merger._runner.run

    def run_and_pause(*job: Any) -> Any:
        nonlocal parts
        parts += 1
        if parts == 3:
            compactor.pause()
        return run(*job)

    monkeypatch.setattr(compactor._merger._runner, "run", run_and_pause)
    compactor.ask()
    db._engine.background.compaction.wake()
    assert parts == 3
    tables = db.statistics().levels
    assert disk(db).tables == disk(db).pinned_tables == sum(level.tables for level in tables)


def test_reading_everything_else_takes_nothing_from_what_is_pinned() -> None:
    world = World(**PINNED | {"disk_cache_capacity": 150_000, "compression": "none"})
    db = world.open()
    fill(db, range(COUNT, 4 * COUNT, 2))
    fill(db, range(COUNT + 1, 4 * COUNT, 2))
    db.compact()
    assert db.statistics().table_bytes > 150_000
    fill(db, range(COUNT // 2))
    assert disk(db).pinned_tables == 1
    for _ in range(3):
        assert len(list(db.scan(key(COUNT)))) == 3 * COUNT
    assert disk(db).bytes <= 150_000
    assert disk(db).evictions > 0
    before = world.bucket.calls.copy()
    assert len(list(db.scan(None, key(COUNT)))) == COUNT // 2
    assert not made_by(world, before)


def test_a_table_that_does_not_fit_is_not_pinned() -> None:
    world = World(**PINNED | {"disk_cache_capacity": 3_000})
    db = world.open()
    fill(db, range(COUNT))
    assert disk(db).pinned_tables == 0
    assert disk(db).bytes <= 3_000
    assert len(list(db.scan())) == COUNT


def test_a_damaged_copy_is_fetched_again() -> None:
    world = World(**PINNED)
    db = world.open()
    fill(db, range(COUNT))
    db.close()
    [name] = [name for name in world.files.list("data/cache") if name.endswith(".parts")]
    file = world.files.open(f"data/cache/{name}")
    file.write_at(5_000, b"\xff" * 5_000)
    db = world.open()
    assert len(list(db.scan())) == COUNT
    assert disk(db).rejected + disk(db).misses > 0


class Opened:
    """A database of which tells when an opening has brought in what it brings in."""

    def __init__(self, open_db: OpenDB, **settings: Any) -> None:
        self._open_db = open_db
        self._settings = {"memtable_capacity": 1 << 20, "block_size": 1024} | settings
        self.store = MemoryObjectStore()
        self.warm = threading.Event()

    def listen(self, event: Event) -> None:
        if isinstance(event, WarmedUp):
            self.warm.set()

    def open(self) -> DB:
        self.warm.clear()
        components = Components(object_store=self.store, listener=self.listen)
        return self._open_db(components=components, **self._settings)

    def gets(self) -> int:
        made = self.store.calls["get_range"]
        self.store.calls.clear()
        return made


def test_after_an_opening_a_cold_get_is_one_request_and_a_hot_one_none(open_db: OpenDB) -> None:
    world = Opened(open_db, disk_cache_capacity=0)
    db = world.open()
    fill(db, range(0, COUNT, 2))
    fill(db, range(1, COUNT, 2))
    assert db.get(key(100)) == VALUE
    db.close()
    for _ in range(2):
        world.gets()
        db = world.open()
        assert world.warm.wait(60)
        assert world.gets() <= 2 + 1, "two tails; what was hot, and is hot again"
        assert db.get(key(100)) == VALUE
        assert world.gets() == 0
        db.close()
    db = world.open()
    assert world.warm.wait(60)
    world.gets()
    assert db.get(key(400)) == VALUE
    assert world.gets() == 1
    assert db.get(b"key00400-") is None
    assert world.gets() == 0


def test_an_opening_brings_in_what_is_pinned(open_db: OpenDB) -> None:
    world = Opened(open_db, pin_levels=1, block_cache_capacity=0)
    db = world.open()
    fill(db, range(COUNT))
    db.close()
    world.warm.clear()
    db = open_db(
        "elsewhere",
        components=Components(object_store=world.store, listener=world.listen),
        pin_levels=1,
        block_cache_capacity=0,
        disk_cache_capacity=1 << 20,
    )
    assert world.warm.wait(60)
    world.gets()
    assert len(list(db.scan())) == COUNT
    assert world.gets() == 0


@pytest.mark.parametrize("background", ["inline", "thread"])
def test_with_no_capacity_an_opening_brings_in_nothing(open_db: OpenDB, background: str) -> None:
    capacity = 0 if background == "thread" else 1 << 20
    world = Opened(open_db, background=background, block_cache_capacity=capacity, pin_levels=0)
    db = world.open()
    fill(db, range(COUNT))
    db.close()
    world.gets()
    db = world.open()
    db.close()
    assert world.gets() == 0


def test_an_opening_during_an_outage_waits_for_nothing(open_db: OpenDB) -> None:
    """The bucket fails from the moment the database is open; what is warm is told later."""
    world = Opened(open_db, disk_cache_capacity=0)
    db = world.open()
    fill(db, range(COUNT))
    db.close()
    gate, fetch = threading.Event(), world.store.get_range

    def slow(name: str, offset: int, length: int) -> bytes:
        assert gate.wait(60)
        return fetch(name, offset, length)

    world.store.get_range = slow  # type: ignore[method-assign]
    db = world.open()
    db.put(b"a", b"1")
    assert db.get(b"a") == b"1"
    assert not world.warm.is_set()
    gate.set()
    assert world.warm.wait(60)


def test_a_merge_leaves_nothing_of_its_inputs_in_memory(open_db: OpenDB) -> None:
    """Nobody could ask for it any more, and what is asked for had to go for it."""
    db = open_db(background="inline")
    fill(db, range(0, COUNT, 2))
    fill(db, range(1, COUNT, 2))
    assert db.multi_get([key(number) for number in range(COUNT)]) == [VALUE] * COUNT
    db.compact()
    [run] = db._engine.live.current.layout.runs
    readers = [handle.reader for handle in run.handles]
    in_use = sum(block is not None for each in readers if each for block in each.slots)
    assert db._engine.runtime.cache.statistics().entries == in_use > 0


@pytest.mark.integration
def test_a_worker_process_leaves_its_copies_to_the_serving_one(
    open_db: OpenDB, moto_server: S3Server
) -> None:
    settings: dict[str, Any] = {
        "store": moto_server.create_bucket(),
        "store_options": moto_server.options,
        "background": "process",
        "pin_levels": 8,
        "block_cache_capacity": 0,
    }
    db = open_db(**settings)
    fill(db, range(0, COUNT, 2))
    fill(db, range(1, COUNT, 2))
    assert disk(db).pinned_tables == 2
    db.compact()
    assert len(list(db.scan())) == COUNT
    assert db.multi_get([key(1), key(COUNT)]) == [VALUE, None]
    found = disk(db)
    assert (found.pinned_tables, found.tables, found.misses) == (1, 1, 0)
    asked = {(row.purpose, row.operation) for row in db.statistics().store_requests}
    assert ("read", "get_range") not in asked


def test_what_is_read_leaves_room_for_what_is_written() -> None:
    """However large the disk cache may be, the disk is not filled until writes are refused."""
    world = World(disk_cache_capacity=1 << 30, min_free_disk=1 << 20, block_cache_capacity=0)
    db = world.open()
    fill(db, range(COUNT))
    world.files.free_space = 2 << 20
    assert db.get(key(3)) == VALUE
    assert disk(db).bytes == 0
    world.files.free_space = 3 << 20
    assert db.get(key(3)) == VALUE
    assert disk(db).bytes > 0
    world.files.free_space = 2 << 20
    assert db.get(key(400)) == VALUE
    assert disk(db).bytes == 0
    assert db.get(key(3)) == VALUE


def _a_file(cache: Path) -> None:
    shutil.rmtree(cache)
    cache.touch()


def _its_owner_is_a_directory(cache: Path) -> None:
    (cache / "DATABASE").unlink()
    (cache / "DATABASE").mkdir()


@pytest.mark.parametrize(
    ("spoil", "cause"), [(_a_file, "list"), (_its_owner_is_a_directory, "read")]
)
def test_a_disk_tier_that_cannot_be_opened_is_told_with_what_to_do(
    tmp_path: Path, spoil: Callable[[Path], None], cause: str
) -> None:
    """It was told as one that could not be discarded, and not what that means or needs."""
    events: list[Event] = []
    components = Components(object_store=MemoryObjectStore(), listener=events.append)
    with DB.open(str(tmp_path), components=components, disk_cache_capacity=1 << 20) as db:
        db.put(b"key", VALUE)
    cache = tmp_path / "cache"
    spoil(cache)
    with DB.open(str(tmp_path), components=components, disk_cache_capacity=1 << 20) as db:
        assert db.get(b"key") == VALUE
        assert db.statistics().disk_cache is None
        [told] = [event for event in events if isinstance(event, WorkFailed)]
    assert told.work == "open the disk cache"
    assert told.error.startswith(f"cannot {cause} {cache}")
    assert told.error.endswith(
        f"; there is none until the database is opened anew; {cache} has to be a directory to be "
        "read and written, and may be deleted"
    )


def test_a_disk_tier_that_cannot_be_discarded_is_told_as_what_takes_space(tmp_path: Path) -> None:
    events: list[Event] = []
    components = Components(object_store=MemoryObjectStore(), listener=events.append)
    (tmp_path / "cache" / "1.parts").mkdir(parents=True)
    with DB.open(str(tmp_path), components=components, disk_cache_capacity=0):
        [told] = [event for event in events if isinstance(event, WorkFailed)]
    assert told.work == "discard the disk cache"
    assert "; what is left of it takes space; " in told.error
