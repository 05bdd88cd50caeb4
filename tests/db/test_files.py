"""Which files and objects there are: what is needed, and nothing besides, however long it runs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from seerdb import DB, CorruptionError
from seerdb.ids import Epoch, table_id
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.object_store.local_store import INCOMING
from seerdb.storage.object_store.names import table_name
from tests.db.conftest import OpenDB
from tests.fixtures.database import World, collect_garbage, fill


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_a_flush_makes_a_table_and_a_compaction_makes_them_fewer() -> None:
    world = World(block_cache_capacity=0)
    db = world.open()
    for number in range(4):
        db.put(b"k", b"%d" % number)
        db.flush()
        assert len(world.bucket.list("tables/")) == db.statistics().tables == number + 1
    db.compact()
    assert db.statistics().tables == 1
    collect_garbage(world, db)
    assert len(world.bucket.list("tables/")) == 1


def test_nothing_unfinished_is_left_by_flush_compaction_ingest_and_close(
    open_db: OpenDB, tmp_path: Path
) -> None:
    db = open_db(memtable_capacity=4096)
    for number in range(200):
        db.put(b"%03d" % (number % 50), b"v" * 100, durability="memory")
    db.flush()
    db.ingest([(b"i%03d" % number, b"v" * 100) for number in range(200)])
    db.compact()
    named = {f"bucket/tables/{table.id}.sst" for table in db._engine.manifest.state.version.tables}
    db.close()
    found = files(tmp_path / "db")
    tables = {name for name in found if name.startswith("bucket/tables/")}
    assert named <= tables, "the others have left the version a moment ago"
    assert all(name.endswith(".sst") for name in tables)
    usual = re.compile(r"LOCK|wal/HOME|wal/spare-\d+|bucket/manifest/\d{20}")
    assert not [name for name in found - tables if not usual.fullmatch(name)]


def test_the_data_directory_is_the_one_it_was_opened_as(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever directory is current later, and whatever has the same relative name there."""
    settings: dict[str, Any] = {
        "background": "inline",
        "memtable_capacity": 16 << 10,
        "wal_segment_size": 16 << 10,
        "min_free_disk": 0,
    }
    for here in ("one", "other"):
        (tmp_path / here).mkdir()
        monkeypatch.chdir(tmp_path / here)
        DB.open("db", **settings).close()
    before = files(tmp_path / "other")
    monkeypatch.chdir(tmp_path / "one")
    with DB.open("db", **settings) as db:
        monkeypatch.chdir(tmp_path / "other")
        rows = fill(db, 300)
    assert files(tmp_path / "other") == before
    with DB.open(tmp_path / "one" / "db", **settings) as db:
        assert dict(db.scan()) == rows


@pytest.mark.parametrize("recovery", ["strict", "salvage"])
def test_the_data_directory_of_a_database_begins_no_other_one(
    open_db: OpenDB, tmp_path: Path, recovery: str
) -> None:
    """Not even where it was closed, and its log is empty: the new one would have the same home, and
    so the old one, opened again, would throw the log of the new one away as its own."""
    right, wrong = str(tmp_path / "right"), tmp_path / "wrong"
    with open_db(store=right) as db:
        rows = fill(db, 100)
    with pytest.raises(CorruptionError, match="is the store setting right"):
        open_db(store=str(wrong), recovery=recovery)
    assert not (wrong / "manifest").exists()
    with open_db(store=right) as db:
        assert dict(db.scan()) == rows


def test_what_a_dead_process_left_unfinished_is_no_table(open_db: OpenDB, tmp_path: Path) -> None:
    """Half an upload, a whole table that no manifest names, and files that are nobody's."""
    db = open_db(background="inline")
    for value in (b"1", b"2"):
        db.put(b"k", value)
        db.flush()
    db.close()
    bucket = tmp_path / "db" / "bucket"
    table = next((bucket / "tables").iterdir())
    half, orphan = bucket / INCOMING / "half", bucket / table_name(table_id(Epoch(1), 99))
    foreign = [bucket / "tables" / "notes.txt", tmp_path / "db" / "wal" / "notes.txt"]
    half.parent.mkdir(exist_ok=True)
    half.write_bytes(table.read_bytes()[:100])
    for file in (orphan, *foreign):
        file.write_bytes(table.read_bytes())
        os.utime(file, (0, 0))  # long enough ago to be collected
    db = open_db(background="inline")
    assert list(db.scan()) == [(b"k", b"2")]
    db.compact()
    db._engine.background.garbage.wake()
    assert db.verify().ok
    assert not orphan.exists()
    assert all(file.exists() for file in foreign)


@pytest.mark.parametrize("compaction", POLICIES)
def test_files_and_objects_do_not_add_up_over_cycles(compaction: str) -> None:
    world = World(compaction=compaction, table_size=2048, disk_cache_capacity=1 << 20)
    counts = []
    for cycle in range(24):
        db = world.open()
        for number in range(60):
            db.put(b"%03d" % number, b"%d" % cycle * 30, durability="memory")
        db.delete_range(b"000", b"030")
        db.compact()
        for _ in range(2):
            collect_garbage(world, db)
        assert len(world.bucket.list("tables/")) == db.statistics().tables
        db.close()
        on_disk = [name for place in ("wal", "cache") for name in world.files.list(f"data/{place}")]
        # Claims stay for ever: they are the fences.
        records = len(world.bucket.list("manifest/")) - cycle
        counts.append((len(on_disk), len(world.bucket.list("tables/")), records))
    for column in zip(*counts, strict=True):
        assert max(column[12:]) <= max(column[:12])
