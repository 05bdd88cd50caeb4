"""A death at every operation on a repository, while a backup, a restore or a prune runs.

After each: every backup that has a descriptor is whole, no database is there that is not whole,
and doing the same again succeeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from seerdb.storage.backup.archive import open_archive
from seerdb.storage.backup.check import check_backups
from seerdb.storage.backup.locks import LOCK_SECONDS
from seerdb.storage.backup.prune import prune
from seerdb.storage.backup.retention import Retention
from seerdb.storage.backup.take import Source, Wish, take_backup
from seerdb.storage.object_store.names import (
    BACKUP_PREFIX,
    BLOB_PREFIX,
    HOLD_PREFIX,
    LOCK_PREFIX,
    MANIFEST_PREFIX,
    TABLE_PREFIX,
)
from seerdb.storage.retention.checkpoints import HOLD_SECONDS, held
from seerdb.testing.crash import CrashError
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.fixtures.backups import back_up, carrier, content, restore
from tests.fixtures.database import World, collect_garbage, fill

pytestmark = pytest.mark.crash

RANDOM = random.Random(3)

Outcome = tuple[World, MemoryObjectStore]


class Scene:
    """Two backups of a database that went on afterwards, made anew for each death."""

    def __init__(self) -> None:
        self.world = World(blob_threshold=150)
        self.repository = MemoryObjectStore(self.world.clock)
        self.states: dict[int, dict[bytes, bytes]] = {}
        with self.world.open() as db:
            for start in (0, 10, 20):
                fill(db, 14, start=start)
                db.flush()
                for number in range(2):
                    db.put(b"n%d" % number, b"%d" % start, durability="object")
                self.states[db.visible_seq] = dict(db.scan())
                if start < 20:
                    back_up(self.world, self.repository)
                    self.world.clock.advance(1)

    def check_repository(self, least: int) -> None:
        """Every backup there, ``least`` or more, is whole, and the newest what it says it is."""
        archive = open_archive(self.repository)
        assert not archive.damaged
        assert len(archive.bases) >= least
        assert check_backups(self.repository, carrier(self.world.clock)).ok
        newest = archive.bases[-1]
        assert newest.backup is not None
        _, bucket = restore(self.world, self.repository, backup=newest.backup.id)
        assert content(self.world, bucket) == self.states[newest.seq]


def deaths(run: Callable[[Scene, FaultyObjectStore], Any], check: Callable[[Scene], None]) -> int:
    """Die before and after each operation on the repository, and have ``check`` look at what is
    left; returns how many operations there are."""
    number = 0
    while True:
        number += 1
        for moment in ("crash_at", "crash_after"):
            scene = Scene()
            store = FaultyObjectStore(scene.repository, scene.world.clock)
            setattr(store, moment, number)
            try:
                run(scene, store)
            except CrashError:
                scene.world.clock.advance(LOCK_SECONDS + 1)
                check(scene)
            else:
                assert moment == "crash_at", "the last operation was seen with both"
                return number - 1


def test_a_backup_that_dies_anywhere_harms_none_and_is_completed_by_the_next() -> None:
    def run(scene: Scene, store: FaultyObjectStore) -> None:
        back_up(scene.world, store)

    def check(scene: Scene) -> None:
        scene.check_repository(least=2)
        back_up(scene.world, scene.repository)
        scene.check_repository(least=3)
        prune(scene.repository, Retention(count=1), scene.world.clock, bytes)
        scene.check_repository(least=1)
        assert not scene.repository.list(LOCK_PREFIX)

    assert deaths(run, check) > 10


def test_a_backup_that_dies_at_its_source_anywhere_leaves_nothing_there_for_good() -> None:
    """What it holds of the database stays for as long as it might still be copied, then goes."""
    number, died = 0, True
    while died:
        number += 1
        for moment in ("crash_at", "crash_after"):
            scene = Scene()
            world = scene.world
            source = FaultyObjectStore(world.bucket, world.clock)
            setattr(source, moment, number)
            died = False
            try:
                with held(source, clock=world.clock, random_bytes=RANDOM.randbytes) as hold:
                    state = Source(source, hold.state)
                    wish, carrying = Wish(), carrier(world.clock)
                    take_backup(state, scene.repository, wish, carrying, RANDOM.randbytes)
            except CrashError:
                died = True
            world.clock.advance(LOCK_SECONDS + 1)
            scene.check_repository(least=2)
            back_up(world, scene.repository)
            scene.check_repository(least=3)
            check_holds_end(world)
    assert number > 10


def check_holds_end(world: World) -> None:
    """A collector takes the holds of the dead, and what only they kept."""
    with world.open() as db:
        db.compact()
        world.clock.advance(HOLD_SECONDS)
        for _ in range(3):
            fill(db, 14)
            db.compact()
            collect_garbage(world, db)
        state = db._engine.manifest.state
        needed = {name for table in state.version.tables for name in table.objects}
        names = [TABLE_PREFIX, BLOB_PREFIX, HOLD_PREFIX]
        assert {info.name for prefix in names for info in world.bucket.list(prefix)} == needed


def test_a_prune_that_dies_anywhere_leaves_whole_backups_and_is_completed_by_the_next() -> None:
    def run(scene: Scene, store: FaultyObjectStore) -> None:
        prune(store, Retention(count=1), scene.world.clock, bytes)

    def check(scene: Scene) -> None:
        scene.check_repository(least=1)
        prune(scene.repository, Retention(count=1), scene.world.clock, bytes)
        [base] = open_archive(scene.repository).bases
        assert base.backup is not None
        needed = {each.name for each in base.backup.objects}
        others = (BACKUP_PREFIX, LOCK_PREFIX, "wal/")
        there = {i.name for i in scene.repository.list("") if not i.name.startswith(others)}
        assert there == {name for name in needed if not name.startswith(others)}
        scene.check_repository(least=1)

    assert deaths(run, check) > 8


@pytest.mark.parametrize("prefix", [None, b"k001"])
def test_a_restore_that_dies_anywhere_is_no_database_or_all_of_it(prefix: bytes | None) -> None:
    targets: list[MemoryObjectStore] = []

    def expected(scene: Scene) -> dict[bytes, bytes]:
        newest = scene.states[max(seq for seq in scene.states if seq in _ends(scene))]
        return {key: newest[key] for key in newest if key.startswith(prefix or b"")}

    def run(scene: Scene, store: FaultyObjectStore) -> None:
        inner = MemoryObjectStore(scene.world.clock)
        targets.append(inner)
        target = FaultyObjectStore(inner, scene.world.clock)
        target.crash_at, target.crash_after = store.crash_at, store.crash_after
        restore(scene.world, scene.repository, target, prefix=prefix)

    def check(scene: Scene) -> None:
        target = targets[-1]
        if not target.list(MANIFEST_PREFIX):
            restore(scene.world, scene.repository, target, prefix=prefix)
        assert content(scene.world, target) == expected(scene)

    assert deaths(run, check) > 4


def _ends(scene: Scene) -> set[int]:
    return {base.seq for base in open_archive(scene.repository).bases}
