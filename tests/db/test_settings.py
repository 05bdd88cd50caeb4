"""Every setting at its edges: the database works, and the setting does what it says."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from seerdb import DB, Components, DBOptions, Options
from seerdb.errors import DiskError, InvalidRequestError
from seerdb.events import WorkFailed
from seerdb.options import SETTING_NAMES
from seerdb.testing.objects import MemoryObjectStore
from tests.db.conftest import SMALL, OpenDB
from tests.fixtures.database import WAL, World

EDGES: list[dict[str, Any]] = [
    {"memtable_capacity": 1024},
    {"memtable_capacity": 16 << 30},
    {"wal_segment_size": 16 << 10},
    {"wal_compression": "zstd"},
    {"wal_direct_io": True, "wal_segment_size": 64 << 10},
    {"wal_direct_io": True, "wal_compression": "zstd", "wal_segment_size": 64 << 10},
    {"wal_retention": "count:0"},
    {"wal_retention": "count:3"},
    {"wal_retention": "duration:0"},
    {"wal_retention": "duration:60"},
    {"wal_budget": 64 << 10},
    {"sync": "full"},
    {"sync_interval": 0.0005, "durability": "interval"},
    {"sync_interval": 60, "durability": "interval"},
    {"durability": "memory"},
    {"durability": "object"},
    {"recovery": "point_in_time"},
    {"recovery": "salvage"},
    {"block_size": 256},
    {"block_size": 4 << 20},
    {"compression": "none"},
    {"filter_bits_per_key": 0},
    {"filter_bits_per_key": 1},
    {"filter_bits_per_key": 64},
    {"block_cache_capacity": 0},
    {"block_cache_capacity": 1},
    {"block_cache_capacity": 1 << 44},
    {"disk_cache_capacity": 0},
    {"disk_cache_capacity": 1},
    {"disk_cache_capacity": 3000},
    {"disk_cache_capacity": 3000, "pin_levels": 8},
    {"disk_cache_capacity": 1 << 20, "pin_levels": 8},
    {"disk_cache_capacity": 1 << 50},
    {"block_cache_capacity": 0, "disk_cache_capacity": 0, "filter_bits_per_key": 0},
]


def exercise(db: DB) -> list[tuple[bytes, bytes]]:
    """Write, overwrite and delete over several tables; returns what must be there."""
    for number in range(160):
        db.put(b"%03d" % (number % 100), b"%d" % number * 15)
        if number % 50 == 49:
            db.delete_range(b"010", b"020")
            db.delete(b"021")
            db.flush()
    with db.batch() as batch:
        batch.put(b"empty", b"")
        batch.delete(b"022")
    model = {b"%03d" % (n % 100): b"%d" % n * 15 for n in range(160)} | {b"empty": b""}
    for number in (*range(10, 20), 21, 22):
        model.pop(b"%03d" % number)
    return sorted(model.items())


def check(db: DB, expected: list[tuple[bytes, bytes]]) -> None:
    assert list(db.scan()) == expected
    assert list(db.scan(reverse=True)) == expected[::-1]
    assert db.multi_get([key for key, _ in expected]) == [value for _, value in expected]
    assert all(db.get(key) == value for key, value in expected)
    assert db.get(b"010") is db.get(b"none") is None


@pytest.mark.parametrize("settings", EDGES, ids=str)
def test_it_works_at_the_edge(settings: dict[str, Any]) -> None:
    world = World(**settings)
    db = world.open()
    expected = exercise(db)
    check(db, expected)
    check(world.kill().open(), expected)
    db.compact()
    check(db, expected)
    assert db.verify().problems == []
    db.close()
    db = world.open()
    check(db, expected)
    db.close()
    check(world.lose_machine().open(), expected)


REAL: list[dict[str, Any]] = [
    {"wal_direct_io": True},
    {"wal_compression": "zstd", "sync": "full"},
    {"background": "process", "compression": "none"},
    {"background": "inline", "disk_cache_capacity": 0, "block_cache_capacity": 0},
]


@pytest.mark.parametrize("settings", REAL, ids=str)
def test_it_works_on_a_real_disk(open_db: OpenDB, settings: dict[str, Any]) -> None:
    db = open_db(**settings)
    expected = exercise(db)
    check(db, expected)
    db.close()
    db = open_db(**settings)
    check(db, expected)
    assert db.verify().problems == []


@pytest.mark.parametrize("ship_interval", [0, 3600])
def test_a_log_of_two_segments_is_the_least(open_db: OpenDB, ship_interval: int) -> None:
    """With less, every write was refused after the first segment, to be tried again in vain."""
    small: dict[str, Any] = {"memtable_capacity": 4096, "ship_interval": ship_interval}
    least = "wal_budget must be at least twice wal_segment_size, 131,072, not 131,071"
    with pytest.raises(InvalidRequestError, match=least):
        open_db(wal_budget=(128 << 10) - 1, **small)
    db = open_db(wal_budget=128 << 10, **small)
    check(db, exercise(db))


def wal_files(world: World) -> list[str]:
    return [name for name in world.files.list("data/wal") if name.endswith(".wal")]


def flush_often(db: DB, times: int) -> None:
    for number in range(times):
        db.put(b"%d" % number, b"v")
        db.flush()


@pytest.mark.parametrize(("setting", "kept"), [("flushed", 0), ("count:0", 0), ("count:3", 3)])
def test_as_many_flushed_segments_are_kept(setting: str, kept: int) -> None:
    world = World(wal_retention=setting)
    db = world.open()
    flush_often(db, 8)
    assert len(wal_files(world)) == kept
    assert db.statistics().wal.kept_segments == kept
    assert db.statistics().wal.bytes <= 2 * world.settings["wal_segment_size"]


def test_flushed_segments_are_kept_for_a_while() -> None:
    world = World(wal_retention="duration:100")
    db = world.open()
    flush_often(db, 3)
    world.clock.advance(60)
    flush_often(db, 2)
    assert len(wal_files(world)) == 5
    world.clock.advance(60)
    flush_often(db, 1)
    assert len(wal_files(world)) == 3
    world.clock.advance(1000)
    flush_often(db, 1)
    assert len(wal_files(world)) == 1


def test_kept_segments_are_not_read_again_and_still_let_go() -> None:
    world = World(wal_retention="count:2")
    db = world.open()
    flush_often(db, 4)
    db.delete(b"0")
    db.close()
    db = world.open()
    assert db.get(b"0") is None
    assert db.statistics().recovery.records == 0
    flush_often(db, 3)
    assert len(wal_files(world)) == 2


def kept_on_disk(world: World) -> int:
    """Files of the disk cache, after a read that may keep something."""
    db = world.open()
    assert db.get(b"a") == b"1"
    db.close()
    return sum(name.endswith(".parts") for name in world.files.list("data/cache"))


def test_a_disk_cache_that_is_turned_off_leaves_nothing_behind() -> None:
    world = World(disk_cache_capacity=1 << 20)
    db = world.open()
    db.put(b"a", b"1")
    db.close()
    assert kept_on_disk(world) == 1
    world.settings["disk_cache_capacity"] = 0
    assert kept_on_disk(world) == 0
    assert not [event for event in world.events if isinstance(event, WorkFailed)]


def test_a_disk_cache_that_cannot_be_removed_is_told_and_harms_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: str) -> None:
        raise DiskError(f"cannot remove {path}, by plan")

    world = World(disk_cache_capacity=1 << 20)
    db = world.open()
    db.put(b"a", b"1")
    db.close()
    assert kept_on_disk(world) == 1
    world.settings["disk_cache_capacity"] = 0
    monkeypatch.setattr(world.files, "remove", refuse)
    assert kept_on_disk(world) == 1
    assert "cannot remove data/cache/" in str(
        [event.error for event in world.events if isinstance(event, WorkFailed)]
    )


@pytest.mark.parametrize("capacity", [0, 1 << 30])
def test_the_disk_cache_may_be_deleted_while_it_is_closed(
    open_db: OpenDB, tmp_path: Path, capacity: int
) -> None:
    """Directory and all: the next opening once failed."""
    components = Components(object_store=MemoryObjectStore())
    db = open_db(components=components, disk_cache_capacity=capacity)
    db.put(b"a", b"1")
    db.close()
    for name in ("cache", "quarantine"):
        shutil.rmtree(tmp_path / "db" / name)
    db = open_db(components=components, disk_cache_capacity=capacity)
    assert db.get(b"a") == b"1"
    assert bool(list((tmp_path / "db" / "cache").iterdir())) == bool(capacity)


def test_compression_makes_tables_and_log_smaller() -> None:
    sizes = {}
    for setting in ("none", "zstd"):
        world = World(compression=setting, wal_compression=setting, block_size=4096)
        db = world.open()
        with db.batch() as batch:
            for number in range(100):
                batch.put(b"%03d" % number, b"the same words " * 10)
        appended = db.statistics().wal.appended_bytes
        db.flush()
        sizes[setting] = (appended, db.statistics().table_bytes)
    assert all(small * 4 < large for small, large in zip(sizes["zstd"], sizes["none"], strict=True))


@pytest.mark.parametrize(("setting", "step"), [("data", "sync data"), ("full", "sync")])
def test_the_kind_of_sync_is_what_is_asked_of_the_disk(setting: str, step: str) -> None:
    world = World(sync=setting)
    db = world.open()
    for _ in range(2):  # beside the second, a spare segment is made
        db.put(b"a", b"1")
    before = len(world.files.trace)
    db.put(b"b", b"2")
    write, sync = world.files.trace[before:]
    assert write.startswith(f"write {WAL}/")
    assert sync.startswith(f"{step} {WAL}/")


def test_settings_may_change_from_opening_to_opening() -> None:
    world = World()
    expected: list[tuple[bytes, bytes]] = []
    for settings in EDGES:
        db = world.open(**settings)
        assert list(db.scan()) == expected
        expected = exercise(db)
        db.close()


def test_chained_and_keyword_settings_are_the_same(tmp_path: Path) -> None:
    chained = DBOptions().block_size(2048).store(str(tmp_path / "bucket")).min_free_disk(0)
    other = DBOptions(block_size=4096, wal_segment_size=64 << 10)
    with chained.wal_segment_size(64 << 10).open(str(tmp_path / "a")) as db:
        assert db.options.block_size == 2048
        db.put(b"k", b"v")
    with DB.open(str(tmp_path / "b"), chained, wal_segment_size=64 << 10) as db:
        assert db.get(b"k") == b"v"
        assert db.options.store == str(tmp_path / "bucket")
    with DB.open(str(tmp_path / "c"), other, block_size=512, min_free_disk=0) as db:
        assert (db.options.block_size, db.options.wal_segment_size) == (512, 64 << 10)
    with DB.open(str(tmp_path / "d"), Options(min_free_disk=0), **SMALL) as db:
        assert db.options == Options.build(SMALL)


def test_settings_from_a_toml_file(tmp_path: Path) -> None:
    text = f"""
    store = "{tmp_path}/bucket"
    memtable_capacity = 1_048_576
    wal_segment_size = 65536
    sync_interval = 1
    wal_direct_io = false
    wal_retention = "count:2"
    min_free_disk = 0
    [store_options]
    """
    settings = tomllib.loads(text)
    assert settings.keys() <= set(SETTING_NAMES)
    with DB.open(str(tmp_path / "db"), **settings) as db:
        assert db.options.sync_interval == 1
        db.put(b"a", b"1")
    assert any((tmp_path / "bucket" / "tables").iterdir())
