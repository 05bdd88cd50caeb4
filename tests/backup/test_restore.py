"""What is restored is the state that was asked for, and what cannot be had is refused by name."""

from __future__ import annotations

import random
from contextlib import nullcontext, suppress
from dataclasses import replace
from time import process_time
from typing import Any

import pytest

import seerdb
from seerdb import DB
from seerdb.errors import (
    AlreadyExistsError,
    CorruptionError,
    HistoryError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from seerdb.ids import Epoch, SeqNo
from seerdb.storage.backup.archive import Archive, Base, open_archive
from seerdb.storage.backup.log import Log
from seerdb.storage.backup.points import recovery_points
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.object_store.base import ObjectInfo
from seerdb.storage.object_store.names import BACKUP_PREFIX, TABLE_PREFIX, WAL_PREFIX, wal_name
from seerdb.testing.model import Model
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.crash.trace import Write, commit, delete, delete_range, merge, put, put_ttl
from tests.fixtures.backups import back_up, content, opened, restore
from tests.fixtures.database import ROOMY, World, fill

FAT = b"v" * 300

HISTORY: tuple[Write, ...] = (
    put(b"a1", b"1"),
    put(b"a2", FAT),
    put(b"b1", FAT),
    merge(b"a1", b"2"),
    Write((("put", b"c1", b"1"), ("delete_range", b"a2", b"b2"), ("put", b"b1", b"2"))),
    put_ttl(b"b3", FAT),
    delete(b"a1"),
    *(put(b"b%d" % number, FAT) for number in range(8)),
    merge(b"b2", b"3"),
    delete_range(b"a", b"b1"),
    put(b"a1", b"3"),
    merge(b"a1", b"4"),
    Write((("put", b"a2", b"1"), ("delete", b"b2", b""), ("put", b"c", FAT), ("put", b"d", b""))),
    *(put(b"a%d" % number, FAT + b"2") for number in range(8)),
    delete_range(b"a2", b"c"),
    put(b"b5", b"5"),
)
SETTINGS: dict[str, Any] = {"merge_operator": "append", "blob_threshold": 200}


class Recorded:
    """A database with backups in between, and what each of its commits left."""

    def __init__(self, backups_at: tuple[int, ...]) -> None:
        self.world = World(**SETTINGS)
        self.repository = MemoryObjectStore(self.world.clock)
        self.model = Model(self.world.clock.now)
        self.times: dict[int, float] = {}
        with self.world.open() as db:
            for write in HISTORY:
                self._commit(db, write)
                if self.model.seq in backups_at:
                    back_up(self.world, self.repository)
                if self.model.seq % 7 == 0:
                    db.flush()
            back_up(self.world, self.repository)

    def _commit(self, db: DB, write: Write) -> None:
        self.world.clock.advance(0.25)
        self.model.attempt(write.operations)
        seq = commit(db, Write(write.operations, "object"))
        self.model.acknowledge(seq, "object")
        self.times[seq] = self.world.clock.now()

    def expected(self, seq: int, prefix: bytes = b"") -> dict[bytes, bytes]:
        return {
            key: found.value
            for key, found in self.model.contents(seq).items()
            if key.startswith(prefix)
        }


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded(backups_at=(2, 12))


def test_a_repository_restores_every_commit_since_its_first_backup(recorded: Recorded) -> None:
    [covered] = open_archive(recorded.repository).ranges()
    assert covered.first <= 2
    assert covered.last == recorded.model.seq
    for seq in range(covered.first, covered.last + 1):
        report, bucket = restore(recorded.world, recorded.repository, seq=seq)
        assert report.seq == seq
        assert content(recorded.world, bucket) == recorded.expected(seq), seq


def test_a_bucket_restores_every_commit_that_it_still_has(recorded: Recorded) -> None:
    bucket = recorded.world.bucket
    for covered in open_archive(bucket).ranges():
        for seq in range(covered.first, covered.last + 1):
            _, made = restore(recorded.world, bucket, seq=seq)
            assert content(recorded.world, made) == recorded.expected(seq), seq


def test_a_time_is_the_last_commit_made_by_then(recorded: Recorded) -> None:
    archive = open_archive(recorded.repository)
    first = archive.ranges()[0].first
    for seq, time in recorded.times.items():
        if seq >= first:
            assert archive.seq_at(int(time * 1e6)) == seq
            assert archive.seq_at(int((time + 0.1) * 1e6)) == seq
    assert archive.seq_at(int(1e18)) == recorded.model.seq
    with pytest.raises(HistoryError, match=r"time to restore is \d{4}-\d\d-\d\dT[\d:.]+Z, seq"):
        archive.seq_at(0)


@pytest.mark.parametrize("gone", [True, False], ids=["missing", "damaged"])
def test_a_time_is_told_whatever_other_log_is_damaged(recorded: Recorded, *, gone: bool) -> None:
    sound = open_archive(recorded.repository)
    for stretch in sound.log.stretches:
        archive = replace(sound, store=damaged(recorded.repository, stretch.name, gone=gone))
        for seq, time in recorded.times.items():
            hidden = stretch.first - 1 <= seq <= stretch.last
            with (
                suppress(CorruptionError, HistoryError, NotFoundError) if hidden else nullcontext()
            ):
                assert archive.seq_at(int((time + 0.1) * 1e6)) == seq


def test_a_time_that_only_damaged_log_can_tell_is_refused(recorded: Recorded) -> None:
    sound = open_archive(recorded.repository)
    stretch = next(each for each in sound.log.stretches if each.first == 5)
    archive = replace(sound, store=damaged(recorded.repository, stretch.name))
    with pytest.raises(CorruptionError, match=stretch.name):
        archive.seq_at(int((recorded.times[4] + 0.1) * 1e6))


@pytest.mark.parametrize("prefix", [b"a", b"b", b"b2", b"c", b"nothing"])
def test_a_prefix_restores_only_its_keys(recorded: Recorded, prefix: bytes) -> None:
    for seq in (5, 15, 20, recorded.model.seq):
        for source in (recorded.repository, recorded.world.bucket):
            _, bucket = restore(recorded.world, source, seq=seq, prefix=prefix)
            assert content(recorded.world, bucket) == recorded.expected(seq, prefix)


def test_a_restored_database_is_a_new_one_that_goes_on_after_the_restored_commit(
    recorded: Recorded,
) -> None:
    report, bucket = restore(recorded.world, recorded.repository, seq=20)
    assert report.database_id != report.source_database_id
    with opened(recorded.world, bucket) as db:
        assert db.visible_seq == 20
        assert db.put(b"new", b"1") == 21
        db.flush()
        db.compact()
        assert db.verify().ok
        rows = dict(db.scan())
    repository = MemoryObjectStore()
    back_up(World(bucket=bucket, clock=recorded.world.clock), repository)
    _, again = restore(recorded.world, repository)
    assert content(recorded.world, again) == rows
    with pytest.raises(InvalidRequestError):
        back_up(World(bucket=bucket, clock=recorded.world.clock), recorded.repository)


def test_a_place_that_is_not_empty_is_refused(recorded: Recorded) -> None:
    for name in ("x", "manifest/00000000000000000001", f"{TABLE_PREFIX}99999999-000000000001.sst"):
        target = MemoryObjectStore()
        target.put(name, b"1")
        with pytest.raises(AlreadyExistsError, match=name):
            restore(recorded.world, recorded.repository, target)
        assert [info.name for info in target.list("")] == [name]
    _, made = restore(recorded.world, recorded.repository)
    with pytest.raises(AlreadyExistsError):
        restore(recorded.world, recorded.repository, made)


def test_a_restore_that_failed_is_resumed_in_the_same_place(recorded: Recorded) -> None:
    inner = MemoryObjectStore()
    target = FaultyObjectStore(inner)
    target.fail("put_if_absent")
    with pytest.raises(UnavailableError):
        restore(recorded.world, recorded.repository, target, seq=17)
    before = inner.calls["put"]
    restore(recorded.world, recorded.repository, target, seq=17)
    assert inner.calls["put"] - before <= 2, "only what came from the log is made again"
    assert content(recorded.world, inner) == recorded.expected(17)


def test_a_dry_run_says_what_it_would_do_and_does_nothing(recorded: Recorded) -> None:
    report, target = restore(recorded.world, recorded.repository, dry_run=True, seq=20)
    assert (report.seq, report.database_id) == (20, "")
    assert report.objects > 0
    assert not target.list("")


def test_what_cannot_be_restored_is_refused_with_what_can(recorded: Recorded) -> None:
    with pytest.raises(HistoryError, match=f"to {recorded.model.seq}"):
        restore(recorded.world, recorded.repository, seq=recorded.model.seq + 1)
    with pytest.raises(NotFoundError, match="there is no backup 2020"):
        restore(recorded.world, recorded.repository, backup="20200101T000000000000Z-00000000")
    with pytest.raises(InvalidRequestError):
        restore(recorded.world, recorded.repository, seq=1, backup="x")
    with pytest.raises(NotFoundError, match="neither a backup nor a database"):
        restore(recorded.world, MemoryObjectStore())


@pytest.mark.parametrize("seq", [True, 1.0, "1"])
def test_a_seq_that_no_manifest_could_hold_is_refused(recorded: Recorded, seq: Any) -> None:
    """A restore to 1.0 was a success, and nothing could open what it had made."""
    with pytest.raises(InvalidRequestError, match="must be a whole number"):
        restore(recorded.world, recorded.repository, seq=seq)


def test_a_time_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="must be seconds since 1970"):
        seerdb.restore("repository", "new", at="yesterday")  # type: ignore[arg-type]


def test_what_a_writer_makes_meanwhile_is_not_missing() -> None:
    world = World()

    class Busy(FaultyObjectStore):
        def list(self, prefix: str) -> list[ObjectInfo]:
            found = super().list(prefix)
            if prefix == TABLE_PREFIX:
                fill(db, 1)
                db.flush()
            return found

    with world.open() as db:
        fill(db, 1)
        db.flush()
        archive = open_archive(Busy(world.bucket, world.clock))
    assert archive.damaged == []
    assert archive.bases[-1].seq == 1


def damaged(store: MemoryObjectStore, name: str, *, gone: bool = False) -> MemoryObjectStore:
    copy = MemoryObjectStore()
    copy._objects = dict(store._objects)
    if gone:
        copy.delete([name])
    else:
        data = copy.get(name)
        copy.put(name, data[:-1] + bytes([data[-1] ^ 1]))
    return copy


@pytest.mark.parametrize("gone", [True, False], ids=["missing", "damaged"])
def test_any_damaged_object_is_named_and_another_way_is_taken_where_there_is_one(
    recorded: Recorded, *, gone: bool
) -> None:
    """PB-09. Whatever is hit, what is restored is right; and where only the newest tables are, the
    older backup and the log bring the same commit back."""
    rescued = 0
    for info in recorded.repository.list(""):
        if not info.size:
            continue
        repository = damaged(recorded.repository, info.name, gone=gone)
        try:
            report, bucket = restore(recorded.world, repository)
        except (CorruptionError, HistoryError, NotFoundError):
            assert info.name.startswith(WAL_PREFIX), info.name
            continue
        assert content(recorded.world, bucket) == recorded.expected(report.seq)
        rescued += bool(report.notes)
    assert rescued


def test_a_damaged_backup_falls_back_to_the_one_before_and_says_so() -> None:
    """PB-09."""
    world, repository = World(**ROOMY), MemoryObjectStore()
    with world.open() as db:
        rows = fill(db, 20)
        db.flush()
        first = back_up(world, repository)
        old = {info.name for info in repository.list(TABLE_PREFIX)}
        world.clock.advance(1)
        fill(db, 20, start=100)
        db.flush()
        second = back_up(world, repository)
    [new] = {info.name for info in repository.list(TABLE_PREFIX)} - old
    repository = damaged(repository, new)
    report, bucket = restore(world, repository)
    assert report.seq == first.seq
    assert second.id not in report.base
    assert any(new in note for note in report.notes)
    assert content(world, bucket) == rows
    with pytest.raises(CorruptionError, match=new) as failure:
        restore(world, repository, backup=second.id)
    assert "nothing else leads there" in failure.value.__notes__[0]


@pytest.mark.parametrize("wanted", [{}, {"seq": 1}, {"time_us": 1}])
def test_a_descriptor_is_named_where_all_are_damaged(wanted: dict[str, Any]) -> None:
    world, repository = World(), MemoryObjectStore()
    with world.open() as db:
        fill(db, 20)
        name = f"{BACKUP_PREFIX}{back_up(world, repository).id}"
    with pytest.raises(CorruptionError, match=name):
        restore(world, damaged(repository, name), **wanted)


def test_gaps_between_backups_without_log_are_named() -> None:
    world, repository = World(**ROOMY), MemoryObjectStore()
    with world.open() as db:
        for number in range(3):
            world.clock.advance(10)
            fill(db, 10, start=10 * number)
            db.flush()
            back_up(world, repository)
    points = recovery_points(open_archive(repository))
    assert [backup.seq for backup in points.backups] == [10, 20, 30]
    assert [(gap.after_seq, gap.before_seq) for gap in points.gaps] == [(10, 20), (20, 30)]
    assert [(each.first_seq, each.last_seq) for each in points.ranges] == [
        (10, 10),
        (20, 20),
        (30, 30),
    ]
    with pytest.raises(HistoryError, match="10 to 10, 20 to 20, 30 to 30"):
        restore(world, repository, seq=15)
    between = points.backups[1].time_us + 5_000_000
    with pytest.raises(HistoryError, match="the log after seq 20"):
        restore(world, repository, time_us=between)
    assert restore(world, repository, time_us=points.backups[2].time_us)[0].seq == 30


@pytest.mark.parametrize("seed", range(20))
def test_times_are_those_of_a_plain_search(seed: int) -> None:
    chance = random.Random(seed)
    bases = []
    for _ in range(chance.randrange(1, 12)):
        last_seq = chance.randrange(20)
        state = ManifestState(last_seq=SeqNo(last_seq), time_us=chance.randrange(40))
        bases.append(Base(state, last_seq + chance.randrange(5), chance.randrange(40)))
    archive = Archive(MemoryObjectStore(), "", bases, Log([]))
    told = [(base.seq, base.time_us) for base in bases]
    told += [(base.state.last_seq, base.state.time_us) for base in bases]
    for number in range(45):
        assert archive.time_of(number) == min((by for at, by in told if at >= number), default=0)
        assert archive._of_bases(number) == max((at for at, by in told if by <= number), default=-1)


def test_what_thousands_of_backups_offer_is_told_in_linear_time() -> None:
    """No two of them are joined by log. Each was compared with all."""
    bases = [
        Base(ManifestState(last_seq=SeqNo(2 * each), time_us=each), 2 * each, each)
        for each in range(1, 5001)
    ]
    archive = Archive(MemoryObjectStore(), "", bases, Log([]))
    began = process_time()
    assert len(recovery_points(archive).ranges) == 5000
    assert process_time() - began < 3


def test_an_ingest_between_backups_is_no_gap_beside_its_own_seq() -> None:
    world, repository = World(**ROOMY), MemoryObjectStore()
    with world.open() as db:
        db.put(b"a", b"1", durability="object")
        back_up(world, repository)
        db.put(b"a", b"2", durability="object")
        db.ingest([(b"b", b"1")])
        db.put(b"c", b"1", durability="object")
        back_up(world, repository)
    [covered] = open_archive(repository).ranges()
    assert (covered.first, covered.last) == (0, 4)
    for seq, expected in enumerate([{}, {b"a": b"1"}, {b"a": b"2"}, {b"a": b"2", b"b": b"1"}]):
        _, bucket = restore(world, repository, seq=seq)
        assert content(world, bucket) == expected


def test_an_ingest_counts_from_when_it_was_made_whatever_has_become_of_its_tables_since() -> None:
    world = World(**ROOMY)
    with world.open() as db:
        db.put(b"a", b"1", durability="object")
        world.clock.advance(10.0)
        seq = db.ingest([(b"b", b"1")]).seq
        made = world.clock.now()
        world.clock.advance(10.0)
        db.compact()
        report, bucket = restore(world, world.bucket, time_us=int((made + 5.0) * 1e6))
        assert report.seq == seq
        assert content(world, bucket) == {b"a": b"1", b"b": b"1"}
        assert restore(world, world.bucket, time_us=int((made - 5.0) * 1e6))[0].seq == seq - 1
        newest = recovery_points(open_archive(world.bucket)).ranges[-1]
        assert newest.last_time_us == pytest.approx(made * 1e6, abs=1e3)


def test_a_time_before_a_flush_of_one_commit_that_is_in_no_log_is_refused_as_by_a_read() -> None:
    world = World(**{**ROOMY, "history_retention": 1000.0})
    with world.open() as db:
        for key in (b"a", b"b"):
            db.put(key, b"1")
            made = world.clock.now()
            world.clock.advance(10.0)
            db.flush()
        with pytest.raises(HistoryError, match="the log from seq 2 on is not there"):
            db.get(b"b", as_of=made + 5.0)
        with pytest.raises(HistoryError, match=r"the log after seq 1 .* is missing up to seq 2 "):
            restore(world, world.bucket, time_us=int((made + 5.0) * 1e6))
        assert restore(world, world.bucket, time_us=int((made + 11.0) * 1e6))[0].seq == 2
        assert restore(world, world.bucket, seq=1)[0].seq == 1


@pytest.mark.parametrize("ships", [True, False], ids=["an ingest", "no log at all"])
def test_a_backup_whose_seq_is_in_no_log_counts_from_when_that_was_made(*, ships: bool) -> None:
    world, repository = World(**ROOMY, ship_interval=1.0 if ships else 0.0), MemoryObjectStore()
    with world.open() as db:
        db.put(b"a", b"1")
        db.flush()
        back_up(world, repository)
        world.clock.advance(10.0)
        seq = db.ingest([(b"b", b"1")]).seq if ships else db.put(b"b", b"1")
        db.flush()
        made = world.clock.now()
        world.clock.advance(10.0)
        db.compact()
        world.clock.advance(10.0)
        report = back_up(world, repository)
    assert report.seq == seq
    assert report.time_us == pytest.approx(made * 1e6, abs=1e4)
    restored, bucket = restore(world, repository, time_us=int((made + 5.0) * 1e6))
    assert restored.seq == seq
    assert content(world, bucket) == {b"a": b"1", b"b": b"1"}


def test_an_ingest_counts_from_when_it_was_made_though_its_backup_has_later_commits() -> None:
    world, repository = World(**ROOMY, ship_interval=1.0), MemoryObjectStore()
    with world.open() as db:
        db.put(b"a", b"1", durability="object")
        back_up(world, repository)
        world.clock.advance(10.0)
        seq = db.ingest([(b"b", b"1")]).seq
        made = world.clock.now()
        world.clock.advance(10.0)
        db.put(b"c", b"1", durability="object")
        assert back_up(world, repository).seq == seq + 1
    for at, expected in ((made - 5.0, seq - 1), (made + 5.0, seq), (made + 15.0, seq + 1)):
        report, _ = restore(world, repository, time_us=int(at * 1e6))
        assert report.seq == expected
        assert report.time_us <= at * 1e6


def test_an_empty_database_is_backed_up_and_restored() -> None:
    world, repository = World(), MemoryObjectStore()
    world.open().close()
    back_up(world, repository)
    _, bucket = restore(world, repository)
    assert content(world, bucket) == {}


def test_log_that_is_damaged_is_taken_from_other_objects_that_hold_it() -> None:
    world, store = World(**ROOMY), MemoryObjectStore()
    with world.open() as db:
        db.put(b"k1", b"1", durability="object")
        back_up(world, store)
        for number in range(2, 8):
            db.put(b"k%d" % number, b"1", durability="object")
        back_up(world, store)
    store.put(wal_name(Epoch(1), SeqNo(2), SeqNo(6)), b"damaged")
    report, target = restore(world, store)
    assert (report.seq, report.notes) == (7, [])
    assert sorted(content(world, target)) == [b"k%d" % number for number in range(1, 8)]
