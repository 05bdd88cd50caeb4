"""Restore in place: an earlier state becomes the next commit, and nothing else goes backwards."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from seerdb import HistoryError, InvalidRequestError, NotFoundError
from seerdb.errors import AlreadyExistsError, ClosedError, UnavailableError
from seerdb.events import RestoredInPlace
from seerdb.storage.object_store.names import TABLE_PREFIX
from seerdb.storage.past import rewind
from seerdb.testing.model import Model, Operation
from seerdb.testing.objects import MemoryObjectStore
from tests.crash.trace import add_to, check_contents
from tests.db.conftest import OpenDB
from tests.fixtures.backups import back_up, opened, restore
from tests.fixtures.database import ROOMY, World, collect_garbage, fill
from tests.fixtures.events import PATIENCE
from tests.fixtures.follower import contents, follow, stream
from tests.fixtures.levels import merge_runs

PAST: dict[str, Any] = {
    "history_retention": 10_000.0,
    "wal_retention": "count:1000",
    "merge_operator": "append",
}
COMMITS: tuple[tuple[Operation, ...], ...] = (
    (("put", b"a", b"1"), ("put", b"b", b"1")),
    (("merge", b"m", b"one"),),
    (("put", b"a", b"2" * 300),),
    (("delete", b"b", b""), ("merge", b"m", b"two")),
    (("put_ttl", b"t", b"short"),),
    (("delete_range", b"a", b"b"), ("put", b"c", b"5")),
    (("merge", b"m", b"three"), ("put", b"b", b"6")),
)


class Story:
    """A database beside its model, whose clock goes on from commit to commit."""

    def __init__(self, **settings: Any) -> None:
        self.world = World(**(PAST | settings))
        self.model = Model(self.world.clock.now)
        self.db = self.world.open()
        self.times = [self.world.clock.now()]

    def commit(self, operations: tuple[Operation, ...]) -> None:
        self.world.clock.advance(1.0)
        self.model.attempt(operations)
        with self.db.batch(durability="object") as batch:
            add_to(batch, operations)
        self.model.acknowledge(batch.seq, "object")
        self.times.append(self.world.clock.now())

    def restore(self, to: int, as_of: Any = None) -> None:
        self.world.clock.advance(1.0)
        self.model.attempt_restore(to)
        report = self.db.restore_in_place(to if as_of is None else as_of)
        assert (report.restored_seq, report.replaced_seq) == (to, self.model.seq - 1)
        self.model.acknowledge(report.seq, "object")
        self.world.clock.advance(0.001)  # each record of the manifest is a little later
        self.times.append(self.world.clock.now())

    def check(self) -> None:
        """Now, and as of every seq and time there ever was."""
        check_contents(self.db, self.model)
        for seq in range(1, self.model.seq + 1):
            at = self.times[seq]
            expected = {key: each.value for key, each in self.model.contents(seq, at).items()}
            assert dict(self.db.scan(as_of=seq)) == expected, seq
            assert dict(self.db.scan(as_of=at)) == expected, seq
        assert self.db.verify().ok


@pytest.mark.parametrize("flushed", [(), (2,), (1, 3, 5), (7,)])
@pytest.mark.parametrize("kind", ["seq", "time"])
def test_every_commit_of_a_short_history_can_be_put_in_place(
    flushed: tuple[int, ...], kind: str
) -> None:
    for to in range(1, len(COMMITS) + 1):
        story = Story(blob_threshold=200, **ROOMY)
        for number, operations in enumerate(COMMITS, 1):
            story.commit(operations)
            if number in flushed:
                story.db.flush()
        story.restore(to, story.times[to] + 0.5 if kind == "time" else None)
        story.commit((("merge", b"m", b"after"), ("put", b"d", b"8")))
        story.check()
        story.world.end(story.db)


def test_restores_of_restores_and_reopenings_and_merges_tell_one_history() -> None:
    story = Story()
    for operations in COMMITS:
        story.commit(operations)
    story.restore(3)
    story.commit(COMMITS[1])
    story.db.compact()
    story.restore(7)
    story.db.close()
    story.db = story.world.open()
    story.commit(COMMITS[3])
    story.restore(9)
    story.restore(8)
    story.db.compact()
    story.check()


def test_what_was_replaced_is_kept_until_its_checkpoint_is_dropped_and_undoes_it() -> None:
    world = World()
    db = world.open()
    fill(db, 10)
    db.checkpoint("first")
    replaced = fill(db, 30, start=5) | fill(db, 5)
    report = db.restore_in_place(checkpoint="first")
    assert (report.restored_seq, report.replaced_seq) == (10, 45)
    assert report.checkpoint == "before-restore-46"
    assert db.restore_in_place(checkpoint="first").seq == 47, "also when it is that already"
    fill(db, 3, start=50)
    db.compact()
    collect_garbage(world, db)
    [told] = [each for each in db.checkpoints() if each.name == report.checkpoint]
    assert (told.seq, told.expires) == (45, None)
    db.restore_in_place(checkpoint=report.checkpoint)
    assert dict(db.scan()) == replaced
    for each in db.checkpoints():
        db.drop_checkpoint(each.name)
    db.compact()
    for _ in range(2):
        collect_garbage(world, db)
    assert len(world.bucket.list(TABLE_PREFIX)) == db.statistics().tables
    assert dict(db.scan()) == replaced


def test_a_dry_run_says_what_would_be_done_and_does_nothing() -> None:
    story = Story(**ROOMY)
    for operations in COMMITS:
        story.commit(operations)
    story.db.flush()
    before = story.world.bucket.list("")
    report = story.db.restore_in_place(3, dry_run=True)
    assert (report.seq, report.checkpoint) == (0, "")
    assert (report.restored_seq, report.replaced_seq, report.commits) == (3, 7, 3)
    assert (report.tables_added, report.tables_removed) == (0, 1)
    assert story.world.bucket.list("") == before
    assert story.db._engine.outputs._in_flight == set()
    story.check()


def test_it_is_told_to_the_listener() -> None:
    story = Story()
    story.commit(COMMITS[0])
    story.commit(COMMITS[1])
    story.restore(1)
    told = [each for each in story.world.events if isinstance(each, RestoredInPlace)]
    assert told == [RestoredInPlace(3, 1, "before-restore-3")]


def test_what_cannot_be_restored_is_refused() -> None:
    world = World(history_retention=1000.0)
    db = world.open()
    fill(db, 40)
    db.compact()
    with pytest.raises(InvalidRequestError, match="a seq or a time, or else a checkpoint"):
        db.restore_in_place()
    with pytest.raises(InvalidRequestError, match="a seq or a time, or else a checkpoint"):
        db.restore_in_place(3, checkpoint="x")
    with pytest.raises(HistoryError, match="after the end"):
        db.restore_in_place(41)
    with pytest.raises(HistoryError, match="has not come yet"):
        db.restore_in_place(world.clock.now() + 10)
    with pytest.raises(NotFoundError, match="no checkpoint 'none'"):
        db.restore_in_place(checkpoint="none")
    with pytest.raises(InvalidRequestError, match="time zone"):
        db.restore_in_place(datetime(2026, 1, 1))  # noqa: DTZ001 - the point
    with pytest.raises(HistoryError, match="before what is kept"):
        db.restore_in_place(datetime.fromtimestamp(1, UTC))
    assert db.visible_seq == 40
    db.close()
    with pytest.raises(ClosedError):
        db.restore_in_place(3)


def test_a_name_that_somebody_took_is_not_taken_for_the_replaced_state() -> None:
    db = World(**PAST).open()
    fill(db, 2)
    db.checkpoint("before-restore-4")
    fill(db, 1, start=9)
    with pytest.raises(AlreadyExistsError):
        db.restore_in_place(1)
    assert len(list(db.scan())) == 3


def test_snapshots_and_scans_go_on_where_they_were() -> None:
    db = World(**PAST).open()
    rows = fill(db, 30)
    seq = db.visible_seq
    rows |= fill(db, 30, start=15)
    with db.snapshot() as snapshot:
        scan = db.scan()
        first = next(scan)
        db.restore_in_place(seq)
        db.compact()
        assert dict([first, *scan]) == dict(snapshot.scan()) == rows
    assert len(list(db.scan())) == 30


def test_a_snapshot_tells_what_it_told_whatever_is_asked_for_after_a_restore() -> None:
    world = World(**PAST | ROOMY)
    db, replica = world.open(), follow(world)
    for value in (b"old", b"new"):
        db.put(b"k", value)
        db.flush()
    replica.refresh()
    with db.snapshot() as snapshot, replica.snapshot() as followed:
        before = [(each.get(b"k"), each.multi_get([b"k"])) for each in (snapshot, followed)]
        db.restore_in_place(1)
        replica.refresh()
        for _ in range(3):  # what is asked for often is kept at hand
            assert (db.get(b"k"), replica.get(b"k")) == (b"old", b"old")
        after = [(each.get(b"k"), each.multi_get([b"k"])) for each in (snapshot, followed)]
        assert after == before == [(b"new", [b"new"])] * 2


def test_a_key_tells_what_a_restore_made_of_it() -> None:
    story = Story(**ROOMY)
    story.commit((("put", b"k", b"1"),))
    story.commit((("put", b"k", b"2"), ("put", b"n", b"2")))
    story.restore(1)
    story.commit((("put", b"z", b""),))
    story.db.flush()
    story.restore(2)
    story.commit((("put", b"k", b"6"),))
    times = story.times
    told = story.db.history(b"k")
    assert [(each.seq, each.value) for each in told] == [
        (1, b"1"),
        (2, b"2"),
        (3, b"1"),
        (5, b"2"),
        (6, b"6"),
    ]
    assert [each.time for each in told] == pytest.approx(
        [times[each.seq] for each in told], abs=0.01
    )
    assert [each[::2] for each in story.db.history(b"n")] == [(2, b"2"), (3, None), (5, b"2")]
    assert [each.seq for each in story.db.history(b"z")] == [4, 5]


def test_tokens_of_replaced_commits_stay_good() -> None:
    story = Story()
    for operations in COMMITS:
        story.commit(operations)
    story.restore(2)
    story.db.check_commit(1, 7)
    after = story.world.kill().open()
    after.check_commit(1, 7)
    assert after.put(b"k", b"") == 9


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("flush", [True, False])
def test_a_replica_shows_each_seq_as_it_was_and_then_what_was_restored(
    live: bool, flush: bool
) -> None:
    story = Story(**ROOMY)
    replica = None
    for operations in COMMITS[:6]:
        story.commit(operations)
        replica = replica or follow(story.world)
    assert replica is not None

    def check(seq: int) -> None:
        if live:
            stream(story.db, replica)
        replica.refresh()
        assert replica.seq == seq
        expected = {key: tuple(each) for key, each in story.model.contents(seq).items()}
        assert contents(replica) == expected

    check(6)
    story.restore(3)
    if flush:
        story.commit(COMMITS[1])
        story.db.flush()
        check(8)
    check(story.model.seq)
    story.commit(COMMITS[3])
    check(story.model.seq)
    story.restore(6)
    check(story.model.seq)
    assert contents(follow(story.world)) == contents(replica)
    replica.close()


def test_a_replica_that_slept_through_it_finds_its_way() -> None:
    story = Story(**ROOMY)
    for operations in COMMITS[:4]:
        story.commit(operations)
    replica = follow(story.world)
    replica.refresh()
    for operations in COMMITS[4:]:
        story.commit(operations)
    story.restore(2)
    story.commit(COMMITS[0])
    story.db.flush()
    story.commit(COMMITS[1])
    replica.refresh()
    expected = {key: tuple(each) for key, each in story.model.contents().items()}
    assert contents(replica) == expected
    replica.close()


def test_another_machine_goes_on_from_what_was_restored() -> None:
    story = Story(**ROOMY)
    for operations in COMMITS:
        story.commit(operations)
    story.restore(2)
    story.commit(COMMITS[3])
    after = story.world.lose_machine().open()
    check_contents(after, story.model)
    assert after.put(b"k", b"") == story.model.seq + 1


def test_restores_elsewhere_and_backups_know_both_before_and_after() -> None:
    story = Story(**ROOMY)
    repository = MemoryObjectStore(story.world.clock)
    for number, operations in enumerate(COMMITS, 1):
        story.commit(operations)
        if number == 4:
            story.db.flush()
            back_up(story.world, repository)
    story.restore(2)
    story.commit(COMMITS[1])
    story.commit(COMMITS[3])
    back_up(story.world, repository)
    for source in (story.world.bucket, repository):
        for seq in (4, 6, 7, 8, 9, 10):
            expected = {key: each.value for key, each in story.model.contents(seq).items()}
            _, bucket = restore(story.world, source, seq=seq)
            with opened(story.world, bucket, merge_operator="append") as db:
                assert dict(db.scan()) == expected, seq
    report, _ = restore(story.world, repository)
    assert report.seq == 10


def test_much_log_becomes_several_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewind, "MEMTABLE_BYTES", 500)
    monkeypatch.setattr(rewind, "MOST_TABLES", 4)
    monkeypatch.setattr("seerdb.storage.past.in_place.MOST_TABLES", 4)
    monkeypatch.setattr(rewind, "_REPLAYED", 2)
    story = Story(**ROOMY)
    for _ in range(6):
        for operations in COMMITS:
            story.commit(operations)
    story.restore(40)
    assert story.db.statistics().tables == 4
    story.check()


def test_a_table_that_was_moved_since_goes_back_to_where_it_was() -> None:
    world = World(**(PAST | ROOMY))
    db = world.open()
    db.put(b"a", b"1")
    db.flush()
    [before] = db._engine.manifest.state.version.tables
    world.clock.advance(1.0)
    then = world.clock.now()
    world.clock.advance(1.0)
    merge_runs(db, db._engine.manifest.state.version.runs, to=7)
    [moved] = db._engine.manifest.state.version.tables
    assert (moved.id, moved.level > before.level) == (before.id, True)
    db.put(b"b", b"2")
    db.flush()
    db.restore_in_place(then)
    assert dict(db.scan()) == {b"a": b"1"}
    assert db._engine.manifest.state.version.tables == [before]
    assert dict(world.lose_machine().open().scan()) == {b"a": b"1"}


def test_a_merge_that_keeps_failing_is_given_up_and_what_people_asked_for_is_done_later() -> None:
    world = World(**PAST, compaction="tiered")
    db = world.open()
    rows = fill(db, 30)
    db.flush()
    seq = db.visible_seq
    fill(db, 30, start=20)
    db.flush()
    compactor, outputs = db._engine.compactor, db._engine.outputs
    world.store.fail("put", match=TABLE_PREFIX, times=1 << 30)
    with pytest.raises(UnavailableError):
        db.compact()
    assert not compactor.is_idle
    world.store._faults.clear()
    world.clock.advance(60.0)
    merged = compactor.statistics.compactions
    db.restore_in_place(seq)
    assert compactor.is_idle
    assert compactor.statistics.compactions == merged + 1, "of what is there now"
    assert outputs._in_flight == set()
    assert db.statistics().tables == 1
    assert dict(db.scan()) == rows
    assert db.verify().ok


def test_what_people_ask_for_meanwhile_waits_for_it_inline_too() -> None:
    """It was told that the database had been closed."""
    db = World(**PAST, compaction="tiered").open()
    fill(db, 30)
    db.flush()
    fill(db, 30, start=20)
    compactor, lane = db._engine.compactor, db._engine.background.compaction
    compactor.pause()
    with ThreadPoolExecutor(1) as caller:
        compaction = caller.submit(db.compact)
        while not (lane.is_awaited or compaction.done()):
            pass  # until the caller waits for what is held back
        compactor.resume()
        lane.wake()
        assert len(compaction.result(PATIENCE).added) == 1


@pytest.mark.parametrize("background", ["thread", "process"])
def test_writers_go_on_around_it_and_lose_nothing_that_came_after(
    open_db: OpenDB, background: str
) -> None:
    db = open_db(background=background, memtable_capacity=8 << 10, wal_retention="count:1000")
    kept = fill(db, 60)
    seq = db.visible_seq
    begun, written = threading.Event(), dict[bytes, int]()

    def write() -> None:
        for number in range(3000):
            key = b"w%05d" % number
            written[key] = db.put(key, b"v" * 100, durability="memory")
            if number == 100:
                begun.set()
            if done.is_set() and number > 500:
                return

    done = threading.Event()
    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(60)
        report = db.restore_in_place(seq)
    finally:
        done.set()
        writer.join()
    expected = kept | {k: b"v" * 100 for k, at in written.items() if at > report.seq}
    assert dict(db.scan()) == expected
    assert report.seq not in written.values()
    assert db.verify().ok
    db.close()
    db = open_db(background=background)
    assert dict(db.scan()) == expected
