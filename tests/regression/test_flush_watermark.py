"""Merges beside memtables that wait to be flushed: what a merge has not seen, it does not judge.

A compaction once took its own idea of how far flushes had come: it counted what was in sealed
memtables, or in a flush under way, as done, and dropped it (SB-04).
"""

from __future__ import annotations

from typing import Any

import pytest

from seerdb import DB, ChecksumError
from tests.fixtures.database import ROOMY, World


def merge_tables(db: DB) -> None:
    """Merge what is in tables, without flushing anything first."""
    compactor = db._engine.compactor
    asked = compactor.ask()
    while not asked.is_done:
        compactor.compact_one()


def history(db: DB) -> dict[bytes, bytes]:
    """Two tables with what the following memtables replace; returns what is there in the end."""
    db.put(b"kept", b"1")
    for key in (b"deleted", b"in range", b"replaced", b"merged"):
        db.put(key, b"old")
    db.flush()
    db.put(b"replaced", b"older")
    db.flush()
    return {b"kept": b"1", b"replaced": b"newest", b"merged": b"old+1+2", b"new": b"2"}


def first_memtable(db: DB) -> None:
    db.delete(b"deleted")
    db.put(b"replaced", b"newer")
    db.merge(b"merged", b"+1")
    db.put(b"new", b"1")


def second_memtable(db: DB) -> None:
    db.delete_range(b"in", b"io")
    db.put(b"replaced", b"newest")
    db.merge(b"merged", b"+2")
    db.put(b"new", b"2")


def test_a_merge_beside_sealed_memtables_leaves_them_alone() -> None:
    """Two of them wait, since the bucket takes no table; the merge moves neither the seq that
    tables reach nor the start of the log. They come into tables in their order."""
    world = World(merge_operator="append", **ROOMY)
    db = world.open()
    expected = history(db)
    world.store.fail("put", match="tables/", times=1 << 30, error=ChecksumError("by plan"))
    for write in (first_memtable, second_memtable):
        write(db)
        with pytest.raises(ChecksumError, match="by plan"):
            db.flush()
    world.store._faults.clear()
    assert len(db._engine.live.current.sealed) == 2
    before = db._engine.manifest.state
    merge_tables(db)
    after = db._engine.manifest.state
    assert len(after.version.tables) == 1
    assert (after.last_seq, after.log_start) == (before.last_seq, before.log_start)
    assert dict(db.scan()) == expected
    for crashed in (world.kill(), world.lose_power(1)):
        assert dict(crashed.open().scan()) == expected
    db.flush()
    assert dict(db.scan()) == expected
    seqs = [
        (run.tables[0].min_seq, run.tables[0].max_seq)
        for run in db._engine.live.current.layout.version.runs
    ]
    assert seqs == sorted(seqs, reverse=True), "the newer a run, the higher its seqs"
    assert dict(world.lose_machine().open().scan()) == expected


@pytest.mark.parametrize("when", ["uploaded", "read back"])
def test_a_merge_in_the_middle_of_a_flush_leaves_it_alone(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tables are merged while a flush has built its table and not published it."""
    world = World(merge_operator="append", **ROOMY)
    db = world.open()
    expected = history(db)
    first_memtable(db)
    second_memtable(db)
    operation = "put" if when == "uploaded" else "get"
    real = getattr(world.bucket, operation)

    def merging(name: str, *rest: Any) -> Any:
        result = real(name, *rest)
        if name.startswith("tables/"):
            monkeypatch.undo()
            merge_tables(db)
            assert len(db._engine.manifest.state.version.tables) == 1
            assert dict(db.scan()) == expected
        return result

    monkeypatch.setattr(world.bucket, operation, merging)
    db.flush()
    assert db.statistics().runs == 2
    assert dict(db.scan()) == expected
    assert dict(world.lose_machine().open().scan()) == expected
    db.compact()
    assert dict(db.scan()) == expected


def test_a_flush_of_the_oldest_of_several_memtables_keeps_the_log_of_the_others() -> None:
    world = World(**ROOMY)
    db = world.open()
    for key in (b"a", b"b", b"c"):
        db.put(key, b"1")
        head = db._engine.committer.head
        head.seal()  # and the flush lane does not hear of it
        head.begin()
    db.put(b"d", b"1")
    assert db._engine.flusher.flush_one() is not None
    assert len(db._engine.live.current.sealed) == 2
    assert dict(world.kill().open().scan()) == dict.fromkeys((b"a", b"b", b"c", b"d"), b"1")
