"""A backup holds the state it says it holds, and copies no more than the repository lacks."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest

from seerdb.errors import (
    BusyError,
    ChecksumError,
    ClosedError,
    CorruptionError,
    InvalidRequestError,
    UnavailableError,
)
from seerdb.storage.backup import copying
from seerdb.storage.backup.catalogue import read_catalogue
from seerdb.storage.backup.check import check_backups
from seerdb.storage.backup.copying import MOST_IN_FLIGHT, Carrier, Progress
from seerdb.storage.backup.descriptor import decode_descriptor, encode_descriptor
from seerdb.storage.backup.locks import LOCK_SECONDS, RepositoryLock
from seerdb.storage.backup.places import Transfer
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.object_store.names import BACKUP_PREFIX, LOCK_PREFIX, TABLE_PREFIX, WAL_PREFIX
from seerdb.storage.object_store.stores import Stores
from seerdb.storage.retention.checkpoints import held
from seerdb.storage.workers.threads import transfer_threads, unless_interrupted
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.fixtures.backups import back_up, carrier, content, restore
from tests.fixtures.database import ROOMY, World, fill

OWNER = "ab" * 16


def objects(store: MemoryObjectStore, prefix: str = "") -> dict[str, int]:
    return {info.name: info.size for info in store.list(prefix)}


def test_a_backup_comes_back_as_it_was_when_it_was_taken() -> None:
    world, repository = World(blob_threshold=150), MemoryObjectStore()
    with world.open() as db:
        rows = fill(db, 60)
        db.flush()
        db.put(b"shipped", b"1", durability="object")
        report = back_up(world, repository)
        assert report.seq == db.visible_seq
        fill(db, 60, start=30)
    _, bucket = restore(world, repository)
    assert content(world, bucket) == rows | {b"shipped": b"1"}


def test_the_next_backup_copies_only_what_is_new() -> None:
    world, repository = World(), MemoryObjectStore()
    with world.open() as db:
        fill(db, 200)
        db.compact()
        first = back_up(world, repository)
        assert first.copied_bytes == first.bytes
        fill(db, 2)
        db.flush()
        second = back_up(world, repository)
        assert second.copied_objects == 1
        assert second.copied_bytes < second.bytes / 20
        assert back_up(world, repository).copied_objects == 0
    assert len(objects(repository, BACKUP_PREFIX)) == 3
    assert not objects(repository, LOCK_PREFIX)


def test_a_backup_that_failed_is_resumed_and_copies_only_the_rest() -> None:
    world = World()
    inner = MemoryObjectStore()
    repository = FaultyObjectStore(inner)
    with world.open() as db:
        fill(db, 200)
        db.flush()
    repository.fail("put", match=TABLE_PREFIX, skip=3)
    with pytest.raises(UnavailableError):
        back_up(world, repository)
    assert not objects(inner, BACKUP_PREFIX)
    there = objects(inner, TABLE_PREFIX)
    assert len(there) == 3
    report = back_up(world, repository)
    assert report.copied_objects == report.objects - 3
    assert report.copied_bytes == report.bytes - sum(there.values())


def test_what_a_failed_backup_left_damaged_is_copied_again() -> None:
    world, repository = World(), MemoryObjectStore()
    with world.open() as db:
        rows = fill(db, 100)
        db.flush()
    complete = MemoryObjectStore()
    back_up(world, complete)
    name, size = next(iter(objects(complete, TABLE_PREFIX).items()))
    repository.put(name, b"x" * size)
    back_up(world, repository)
    _, bucket = restore(world, repository)
    assert content(world, bucket) == rows


def test_a_full_backup_repairs_what_was_damaged_since() -> None:
    world, repository = World(), MemoryObjectStore()
    with world.open() as db:
        rows = fill(db, 100)
        db.flush()
    back_up(world, repository)
    name, size = next(iter(objects(repository, TABLE_PREFIX).items()))
    repository.put(name, b"x" * size)
    assert back_up(world, repository).copied_objects == 0
    assert back_up(world, repository, full=True).copied_objects == 1
    _, bucket = restore(world, repository)
    assert content(world, bucket) == rows


class Between:
    """A database with a backup at seq 0, one at seq 4 of its log, and one of its tables."""

    def __init__(self) -> None:
        self.world = World(**ROOMY, ship_interval=1.0, history_retention=10_000.0)
        self.repository = MemoryObjectStore(self.world.clock)
        self.db = self.world.open()
        self.backups = [back_up(self.world, self.repository)]
        for number in range(8):
            self.db.put(b"k%d" % number, b"v", durability="object")
            if number == 3:
                self.backups.append(back_up(self.world, self.repository))
        self.db.flush()
        self.backups.append(back_up(self.world, self.repository))

    def damage(self, seq: int) -> str:
        """Change a byte of the object of the log that has a commit; returns its name."""
        name = self.repository.list(WAL_PREFIX)[seq - 1].name
        data = self.repository.get(name)
        self.repository.put(name, data[:-1] + bytes([data[-1] ^ 1]))
        return name


@pytest.mark.parametrize("seq", [2, 6], ids=["of another backup", "between backups"])
def test_a_full_backup_repairs_log_that_only_older_commits_need(seq: int) -> None:
    life = Between()
    name = life.damage(seq)
    check = check_backups(life.repository, carrier(life.world.clock))
    assert [name in problem for problem in check.problems] == [True] * (seq == 6)
    assert [any(name in each for each in one.problems) for one in check.backups] == [
        False,
        seq == 2,
        False,
    ]
    assert not check.ok
    for one in life.backups:
        alone = check_backups(life.repository, carrier(life.world.clock), one.id)
        assert alone.ok == (seq == 6 or one is not life.backups[1])
    with pytest.raises(CorruptionError, match=name):
        restore(life.world, life.repository, seq=seq)
    assert back_up(life.world, life.repository).copied_objects == 0
    report = back_up(life.world, life.repository, full=True)
    assert (report.copied_objects, report.notes) == (1, [])
    assert check_backups(life.repository, carrier(life.world.clock)).ok
    _, bucket = restore(life.world, life.repository, seq=seq)
    assert len(content(life.world, bucket)) == seq


def test_a_table_in_the_place_of_another_of_the_same_lengths_is_damage() -> None:
    """Their checksums were the same: see ``sstable/format.py``."""
    world, repository = World(**ROOMY, compression="none"), MemoryObjectStore()
    with world.open() as db:
        for prefix in b"ab":
            for number in range(20):
                db.put(bytes((prefix, number)), b"v" * 50)
            db.flush()
        back_up(world, repository)
    sizes = objects(repository, TABLE_PREFIX)
    assert len(sizes) == 2
    assert len(set(sizes.values())) == 1
    one, other = sizes
    moved = repository.get(one)
    repository.put(one, repository.get(other))
    repository.put(other, moved)
    [check] = check_backups(repository, carrier(world.clock)).backups
    assert [name in problem for name, problem in zip(sizes, check.problems, strict=True)] == [
        True,
        True,
    ]


def test_a_full_backup_says_what_of_other_backups_stays_damaged() -> None:
    life = Between()
    name = life.damage(2)
    life.world.bucket.delete([name])
    report = back_up(life.world, life.repository, full=True)
    assert report.copied_objects == 0
    assert [name in note for note in report.notes] == [True]


def test_a_full_backup_repairs_a_table_that_only_another_one_needs_and_a_checkpoint_keeps() -> None:
    world, repository = World(**ROOMY), MemoryObjectStore()
    with world.open() as db:
        rows = fill(db, 20)
        db.checkpoint("then")
        before = back_up(world, repository)
        [name] = objects(repository, TABLE_PREFIX)
        db.delete_range(b"a", b"z")
        db.compact()
    repository.put(name, b"?" * objects(repository, TABLE_PREFIX)[name])
    assert back_up(world, repository, full=True).copied_objects == 1
    _, bucket = restore(world, repository, backup=before.id)
    assert content(world, bucket) == rows


def test_a_backup_during_heavy_writes_equals_the_state_it_was_pinned_at() -> None:
    world, repository = World(), MemoryObjectStore()
    states: dict[int, dict[bytes, bytes]] = {}
    with world.open() as db:
        states[100] = fill(db, 100)
        db.flush()

        def write_on(_: Progress) -> None:
            for number in range(5):
                db.put(b"k%04d" % number, b"w%d" % db.visible_seq * 20)
                states[db.visible_seq] = dict(db.scan())

        for _ in range(4):
            report = back_up(world, repository, watch=write_on)
            _, bucket = restore(world, repository, backup=report.id)
            assert content(world, bucket) == states[report.seq]


def test_a_write_that_arrives_changed_is_noticed_and_no_descriptor_put() -> None:
    world = World()
    inner = MemoryObjectStore()
    repository = FaultyObjectStore(inner)
    with world.open() as db:
        fill(db, 50)
        db.flush()
    repository.corrupt("get", match=TABLE_PREFIX)
    with pytest.raises(ChecksumError):
        back_up(world, repository)
    assert not objects(inner, BACKUP_PREFIX)


def test_a_damaged_source_is_noticed() -> None:
    world, repository = World(), MemoryObjectStore()
    with world.open() as db:
        fill(db, 50)
        db.flush()
    source = FaultyObjectStore(world.bucket)
    source.corrupt("get", match=TABLE_PREFIX)
    with pytest.raises(ChecksumError):
        back_up(world, repository, source=source)
    assert not objects(repository, BACKUP_PREFIX)


def test_an_outage_on_either_side_leaves_no_descriptor_and_the_next_try_succeeds() -> None:
    world = World()
    inner = MemoryObjectStore()
    with world.open() as db:
        rows = fill(db, 100)
        db.flush()
    for side in ("source", "target"):
        source, target = FaultyObjectStore(world.bucket), FaultyObjectStore(inner)
        failing = source if side == "source" else target

        def go_away(_: Progress, store: FaultyObjectStore = failing) -> None:
            store.outage = True

        with pytest.raises(UnavailableError):
            back_up(world, target, source=source, watch=go_away)
        assert not objects(inner, BACKUP_PREFIX)
    back_up(world, inner)
    _, bucket = restore(world, inner)
    assert content(world, bucket) == rows


def test_a_repository_takes_backups_of_one_database_only() -> None:
    first, second, repository = World(seed=1), World(seed=2), MemoryObjectStore()
    for world in (first, second):
        with world.open() as db:
            fill(db, 20)
    back_up(first, repository)
    with pytest.raises(InvalidRequestError, match="another place"):
        back_up(second, repository)


def test_no_backup_goes_into_a_database() -> None:
    world, other = World(), World(seed=1)
    with world.open() as db, other.open() as another:
        fill(db, 20)
        fill(another, 20)
        with pytest.raises(InvalidRequestError, match="there is a database"):
            back_up(world, other.bucket)


def test_a_backup_waits_for_no_prune() -> None:
    world, repository = World(), MemoryObjectStore()
    with world.open() as db:
        fill(db, 20)
    with RepositoryLock(repository, "prune", OWNER, world.clock), pytest.raises(BusyError):
        back_up(world, repository)
    back_up(world, repository)


def test_a_rate_is_kept() -> None:
    world = World()
    limited = carrier(world.clock, rate=1000)
    began = world.clock.monotonic()
    limited.carry([(500, lambda: None) for _ in range(8)])
    assert world.clock.monotonic() - began == pytest.approx(3.5, abs=0.6)


def test_a_watcher_can_end_a_backup() -> None:
    world, repository = World(), MemoryObjectStore()
    with world.open() as db:
        fill(db, 100)

    def stop(progress: Progress) -> None:
        if progress.objects == 1:
            raise ClosedError("enough")

    with pytest.raises(ClosedError):
        back_up(world, repository, watch=stop)
    assert not objects(repository, BACKUP_PREFIX)
    assert not objects(repository, LOCK_PREFIX)


def test_every_flipped_byte_of_a_descriptor_is_noticed() -> None:
    world, repository = World(), MemoryObjectStore()
    with world.open() as db:
        fill(db, 5)
    back_up(world, repository)
    [backup] = read_catalogue(repository).backups
    data = encode_descriptor(backup)
    assert decode_descriptor("", data) == backup
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(CorruptionError):
            decode_descriptor("name", damaged)
        with pytest.raises(CorruptionError):
            decode_descriptor("name", data[:place])


def test_backups_go_between_directories(tmp_path: Path) -> None:
    import seerdb

    with seerdb.DB.open(str(tmp_path / "db"), background="inline") as db:
        rows = fill(db, 50)
        db.flush()
        report = seerdb.backup(str(tmp_path / "db"), str(tmp_path / "repository"), label="x")
    assert report.seq == 50
    made = seerdb.restore(str(tmp_path / "repository"), str(tmp_path / "new"))
    assert made.seq == 50
    with seerdb.DB.open(str(tmp_path / "new"), background="inline") as db:
        assert dict(db.scan()) == rows
        assert db.put(b"after", b"1") == 51


def test_results_come_in_the_order_of_their_tasks_whatever_is_done_first() -> None:
    with transfer_threads(4) as threads:
        many = Carrier(threads=threads, clock=World().clock, jobs=4)
        gates = [threading.Event() for _ in range(8)]

        def task(number: int) -> int:
            if number % 4 == 0:
                gates[number + 3].wait(60)
            gates[number].set()
            return number

        tasks = [(1, partial(task, number)) for number in range(8)]
        assert many.carry(tasks) == list(range(8))
        assert many.progress.objects == 8


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_lock_is_kept_while_one_object_takes_long(
    jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was renewed between objects only: a prune took it for that of a backup that had died, and
    deleted what was copied."""
    monkeypatch.setattr(copying, "WATCH_SECONDS", 0.01)
    world, repository = World(), MemoryObjectStore()
    world.clock.advance(1.0)
    renewed = threading.Event()
    with RepositoryLock(repository, "backup", OWNER, world.clock) as lock:

        def renew(_: Progress) -> None:
            lock.renew()
            if len(repository.list(LOCK_PREFIX)) > 1:
                renewed.set()

        def slow() -> bool:
            world.clock.advance(LOCK_SECONDS / 2)
            return renewed.wait(10)

        with Transfer(jobs=jobs, watch=renew).carrier() as some:
            assert some.carry([(1, slow)]) == [True]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_waits_for_nothing_that_is_under_way(kind: type[BaseException]) -> None:
    """Ctrl-C waited until each of them had been tried five times."""
    has_begun, may_end, ended = threading.Event(), threading.Event(), []

    def slow() -> None:
        has_begun.set()
        may_end.wait(10)
        ended.append(True)

    def interrupt(progress: Progress) -> None:
        if progress.objects:
            raise kind

    def carry() -> None:
        with unless_interrupted(transfer_threads(2)) as threads:
            many = Carrier(threads=threads, clock=World().clock, jobs=2, watch=interrupt)
            many.carry([(1, lambda: has_begun.wait(10)), (1, slow)])

    with pytest.raises(kind):
        carry()
    assert not ended
    may_end.set()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, CorruptionError])
def test_what_ended_a_backup_is_told_though_nothing_can_be_let_go_of(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was said that the store is away, with the exit code of that."""
    world, repository = World(), MemoryObjectStore()
    with world.open() as db:
        fill(db, 20)
        db.flush()

        def end(progress: Progress) -> None:
            raise kind("first")

        def away(store: MemoryObjectStore, names: object) -> None:
            raise UnavailableError("away")

        with monkeypatch.context() as patch:
            patch.setattr(MemoryObjectStore, "delete", away)
            hold = held(world.bucket, clock=world.clock, random_bytes=world.random.randbytes)
            with pytest.raises(kind, match="first") as raised, hold:
                back_up(world, repository, watch=end)
    assert raised.value.__notes__ == ["what was held is left to expire: away"] * 2


def test_a_backup_that_a_full_repository_ends_leaves_no_lock() -> None:
    """The refusals kept its release from being tried, and prunes were refused for ten minutes."""
    world, repository = World(), FaultyObjectStore(MemoryObjectStore())
    stores = Stores(repository, None, clock=world.clock, random=world.random)
    with world.open() as db:
        fill(db, 20)
        db.flush()
        repository.fail("put", match=TABLE_PREFIX, times=1 << 20)
        with pytest.raises(UnavailableError, match="tables"):
            back_up(world, stores.of(Purpose.BACKUP))
    assert stores.broken
    assert repository.list(LOCK_PREFIX) == []


def test_a_backup_is_made_though_its_repository_denies_deletions() -> None:
    world, repository = World(), FaultyObjectStore(MemoryObjectStore())
    repository.fail("delete", times=1 << 20)
    with world.open() as db:
        rows = fill(db, 20)
        db.flush()
        for left in (1, 2):
            report = back_up(world, repository)
            assert [note.partition(",")[0] for note in report.notes] == [
                "the lock is left in the repository"
            ]
            assert len(repository.list(LOCK_PREFIX)) == left
    _, bucket = restore(world, repository)
    assert content(world, bucket) == rows


def test_memory_is_bounded_by_what_is_under_way() -> None:
    most = under_way = 0
    lock = threading.Lock()

    def task() -> None:
        nonlocal most, under_way
        with lock:
            under_way += 1
            most = max(most, under_way)
        with lock:
            under_way -= 1

    with transfer_threads(8) as threads:
        many = Carrier(threads=threads, clock=World().clock, jobs=8)
        many.carry([(MOST_IN_FLIGHT // 2, task) for _ in range(20)])
        many.carry([(2 * MOST_IN_FLIGHT, task) for _ in range(3)])
    assert 1 <= most <= 2
