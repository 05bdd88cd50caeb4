"""A death in the middle of a deletion of many objects: some of them are gone, in any order (I8).

A store deletes many objects by many requests, or by one that it does not undo. What is left after a
part of them, whichever it is, is a database as sound as before, and the next one completes it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from seerdb import DB
from seerdb.storage.backup.archive import open_archive
from seerdb.testing.crash import CrashError
from seerdb.testing.objects import MemoryObjectStore
from tests.crash.trace import Run, Step, Verb, check_recovery, delete, put
from tests.fixtures.backups import content, restore
from tests.fixtures.database import World, collect_garbage
from tests.fixtures.follower import contents, follow

pytestmark = pytest.mark.crash

RETENTION = 1500.0
SETTINGS: dict[str, Any] = {
    "ship_interval": 1.0,
    "blob_threshold": 150,
    "history_retention": RETENTION,
}


def fat(key: bytes, version: int) -> Step:
    return put(key, b"%d" % version * 200, "object")


STEPS: tuple[Step, ...] = tuple(
    step
    for version in range(8)
    for step in (
        *(fat(b"k%d" % number, version) for number in range(4)),
        delete(b"k%d" % (version % 4), "object"),
        Verb("flush"),
        *([Verb("compact")] if version % 3 == 2 else []),
        *([Verb("reopen")] if version % 4 == 3 else []),
        fat(b"late", version),
        Verb("wait"),
        Verb("collect"),
    )
)


class TornStore(MemoryObjectStore):
    """Dies in the ``at``-th deletion, when it has deleted some of the objects, as drawn."""

    deletions = 0
    at = 0
    draw = random.Random(0)

    def delete(self, names: Iterable[str]) -> None:
        wanted = list(names)
        self.deletions += len(wanted) > 1
        if len(wanted) > 1 and self.deletions == self.at:
            super().delete(self.draw.sample(wanted, self.draw.randrange(1, len(wanted))))
            raise CrashError("the process is dead, by plan")
        super().delete(wanted)


@dataclass
class Collected(Run):
    """Has a verb more, and knows when commits were acknowledged."""

    times: dict[int, float] = field(default_factory=dict)

    def _do(self, db: DB, step: Step) -> DB:
        if step == Verb("collect"):
            db._engine.background.garbage.wake()
            return db
        db = super()._do(db, step)
        self.times.setdefault(self.model.seq, self.world.clock.now())
        return db


def run(at: int, seed: int) -> tuple[Collected, TornStore]:
    store = TornStore()
    store.at, store.draw = at, random.Random(seed)
    world = World(bucket=store, **SETTINGS)
    store._clock = world.clock
    collected = Collected(world)
    collected.execute(STEPS)
    return collected, store


def check_past(run: Collected, world: World) -> None:
    """Every commit that the bucket says it still has is restored as it was, and that are all of the
    retention at least."""
    since = world.clock.now() - RETENTION
    ranges = open_archive(world.bucket).ranges()
    there = {seq for covered in ranges for seq in range(covered.first, covered.last + 1)}
    assert there >= {seq for seq, time in run.times.items() if time >= since}
    for seq in there:
        _, bucket = restore(world, world.bucket, seq=seq)
        expected = {key: found.value for key, found in run.model.contents(seq).items()}
        assert content(world, bucket) == expected


def complete(world: World) -> DB:
    db = world.open()
    for _ in range(3):
        collect_garbage(world, db)
    assert db.verify().problems == []
    return db


def test_what_is_left_of_a_torn_deletion_is_a_whole_database() -> None:
    undisturbed, store = run(0, 0)
    assert not undisturbed.died
    assert store.deletions > 5
    for at in range(1, store.deletions + 1):
        for seed in range(4):
            torn, _ = run(at, 7 * at + seed)
            assert torn.died
            model = torn.model
            check_recovery(torn.world.lose_machine(), model, "object")
            check_past(torn, torn.world.lose_machine())
            after = torn.world.kill()
            replica = follow(after)
            replica.refresh()
            expected = {key: tuple(value) for key, value in model.contents(replica.seq).items()}
            assert contents(replica) == expected
            db = complete(after)
            assert {e.key: e.value for e in db.scan_entries()} == {
                key: found.value for key, found in model.contents(db.visible_seq).items()
            }
