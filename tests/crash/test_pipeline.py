"""Crashes while commits are in flight: what was told is there, and what is there has no gaps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from seerdb import DB, Batch
from seerdb.storage.write.request import Outcome
from seerdb.testing.crash import CrashError
from tests.fixtures.database import CrashPoint, World

pytestmark = pytest.mark.crash

FAT = b"v" * 300
GROUPS = 12
POWER_LOSSES = range(1, 5)


class Load:
    """Groups of puts, each submitted while the one before is synced, and told after that."""

    def __init__(self, point: CrashPoint | None, **settings: Any) -> None:
        self.world = World(memtable_capacity=1 << 20, wal_segment_size=16 << 10, **settings)
        self.world.crash_at(point)
        self.submitted: list[bytes] = []
        self.told: list[bytes] = []
        self.died = False
        self.in_flight = 0
        try:
            self._run(self.world.open())
        except CrashError:
            self.died = True

    def _run(self, db: DB) -> None:
        db.put(b"first", b"v")
        committer = db._engine.committer
        pipeline, synced = committer.pipeline, 0
        for group in range(GROUPS):
            self._submit(db, group)
            self.in_flight += len(committer._flight._groups) > 1
            if pipeline._untold and pipeline._untold[0][1][-1].seq <= synced:
                pipeline._tell(synced)
            if group % 4 == 3:
                self._put(db, group)  # finishes what is in flight
            elif committer.append_queued():
                committer.lead()
            if group == GROUPS // 2:
                db.flush()
            synced = committer.sync_beside()
        pipeline.stop()
        pipeline.serve()
        db.close()

    def _submit(self, db: DB, group: int) -> None:
        submissions = []
        for number in range(3):
            batch = Batch()
            batch.put(key := b"%02d %d" % (group, number), FAT)
            submissions.append((batch, "local", None, key))
            self.submitted.append(key)
        db._engine.committer.pipeline.submit(submissions, 0, self._hear)

    def _put(self, db: DB, group: int) -> None:
        self.submitted.append(key := b"%02d p" % group)
        db.put(key, FAT, durability="local")
        self.told.append(key)

    def _hear(self, outcomes: Iterable[Outcome]) -> None:
        for ticket, outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            assert isinstance(ticket, bytes)
            self.told.append(ticket)


def after_each_crash(**settings: Any) -> Iterator[tuple[Load, World]]:
    """The load, cut short at each operation of disk and bucket, and what a crash may leave."""
    for point in Load(None, **settings).world.crash_points():
        load = Load(point, **settings)
        assert load.died
        yield load, load.world.kill()
        for seed in POWER_LOSSES:
            yield load, load.world.lose_power(seed)


def check(load: Load, world: World) -> None:
    db = world.open()
    found = {entry.key: entry.seq for entry in db.scan_entries() if entry.key != b"first"}
    assert set(load.told) <= found.keys(), "what was told is there"
    in_order = sorted(found, key=found.__getitem__)
    assert in_order == load.submitted[: len(in_order)], "nothing is there without all before it"
    db.put(b"after", b"1", durability="local")
    db.close()


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_crash_at_every_operation_while_commits_are_in_flight(compression: str) -> None:
    for load, world in after_each_crash(wal_compression=compression):
        check(load, world)


def test_undisturbed_everything_is_told() -> None:
    load = Load(None)
    assert not load.died
    assert sorted(load.told) == sorted(load.submitted)
    assert load.in_flight >= GROUPS // 3, "enough of it was appended while something was synced"
    check(load, load.world.kill())
