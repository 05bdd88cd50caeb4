"""A prune deletes what is not to be kept and nothing that a backup, or a restore, needs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from seerdb.errors import (
    BusyError,
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
)
from seerdb.ids import Epoch, SeqNo
from seerdb.storage.backup import prune as module
from seerdb.storage.backup.archive import open_archive
from seerdb.storage.backup.catalogue import Catalogue
from seerdb.storage.backup.check import check_backups
from seerdb.storage.backup.copying import Progress
from seerdb.storage.backup.descriptor import new_id
from seerdb.storage.backup.locks import LOCK_SECONDS, Kind, RepositoryLock
from seerdb.storage.backup.prune import PruneReport, plan_prune, prune
from seerdb.storage.backup.retention import Retention, unneeded
from seerdb.storage.object_store.base import ObjectInfo
from seerdb.storage.object_store.names import (
    BACKUP_PREFIX,
    BLOB_PREFIX,
    LOCK_PREFIX,
    TABLE_PREFIX,
    backup_name,
    wal_name,
)
from seerdb.storage.pieces import Body
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.fixtures.backups import back_up, carrier, content, restore
from tests.fixtures.database import World, fill

OWNER, OTHER = "ab" * 16, "cd" * 16
DAY = 86_400.0


class Kept:
    """A repository with a backup a day, of a database that is rewritten every day."""

    def __init__(self, days: int = 5, keep: tuple[int, ...] = ()) -> None:
        self.world = World(blob_threshold=150)
        self.repository = MemoryObjectStore(self.world.clock)
        self.rows: dict[str, dict[bytes, bytes]] = {}
        self.go_on(days, keep)

    def go_on(self, days: int, keep: tuple[int, ...] = ()) -> None:
        with self.world.open() as db:
            for day in range(len(self.rows), len(self.rows) + days):
                fill(db, 30, start=10 * day)
                db.compact()
                db.put(b"day", b"%d" % day, durability="object")
                rows = dict(db.scan())
                report = back_up(self.world, self.repository, keep=day in keep)
                self.rows[report.id] = rows
                self.world.clock.advance(DAY)
        self.ids = list(self.rows)

    def prune(self, count: int | None = None, seconds: float | None = None) -> PruneReport:
        retention = Retention(count=count, seconds=seconds)
        return prune(self.repository, retention, self.world.clock, self.world.random.randbytes)

    def check(self) -> None:
        """What is left is sound, complete and not more than needed."""
        archive = open_archive(self.repository)
        assert check_backups(self.repository, carrier(self.world.clock)).ok
        needed = {each.name for b in archive.bases if b.backup for each in b.backup.objects}
        there = {info.name for info in self.repository.list(TABLE_PREFIX)}
        assert there == {name for name in needed if name.startswith(TABLE_PREFIX)}
        for base in archive.bases:
            assert base.backup is not None
            _, bucket = restore(self.world, self.repository, backup=base.backup.id)
            assert content(self.world, bucket) == self.rows[base.backup.id]


def test_the_newest_few_stay() -> None:
    kept = Kept()
    report = kept.prune(count=2)
    assert (report.pruned, report.kept) == (kept.ids[:3], kept.ids[3:])
    assert report.objects > 0
    kept.check()


def test_what_was_made_shortly_before_the_newest_stays() -> None:
    kept = Kept()
    assert kept.prune(seconds=2.5 * DAY).kept == kept.ids[2:]
    assert kept.prune(seconds=0).kept == kept.ids[4:]
    kept.check()


@pytest.mark.parametrize("step", [1000 * DAY, -1000 * DAY])
def test_no_clock_of_who_prunes_makes_a_backup_old(step: float) -> None:
    """It deleted all but one, in the year 2040. Nor does time, when no backup comes any more."""
    kept = Kept()
    kept.world.clock.set_now(kept.world.clock.now() + step)
    assert set(kept.prune(seconds=2.5 * DAY).kept) >= set(kept.ids[2:])
    kept.check()


@pytest.mark.parametrize("step", [1000 * DAY, -1000 * DAY])
def test_a_newest_backup_that_was_made_by_a_wrong_clock_makes_no_other_old(step: float) -> None:
    kept = Kept(days=3)
    clock = kept.world.clock
    clock.set_now(clock.now() + step)
    kept.go_on(days=1)
    clock.set_now(clock.now() - step)
    assert set(kept.prune(seconds=2.5 * DAY).kept) >= set(kept.ids[2:])
    kept.check()


@pytest.mark.parametrize("harm", ["gone", "shorter"])
def test_the_newest_that_is_whole_stays_whatever_was_made_since(harm: str) -> None:
    kept = Kept()
    whole, *broken = open_archive(kept.repository).bases[1:]
    assert whole.backup is not None
    others = {each.name for each in whole.backup.objects}
    for base in broken:
        assert base.backup is not None
        name = next(each.name for each in base.backup.objects if each.name not in others)
        data = kept.repository.get(name)
        kept.repository.delete([name])
        if harm == "shorter":
            kept.repository.put(name, data[:-1])
    for wanted in ({"count": 1}, {"seconds": 0.0}):
        assert kept.prune(**wanted).kept == [kept.ids[1], kept.ids[4]]
    _, bucket = restore(kept.world, kept.repository, backup=kept.ids[1])
    assert content(kept.world, bucket) == kept.rows[kept.ids[1]]


@pytest.mark.parametrize("step", [1000 * DAY, -1000 * DAY])
def test_the_newest_is_told_by_what_it_holds_and_by_no_clock(step: float) -> None:
    """PB-13. A backup that was made while the clock was ahead counted as the newest for years, and
    all that came after it were pruned."""
    kept = Kept(days=2)
    clock = kept.world.clock
    clock.set_now(clock.now() + step)
    kept.go_on(days=1)
    clock.set_now(clock.now() - step)
    kept.go_on(days=2)
    for count in (3, 2):
        assert kept.prune(count=count).kept == kept.ids[-count:]
        kept.check()


def test_what_was_made_to_be_kept_stays() -> None:
    kept = Kept(keep=(0, 2))
    assert kept.prune(count=1).kept == [kept.ids[0], kept.ids[2], kept.ids[4]]
    kept.check()


def test_every_commit_since_the_oldest_backup_left_can_still_be_restored() -> None:
    kept = Kept()
    before = open_archive(kept.repository)
    seqs = [
        seq
        for each in before.ranges()
        for seq in range(each.first, each.last + 1)
        if seq >= before.bases[2].state.last_seq
    ]
    kept.prune(count=3)
    after = open_archive(kept.repository)
    assert all(after.candidates(seq) for seq in seqs)


def test_log_stays_that_reaches_past_the_oldest_backup_left() -> None:
    [base] = open_archive(Kept(days=1).repository).bases
    assert base.backup is not None
    at = base.state.last_seq
    epoch = Epoch(base.state.epoch)
    ends = wal_name(epoch, SeqNo(1), at)
    reaches_past = wal_name(epoch, SeqNo(at - 1), SeqNo(at + 1))
    alone = replace(base.backup, log=())
    assert unneeded([ends, reaches_past], [alone]) == [ends]


def test_a_plan_tells_what_would_go_and_changes_nothing() -> None:
    kept = Kept()
    before = dict(kept.repository._objects)
    report = plan_prune(kept.repository, Retention(count=2), kept.world.clock)
    assert kept.repository._objects == before
    assert report.dry_run
    done = kept.prune(count=2)
    assert (done.pruned, done.objects, done.bytes) == (report.pruned, report.objects, report.bytes)


def test_what_stays_of_thousands_of_backups_is_told_in_linear_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of them was compared with each that goes."""
    kept = Kept(days=1)
    [base] = open_archive(kept.repository).bases
    assert base.backup is not None
    backups = [
        replace(base.backup, id=new_id(created_us, "ab" * 4), created_us=created_us)
        for created_us in range(20_000)
    ]
    monkeypatch.setattr(module, "read_catalogue", lambda _: Catalogue(backups))
    began = time.process_time()
    report = plan_prune(kept.repository, Retention(count=10_000), kept.world.clock)
    assert time.process_time() - began < 2
    assert report.kept == [each.id for each in backups[10_000:]]


def test_what_a_failed_backup_left_goes() -> None:
    kept = Kept(days=2)
    kept.repository.put(f"{TABLE_PREFIX}00000009-000000000001.sst", b"x")
    kept.prune(count=2)
    kept.check()


def test_names_that_are_not_ours_stay() -> None:
    kept = Kept(days=2)
    for name in ("README", "tables/note.txt", "wal/x"):
        kept.repository.put(name, b"x")
    kept.prune(count=1)
    assert {"README", "tables/note.txt", "wal/x"} <= {i.name for i in kept.repository.list("")}


def test_nothing_is_deleted_while_a_descriptor_cannot_be_read() -> None:
    kept = Kept()
    kept.repository.put(backup_name(kept.ids[1]), b"x")
    before = dict(kept.repository._objects)
    with pytest.raises(CorruptionError, match=kept.ids[1]):
        kept.prune(count=1)
    assert kept.repository._objects == before


def test_a_database_and_an_empty_place_are_refused() -> None:
    kept = Kept(days=1)
    clock = kept.world.clock
    with pytest.raises(InvalidRequestError, match="this is a database"):
        prune(kept.world.bucket, Retention(count=1), clock, kept.world.random.randbytes)
    with pytest.raises(NotFoundError):
        prune(MemoryObjectStore(), Retention(count=1), clock, kept.world.random.randbytes)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"count": 0},
        {"count": 1.5},
        {"count": "3"},
        {"seconds": -1.0},
        {"seconds": math.nan},
        {"seconds": "30d"},
    ],
)
def test_a_retention_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        Retention(**wrong)


def test_no_prune_runs_beside_a_backup() -> None:
    kept = Kept(days=2)

    def try_it(_: Progress) -> None:
        with pytest.raises(BusyError):
            kept.prune(count=1)

    with kept.world.open() as db:
        fill(db, 10)
        db.flush()
    report = back_up(kept.world, kept.repository, watch=try_it)
    assert report.copied_objects > 0


def test_a_backup_that_slept_until_a_prune_took_its_lock_makes_no_descriptor() -> None:
    kept = Kept(days=2)
    with kept.world.open() as db:
        fill(db, 10)
        db.flush()
    before = {info.name for info in kept.repository.list(BACKUP_PREFIX)}

    def sleep(_: Progress) -> None:
        if "slept" not in slept:
            slept.append("slept")
            kept.world.clock.advance(2 * LOCK_SECONDS)
            kept.prune(count=1)

    slept: list[str] = []
    with pytest.raises(ConflictError, match="run it again"):
        back_up(kept.world, kept.repository, watch=sleep)
    assert {info.name for info in kept.repository.list(BACKUP_PREFIX)} < before
    kept.prune(count=1)
    kept.check()
    report = back_up(kept.world, kept.repository)
    with kept.world.open() as db:
        kept.rows[report.id] = dict(db.scan())
    kept.check()


def test_a_backup_that_sleeps_right_before_its_descriptor_takes_it_back() -> None:
    kept = Kept(days=2)
    with kept.world.open() as db:
        fill(db, 10)
        db.flush()

    class Sleeper(FaultyObjectStore):
        def put(self, name: str, data: Body) -> None:
            if name.startswith(BACKUP_PREFIX):
                kept.world.clock.advance(2 * LOCK_SECONDS)
                kept.prune(count=1)
            super().put(name, data)

    with pytest.raises(ConflictError, match="run it again"):
        back_up(kept.world, Sleeper(kept.repository, kept.world.clock))
    assert len(kept.repository.list(BACKUP_PREFIX)) == 1
    kept.check()


class Slow(FaultyObjectStore):
    """Each deletion of tables or blobs takes ``seconds``; then ``meanwhile`` is called."""

    def __init__(self, kept: Kept, seconds: float, meanwhile: Callable[[], None]) -> None:
        super().__init__(kept.repository, kept.world.clock)
        self._kept, self._seconds, self._meanwhile = kept, seconds, meanwhile

    def delete(self, names: Iterable[str]) -> None:
        names = list(names)
        super().delete(names)
        if any(name.startswith((TABLE_PREFIX, BLOB_PREFIX)) for name in names):
            self._kept.world.clock.advance(self._seconds)
            self._meanwhile()


def test_a_prune_keeps_its_lock_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seerdb.storage.backup.prune.PORTION", 1)
    kept, refused = Kept(days=5), 0

    def try_it() -> None:
        nonlocal refused
        with pytest.raises(BusyError):
            back_up(kept.world, kept.repository)
        refused += 1

    slow = Slow(kept, LOCK_SECONDS / 2, try_it)
    prune(slow, Retention(count=1), kept.world.clock, kept.world.random.randbytes)
    assert refused > 4
    kept.check()


def test_a_prune_that_slept_longer_than_its_lock_deletes_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("seerdb.storage.backup.prune.PORTION", 1)
    kept = Kept(days=5)
    slow = Slow(kept, LOCK_SECONDS, lambda: None)
    before = kept.repository.list(TABLE_PREFIX) + kept.repository.list(BLOB_PREFIX)
    with pytest.raises(ConflictError, match="run it again"):
        prune(slow, Retention(count=1), kept.world.clock, kept.world.random.randbytes)
    after = kept.repository.list(TABLE_PREFIX) + kept.repository.list(BLOB_PREFIX)
    assert len(after) == len(before) - 1
    assert not kept.repository.list(LOCK_PREFIX)
    kept.prune(count=1)
    kept.check()


def test_the_lock_of_a_dead_backup_runs_out() -> None:
    kept = Kept(days=2)
    dead = RepositoryLock(kept.repository, "backup", OWNER, kept.world.clock)
    dead.__enter__()
    with pytest.raises(BusyError):
        kept.prune(count=1)
    kept.world.clock.advance(LOCK_SECONDS + 1)
    kept.prune(count=1)
    assert not kept.repository.list(LOCK_PREFIX)
    with pytest.raises(ConflictError):
        dead.check()


def test_a_lock_is_kept_as_long_as_its_owner_works() -> None:
    store, world = MemoryObjectStore(), World()
    with RepositoryLock(store, "backup", OWNER, world.clock) as lock:
        for _ in range(10):
            world.clock.advance(LOCK_SECONDS / 2)
            lock.renew()
            with pytest.raises(BusyError), RepositoryLock(store, "prune", OTHER, world.clock):
                pass
        lock.check()
        with RepositoryLock(store, "backup", OTHER, world.clock):
            pass
    assert not store.list(LOCK_PREFIX)


@pytest.mark.parametrize("step", [-86_400.0, 86_400.0])
@pytest.mark.parametrize(("mine", "theirs"), [("backup", "prune"), ("prune", "backup")])
def test_no_clock_of_a_machine_makes_the_lock_of_another_run_out(
    mine: Kind, theirs: Kind, step: float
) -> None:
    store_clock = FakeClock()
    store, clock = MemoryObjectStore(store_clock), FakeClock(store_clock.now() + step)
    with RepositoryLock(store, mine, OWNER, store_clock) as lock:
        store_clock.advance(LOCK_SECONDS - 1)
        with pytest.raises(BusyError), RepositoryLock(store, theirs, OTHER, clock):
            pass
        lock.check()
    dead = RepositoryLock(store, mine, OWNER, clock)
    dead.__enter__()
    store_clock.advance(LOCK_SECONDS)
    with RepositoryLock(store, theirs, OTHER, store_clock):
        pass


def test_a_backup_that_a_prune_has_counted_on_is_not_taken_back() -> None:
    """PB-12. It stood still once its descriptor was there, until its lock had run out."""
    world = World()
    pruned: list[PruneReport] = []

    class Slow(MemoryObjectStore):
        def list(self, prefix: str) -> list[ObjectInfo]:
            is_check = prefix.startswith(LOCK_PREFIX) and prefix != LOCK_PREFIX
            if is_check and len(super().list(BACKUP_PREFIX)) == 2 and not pruned:
                world.clock.advance(LOCK_SECONDS)
                repository = MemoryObjectStore(world.clock)
                repository._objects = self._objects
                pruned.append(
                    prune(repository, Retention(count=1), world.clock, world.random.randbytes)
                )
            return super().list(prefix)

    repository = Slow(world.clock)
    with world.open() as db:
        fill(db, 30)
        db.flush()
        first = back_up(world, repository)
        rows = fill(db, 60)
        db.compact()
        second = back_up(world, repository)
    assert [(each.pruned, each.kept) for each in pruned] == [([first.id], [second.id])]
    assert check_backups(repository, carrier(world.clock)).ok
    assert not repository.list(LOCK_PREFIX)
    assert content(world, restore(world, repository)[1]) == rows
