"""Backups of a database that has lost commits since, and gone another way: each brings back what it
holds, and what is asked for by a seq or a time is what the database tells now."""

from __future__ import annotations

import pytest

from seerdb import DB
from seerdb.storage.backup.archive import open_archive
from seerdb.storage.backup.points import recovery_points
from seerdb.storage.drill.run import DrillReport, run_drill
from seerdb.storage.jobs.control import JobControl
from seerdb.storage.object_store.names import WAL_PREFIX
from seerdb.testing.objects import MemoryObjectStore
from tests.fixtures.backups import back_up, content, restore
from tests.fixtures.database import ROOMY, World

LOST = 7
"""The first commit of those that were lost with a damaged object of the log."""


class Salvaged:
    """A database with a backup at seq 10, with ``LOST`` and what follows in its log alone, that was
    salvaged without these, and went on."""

    def __init__(self) -> None:
        world = World(**ROOMY, ship_interval=1.0, history_retention=10_000.0)
        self.repository = MemoryObjectStore(world.clock)
        with world.open() as db:
            self._write(world, db, 1, 4)
            db.flush()
            self._write(world, db, 4, 11)
            self.before = back_up(world, self.repository)
            self.world = world.lose_machine()
        damaged = self.world.bucket.list(WAL_PREFIX)[-4].name
        self.world.bucket.put(damaged, self.world.bucket.get(damaged)[:-1])
        self.db = self.world.open(recovery="salvage")

    def write(self, start: int, stop: int) -> None:
        self._write(self.world, self.db, start, stop)

    def _write(self, world: World, db: DB, start: int, stop: int) -> None:
        """Commits with these seqs, which say in which life they were made."""
        life = b"second" if hasattr(self, "db") else b"first"
        for seq in range(start, stop):
            world.clock.advance(1.0)
            assert db.put(b"k%03d" % seq, life, durability="object") == seq

    def drill(self, backup: str | None = None) -> DrillReport:
        return run_drill(
            self.world.bucket,
            self.repository,
            MemoryObjectStore(self.world.clock),
            backup=backup,
            control=JobControl(),
            clock=self.world.clock,
            random_bytes=self.world.random.randbytes,
        )


def rows(first: int, second: int) -> dict[bytes, bytes]:
    """What commits up to ``first`` of the first life show, and from there to ``second``."""
    return {
        b"k%03d" % seq: b"first" if seq <= first else b"second"
        for seq in range(1, max(first, second) + 1)
    }


@pytest.mark.parametrize("goes_on_to", [9, 10, 20])
@pytest.mark.parametrize("flushed", [True, False])
def test_each_backup_brings_back_what_it_holds(goes_on_to: int, *, flushed: bool) -> None:
    life = Salvaged()
    life.write(LOST, goes_on_to + 1)
    if flushed:
        life.db.flush()
    after = back_up(life.world, life.repository, source=life.world.bucket)
    assert after.seq == goes_on_to
    report, bucket = restore(life.world, life.repository, backup=life.before.id)
    assert (report.seq, report.notes) == (10, [])
    assert report.time_us == life.before.time_us
    assert content(life.world, bucket) == rows(10, 0)
    report, bucket = restore(life.world, life.repository, backup=after.id)
    assert content(life.world, bucket) == rows(LOST - 1, goes_on_to)
    report, bucket = restore(life.world, life.repository)
    assert (report.seq, report.notes) == (goes_on_to, [])
    assert content(life.world, bucket) == rows(LOST - 1, goes_on_to)


def test_a_seq_and_a_time_are_those_of_the_database_as_it_went_on() -> None:
    life = Salvaged()
    life.write(LOST, 21)
    back_up(life.world, life.repository, source=life.world.bucket)
    [whole] = recovery_points(open_archive(life.repository)).ranges
    assert (whole.first_seq, whole.last_seq) == (3, 20)
    for seq in (LOST - 1, LOST, 10, 15):
        _, bucket = restore(life.world, life.repository, seq=seq)
        assert content(life.world, bucket) == rows(LOST - 1, seq)
    report, bucket = restore(life.world, life.repository, time_us=life.before.time_us)
    assert report.seq == LOST - 1
    assert content(life.world, bucket) == rows(LOST - 1, 0)


def test_a_drill_takes_the_newest_backup_and_compares_none_with_what_came_in_its_place() -> None:
    life = Salvaged()
    life.write(LOST, 21)
    report = life.drill()
    assert (report.backup, report.seq, report.compared) == (life.before.id, 10, False)
    assert "has lost commits of this backup" in report.note
    after = back_up(life.world, life.repository, source=life.world.bucket)
    report = life.drill()
    assert (report.backup, report.compared) == (after.id, True)
    assert not life.drill(life.before.id).compared


def test_the_newest_backup_is_the_one_that_was_made_after_the_loss_though_it_holds_less() -> None:
    life = Salvaged()
    life.write(LOST, 9)
    life.db.flush()
    after = back_up(life.world, life.repository, source=life.world.bucket)
    assert life.drill().backup == after.id
