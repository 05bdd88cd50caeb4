"""What is at hand before the first write."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seerdb import DB, DBOptions
from seerdb.storage.local import os_files
from tests.fixtures.database import ROOMY, WAL, World

PATIENCE = 60
OPTIONS = DBOptions(background="thread", wal_segment_size=1 << 20, min_free_disk=0)


def test_the_first_segment_is_written_before_prepare_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Syncs into one that is only reserved take longer."""
    gate, begun, reserved = threading.Event(), threading.Event(), []
    allocate = os_files._OsFile.allocate

    def slowly(file: os_files._OsFile, size: int) -> None:
        begun.set()
        assert gate.wait(PATIENCE)
        allocate(file, size)

    monkeypatch.setattr(os_files._OsFile, "allocate", slowly)
    monkeypatch.setattr(os_files._OsFile, "reserve", lambda file, size: reserved.append(size))
    with DB.open(str(tmp_path), OPTIONS) as db, ThreadPoolExecutor(1) as thread:
        prepared = thread.submit(db.prepare)
        assert begun.wait(PATIENCE)
        with pytest.raises(TimeoutError):
            prepared.result(0.2)
        gate.set()
        prepared.result(PATIENCE)
        db.put(b"a", b"1")
        assert reserved == []


def spares(world: World) -> list[str]:
    return [name for name in world.files.list(WAL) if name.startswith("spare-")]


@pytest.mark.parametrize("size", [200, 8000], ids=["memtable", "segment"])
def test_the_next_segment_is_made_when_half_of_the_one_before_is_used(size: int) -> None:
    """Its zeros kept the disk from the first syncs, a fifth of a second long."""
    world = World(memtable_capacity=64 << 10, wal_segment_size=64 << 10, takes_tables=False)
    db = world.open()
    assert len(spares(world)) == 1, "the first one"
    written = 0
    while not spares(world) or not db.visible_seq:
        db.put(b"k%d" % db.visible_seq, b"v" * size)
        written += size
    assert 16 << 10 < written < 48 << 10
    assert not db._engine.live.current.sealed


def test_what_is_hardly_used_needs_no_other() -> None:
    world = World(**ROOMY)
    with world.open() as db:
        db.prepare()
        db.put(b"a", b"1")
        db.prepare()
        assert spares(world) == []
