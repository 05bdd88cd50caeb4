"""The committer alone: its log on a simulated disk, its surroundings faked."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

import pytest

from seerdb.clock import ForwardClock
from seerdb.errors import (
    BusyError,
    ConflictError,
    DiskError,
    PoisonedError,
    SeerDBError,
    UnavailableError,
)
from seerdb.ids import MAX_SEQ
from seerdb.storage import commit, inbox
from seerdb.storage.batch import Batch
from seerdb.storage.commit import INTERVAL, LOCAL, MEMORY, OBJECT, Committer
from seerdb.storage.layout import Layout
from seerdb.storage.manifest.version import Version
from seerdb.storage.memtable import Memtable
from seerdb.storage.pace import at_full_speed
from seerdb.storage.poison import Poison
from seerdb.storage.replay import replay_sealed
from seerdb.storage.request import Outcome, Sink
from seerdb.storage.row_cache import RowCache
from seerdb.storage.state import LiveState, State
from seerdb.storage.value import Version as StoredVersion
from seerdb.storage.wal.reader import scan_segment
from seerdb.storage.wal.writer import LogWriter
from seerdb.testing.clock import FakeClock
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.tables import new_table_store
from tests.unit.storage.test_batch import batch_of

PATIENCE = 60


class FakeEnv:
    """Surroundings that note what they are asked."""

    def __init__(self, live: LiveState) -> None:
        self._live = live
        self.admitted = 0
        self.pressure: Callable[[int, Callable[[], None]], int] = lambda at, _: at + (1 << 40)
        self.refusal: BaseException | None = None
        self.unreadable: SeerDBError | None = None
        self.memtables: list[Memtable] = []
        self.causes: list[BaseException] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.shipped: list[tuple[int, list[tuple[Sink, object, int]]]] = []

    def hold_back(self, appended: int, before_waiting: Callable[[], None]) -> int:
        return self.pressure(appended, before_waiting)

    def admit(self) -> None:
        self.admitted += 1
        if self.refusal is not None:
            raise self.refusal

    def sealed(self, memtable: Memtable) -> None:
        self.memtables.append(memtable)

    def poisoned(self, cause: BaseException) -> None:
        self.causes.append(cause)

    def current_seq(self, key: bytes) -> int:
        if self.unreadable is not None:
            raise self.unreadable
        for memtable in self._live.current.memtables:
            if (version := memtable.find(key, MAX_SEQ)) is not None:
                return version[0] if version[1] is not None else 0
        return 0

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.later.append((seconds, call))

    def ship(self, seq: int, tickets: list[tuple[Sink, object, int]]) -> None:
        self.shipped.append((seq, tickets))


class Rig:
    """A committer with everything around it."""

    def __init__(self, **settings: Any) -> None:
        self.files = CrashableFileSystem()
        self.files.make_directory("wal")
        self.clock = FakeClock()
        self.log = LogWriter(
            self.files,
            "wal",
            database_id=bytes(16),
            epoch=1,
            segment_size=settings.get("segment_size", 64 << 10),
            sync="data",
            compression="none",
            direct=False,
            random=random.Random(1),
            clock=self.clock,
        )
        layout = Layout(Version(), new_table_store(MemoryObjectStore()), RowCache(lambda: 0))
        self.live = LiveState(State(Memtable([1]), (), layout), settings.get("seq", 0))
        self.env = FakeEnv(self.live)
        self.poison = Poison()
        self.committer = Committer(
            self.live,
            self.log,
            self.env,
            clock=ForwardClock(self.clock, settings.get("timestamp", 0)),
            poison=self.poison,
            memtable_capacity=settings.get("capacity", 1 << 20),
            sync_interval=0.5,
        )

    def put(
        self, key: bytes, value: bytes = b"v", level: int = LOCAL, expect: int | None = None
    ) -> int:
        expected = None if expect is None else (key, expect)
        return self.committer.commit(batch_of([("put", key, value)]), level, expected)

    @property
    def syncs(self) -> int:
        return self.log.statistics().syncs

    def entries(self) -> dict[bytes, StoredVersion]:
        merged: dict[bytes, StoredVersion] = {}
        for memtable in reversed(self.live.current.memtables):
            merged |= memtable.entries
        return merged

    @contextmanager
    def waiting(self, *calls: Callable[[], Any]) -> Iterator[list[Future[Any]]]:
        """Let the calls queue up, in this order, until the block is left."""
        futures = []
        with ThreadPoolExecutor(len(calls)) as pool, self.committer._mutex:
            for number, call in enumerate(calls, 1):
                futures.append(pool.submit(call))
                while len(self.committer._queue) < number:
                    pass
            yield futures


def test_a_commit_is_logged_synced_applied_and_published() -> None:
    rig = Rig(seq=41)
    assert rig.put(b"a") == 42
    assert rig.live.visible_seq == 42
    assert rig.live.current.active.find(b"a", MAX_SEQ) == (42, b"v")
    assert rig.log.position == rig.log.synced
    [record] = scan_segment(rig.files, "wal", 1).records
    assert (record[0], record[1]) == (42, rig.clock.now_ns() // 1000)


@pytest.mark.parametrize(("level", "syncs"), [(MEMORY, 0), (INTERVAL, 0), (LOCAL, 1), (OBJECT, 1)])
def test_only_what_must_be_durable_is_synced(level: int, syncs: int) -> None:
    rig = Rig()
    rig.put(b"warm")
    before = rig.syncs
    rig.put(b"a", level=level)
    assert rig.syncs - before == syncs
    assert rig.committer.put(b"b", b"v", level) == 3
    assert rig.syncs - before == 2 * syncs


def test_writers_that_wait_become_one_group_and_one_sync() -> None:
    rig = Rig()
    rig.put(b"warm")
    syncs, groups = rig.syncs, rig.committer.statistics().groups
    calls = [lambda n=n: rig.put(b"%02d" % n) for n in range(12)]
    with rig.waiting(*calls) as futures:
        assert rig.committer.statistics().queued == 12
    assert [future.result() for future in futures] == list(range(2, 14))
    assert rig.syncs - syncs == 1
    statistics = rig.committer.statistics()
    assert (statistics.groups - groups, statistics.largest_group) == (1, 12)
    assert (statistics.commits, statistics.operations, statistics.queued) == (13, 13, 0)


def test_a_group_syncs_as_its_most_careful_writer_asks() -> None:
    rig = Rig()
    rig.put(b"warm")
    before = rig.syncs
    with rig.waiting(
        lambda: rig.put(b"a", level=MEMORY),
        lambda: rig.put(b"b", level=LOCAL),
        lambda: rig.put(b"c", level=MEMORY),
    ):
        pass
    assert rig.syncs - before == 1
    assert rig.log.position == rig.log.synced


def test_a_group_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    rig.put(b"warm")
    monkeypatch.setattr(commit, "MAX_GROUP_REQUESTS", 4)
    with rig.waiting(*[lambda n=n: rig.put(b"%02d" % n) for n in range(10)]):
        pass
    assert rig.committer.statistics().largest_group == 4
    monkeypatch.setattr(commit, "MAX_GROUP_REQUESTS", 1000)
    monkeypatch.setattr(commit, "MAX_GROUP_BYTES", 2500)
    with rig.waiting(
        *[lambda n=n: rig.put(b"%02d" % n, bytes(1000)) for n in range(10)]
    ) as futures:
        pass
    assert rig.committer.statistics().largest_group == 4, "two of a thousand bytes fit"
    assert [future.result() for future in futures] == list(range(12, 22))


def test_a_failed_sync_fails_all_of_the_group_and_everything_after() -> None:
    rig = Rig()
    rig.put(b"a")
    rig.files.fail_sync()
    with rig.waiting(
        lambda: rig.put(b"b"), lambda: rig.put(b"c"), lambda: rig.put(b"d", level=MEMORY)
    ) as futures:
        pass
    errors = [future.exception() for future in futures]
    assert [type(error) for error in errors] == [PoisonedError] * 3
    assert all(isinstance(error.__cause__, DiskError) for error in errors if error)
    assert len(rig.env.causes) == 1
    for call in (
        lambda: rig.put(b"e"),
        lambda: rig.put(b"e", level=MEMORY),
        lambda: rig.committer.put(b"e", b"v", MEMORY),
        rig.committer.sync,
        rig.committer.position,
        rig.committer.rotate,
        lambda: rig.committer.submit(batch_of([("put", b"e", b"")]), LOCAL, None, 1, print),
    ):
        with pytest.raises(PoisonedError):
            call()
    assert (rig.live.visible_seq, rig.entries()) == (1, {b"a": (1, b"v")})
    assert len(rig.env.causes) == 1


@pytest.mark.parametrize("level", [MEMORY, LOCAL])
def test_a_failed_append_poisons(level: int) -> None:
    rig = Rig()
    rig.put(b"a")
    rig.files.no_space = True
    with pytest.raises(PoisonedError):
        rig.committer.put(b"b", b"v", level)
    rig.files.no_space = False
    with pytest.raises(PoisonedError):
        rig.put(b"c")
    assert rig.entries() == {b"a": (1, b"v")}


INTERRUPTED: dict[str, tuple[str, str, int]] = {
    "the append of a lone put": ("append_put", "log", MEMORY),
    "the apply of a lone put": ("apply", "memtable", MEMORY),
    "the append of a group": ("append", "log", LOCAL),
    "the sync of a group": ("sync", "log", LOCAL),
    "the apply of a group": ("apply", "memtable", LOCAL),
}


@pytest.mark.parametrize("when", INTERRUPTED)
def test_an_interrupt_never_lets_a_seq_be_used_twice(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the log was written and before the memtable was: the next write once took
    the same seq, and the log could not be opened any more."""
    name, place, level = INTERRUPTED[when]
    rig = Rig()
    rig.put(b"a", level=MEMORY)
    owner = {"log": rig.log, "memtable": Memtable}[place]
    if place == "memtable":
        name = "put"
    real = getattr(owner, name)

    def interrupted(*args: Any) -> None:
        if place != "memtable":
            real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        rig.committer.put(b"b", b"v", level)
    monkeypatch.undo()
    for again in (MEMORY, LOCAL):
        with pytest.raises(PoisonedError, match="KeyboardInterrupt"):
            rig.committer.put(b"c", b"v", again)
    assert [record[0] for record in scan_segment(rig.files, "wal", 1).records] == [1, 2]
    assert rig.live.visible_seq == 1


def test_who_waits_behind_an_interrupted_writer_is_told() -> None:
    """The leader of a group is interrupted while it waits for room: the others spun forever."""
    rig = Rig(capacity=1)
    rig.put(b"a")
    rig.env.refusal = KeyboardInterrupt()
    with rig.waiting(lambda: rig.put(b"b"), lambda: rig.put(b"c")) as futures:
        pass
    errors = [future.exception() for future in futures]
    assert {type(error) for error in errors} == {KeyboardInterrupt, BusyError}
    rig.env.refusal = None
    assert rig.put(b"d") == 2
    assert rig.entries().keys() == {b"a", b"d"}


def test_an_expectation_is_checked_in_its_turn() -> None:
    rig = Rig()
    with rig.waiting(
        lambda: rig.put(b"k", b"1"),
        lambda: rig.put(b"k", b"2", expect=1),
        lambda: rig.put(b"k", b"3", expect=1),
        lambda: rig.put(b"k", b"4", expect=0),
        lambda: rig.put(b"l", b"5"),
        lambda: rig.put(b"k", b"6", expect=2),
    ) as futures:
        pass
    outcomes = [future.exception() or future.result() for future in futures]
    assert [type(outcome) for outcome in outcomes] == [
        int,
        int,
        ConflictError,
        ConflictError,
        int,
        int,
    ]
    assert rig.entries() == {b"k": (4, b"6"), b"l": (3, b"5")}
    assert "its seq is 2" in str(outcomes[2])
    assert "expected it to be absent" in str(outcomes[3])
    with pytest.raises(ConflictError, match="but it is absent"):
        rig.put(b"none", expect=7)
    assert rig.live.visible_seq == 4


def test_an_expectation_that_cannot_be_checked_concerns_only_its_write() -> None:
    """It may need the bucket, which the other writes of the group do not."""
    rig = Rig()
    rig.put(b"warm")
    rig.env.unreadable = UnavailableError("no bucket")
    with rig.waiting(
        lambda: rig.put(b"k", expect=1), lambda: rig.put(b"a"), lambda: rig.put(b"b")
    ) as futures:
        pass
    outcomes = [future.exception() or future.result() for future in futures]
    assert outcomes == [rig.env.unreadable, 2, 3]
    assert rig.entries().keys() == {b"warm", b"a", b"b"}


def test_a_full_memtable_is_sealed_before_the_write_that_overflows_it() -> None:
    rig = Rig(capacity=1000)
    for number in range(10):
        rig.put(b"%d" % number, bytes(300))
    assert rig.env.admitted == len(rig.env.memtables) == 4
    for sealed, segment in zip(rig.env.memtables, (1, 2, 3, 4), strict=True):
        assert sealed.segments == [segment]
        replayed = replay_sealed(rig.files, "wal", sealed.segments, at_full_speed)
        assert (replayed.entries, replayed.last_seq) == (sealed.entries, sealed.last_seq)
    assert sorted(rig.entries()) == [b"%d" % number for number in range(10)]
    assert rig.live.current.active.segments == [5]


@pytest.mark.parametrize("level", [MEMORY, LOCAL])
def test_a_full_segment_is_sealed_with_its_memtable(level: int) -> None:
    rig = Rig(segment_size=16 << 10)
    for number in range(100):
        rig.committer.put(b"%03d" % number, bytes(1000), level)
    assert len(rig.env.memtables) >= 6
    assert len(rig.entries()) == 100
    for memtable in rig.env.memtables:
        replayed = replay_sealed(rig.files, "wal", memtable.segments, at_full_speed)
        assert replayed.entries == memtable.entries


def test_a_refused_memtable_refuses_the_write_and_changes_nothing() -> None:
    rig = Rig(capacity=1)
    rig.put(b"a")
    rig.env.refusal = BusyError("slow down", retry_after_seconds=2.0)
    for level in (LOCAL, MEMORY):
        with pytest.raises(BusyError, match="slow down"):
            rig.committer.put(b"b", b"v", level)
    assert (rig.live.visible_seq, rig.env.memtables) == (1, [])
    rig.env.refusal = None
    assert rig.committer.put(b"b", b"v", MEMORY) == 2
    assert len(rig.env.memtables) == 1


def test_a_segment_that_cannot_be_started_is_tried_again() -> None:
    rig = Rig()
    rig.files.no_space = True
    for _ in range(2):
        with pytest.raises(SeerDBError) as error:
            rig.put(b"a")
        assert not isinstance(error.value, PoisonedError)
    rig.files.no_space = False
    assert rig.put(b"a") == 1


def test_rotation_by_hand() -> None:
    rig = Rig()
    assert rig.committer.rotate() == 0
    assert rig.env.memtables == []
    rig.put(b"a")
    assert rig.committer.rotate() == rig.committer.rotate() == 1
    assert len(rig.env.memtables) == 1
    assert rig.put(b"b") == 2
    assert rig.committer.position() == (2, rig.log.position, 2)


@pytest.mark.parametrize("verb", ["sync", "position", "rotate"])
def test_a_sync_that_fails_outside_of_a_write_poisons_as_well(verb: str) -> None:
    rig = Rig()
    rig.put(b"a", level=MEMORY)
    rig.files.fail_sync()
    with pytest.raises(PoisonedError):
        getattr(rig.committer, verb)()
    with pytest.raises(PoisonedError):
        rig.put(b"b")
    assert len(rig.env.causes) == 1
    assert rig.env.memtables == []
    assert rig.entries() == {b"a": (1, b"v")}


def test_time_in_the_log_never_goes_back() -> None:
    rig = Rig(timestamp=FakeClock().now_ns() // 1000 + 5_000_000)
    rig.put(b"a")
    rig.clock.advance(60)
    rig.put(b"b")
    rig.clock.set_now(1.0)
    rig.put(b"c")
    rig.committer.put(b"d", b"v", MEMORY)
    stamps = [record[1] for record in scan_segment(rig.files, "wal", 1).records]
    start = FakeClock().now_ns() // 1000
    assert stamps == [start + 5_000_000, *[start + 60_000_000] * 3]


def test_the_interval_is_kept_by_a_timer_that_runs_once() -> None:
    rig = Rig()
    rig.put(b"warm")
    before = rig.syncs
    for number in range(5):
        rig.put(b"%d" % number, level=INTERVAL)
    [(seconds, call)] = rig.env.later
    assert (seconds, rig.syncs) == (0.5, before)
    call()
    assert rig.syncs == before + 1
    assert rig.log.position == rig.log.synced
    rig.put(b"again", level=INTERVAL)
    assert len(rig.env.later) == 2
    rig.clock.advance(0.6)
    rig.put(b"late", level=INTERVAL)
    assert rig.syncs == before + 2, "the interval is over, so at once"
    rig.files.fail_sync()
    rig.put(b"lost", level=INTERVAL)
    rig.clock.advance(0.1)
    rig.env.later[1][1]()
    with pytest.raises(PoisonedError):
        rig.put(b"after")


def forget(_: list[Outcome]) -> None:
    """A sink for what nobody asks about."""


class Served:
    """A rig whose inbox is served by a thread until the block is left."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.told: list[list[Outcome]] = []

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.rig.committer.serve_inbox)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.rig.committer.stop_inbox()
        self._thread.join(PATIENCE)

    def submit(
        self,
        batch: Batch,
        ticket: object,
        level: int = LOCAL,
        expect: tuple[bytes, int] | None = None,
    ) -> None:
        self.rig.committer.submit(batch, level, expect, ticket, self.told.append)

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for call in self.told for outcome in call]


def test_what_is_submitted_is_told_in_order_when_the_inbox_stops() -> None:
    with Served(Rig()) as served:
        for number in range(50):
            served.submit(batch_of([("put", b"%02d" % number, b"v")]), number)
    assert served.outcomes == [(number, number + 1) for number in range(50)]
    assert len(served.rig.entries()) == 50
    assert served.rig.committer.statistics().queued == 0


def test_level_object_is_handed_on_instead_of_told() -> None:
    with Served(Rig()) as served, served.rig.committer._mutex:
        served.submit(batch_of([("put", b"a", b"v")]), "local")
        served.submit(batch_of([("put", b"b", b"v")]), "object", OBJECT)
    assert served.outcomes == [("local", 1)]
    tickets = [ticket for _, group in served.rig.env.shipped for ticket in group]
    assert [(ticket, seq) for _, ticket, seq in tickets] == [("object", 2)]


def test_errors_are_told_to_the_one_they_concern() -> None:
    with Served(Rig()) as served, served.rig.committer._mutex:
        served.submit(batch_of([("put", b"a", b"v")]), 1)
        served.submit(batch_of([("put", b"a", b"v")]), 2, expect=(b"a", 9))
        served.submit(batch_of([("put", b"b", b"v")]), 3)
    outcomes = dict(served.outcomes)
    assert isinstance(outcomes.pop(2), ConflictError)
    assert outcomes == {1: 1, 3: 2}


def fill_inbox(rig: Rig, sink: Sink, size: int = 100) -> int:
    """Submit rows of ``size`` bytes until it is too much; how many were taken."""
    for taken in itertools.count():
        try:
            rig.committer.submit(batch_of([("put", b"k", bytes(size))]), MEMORY, None, taken, sink)
        except BusyError:
            return taken
    raise AssertionError("unreachable")


def test_the_bounds_of_the_inbox_hold_while_it_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """It once counted from zero at every group, whatever still waited behind that."""
    monkeypatch.setattr(inbox, "MAX_QUEUED_BYTES", 1000)
    monkeypatch.setattr(commit, "MAX_GROUP_REQUESTS", 2)
    rig = Rig()
    waiting, levels = 0, []

    def fill() -> None:
        nonlocal waiting
        waiting += fill_inbox(rig, refill)
        levels.append(waiting)

    def refill(outcomes: list[Outcome]) -> None:
        nonlocal waiting
        waiting -= len(outcomes)
        if len(levels) < 5:
            fill()

    with Served(rig), rig.committer._mutex:
        fill()
    assert 5 < levels[0] < 10
    assert levels == levels[:1] * 5
    assert waiting == 0


def test_what_is_submitted_at_once_by_many_is_counted_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox, "MAX_QUEUED_BYTES", 5000)
    monkeypatch.setattr(inbox, "MAX_QUEUED_REQUESTS", 20)
    rig = Rig()
    with Served(rig), rig.committer._mutex:
        full = fill_inbox(rig, forget)
    assert full == 20
    with Served(rig), ThreadPoolExecutor(4) as pool:
        sizes = [1, 50, 200, 3000]
        for _ in range(50):
            list(pool.map(lambda size: fill_inbox(rig, forget, size), sizes))
    with Served(rig), rig.committer._mutex:
        assert fill_inbox(rig, forget) == full


def test_a_request_larger_than_the_inbox_waits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MAX_QUEUED_BYTES", 1000)
    large = batch_of([("put", b"large", bytes(5000))])
    with Served(Rig()) as served, served.rig.committer._mutex:
        served.submit(batch_of([("put", b"small", b"v")]), 1)
        with pytest.raises(BusyError, match="1 writes of"):
            served.submit(large, 2)
        assert len(large) == 1, "what is refused stays in the batch"
    assert served.outcomes == [(1, 1)]
    with Served(served.rig) as served, served.rig.committer._mutex:
        served.submit(large, 2)
        with pytest.raises(BusyError, match="1 writes of 5,"):
            served.submit(batch_of([("put", b"small", b"v")]), 3)
    assert served.outcomes == [(2, 2)]


def test_an_empty_memtable_is_never_sealed() -> None:
    rig = Rig(capacity=1, segment_size=16 << 10)
    assert rig.put(b"huge", bytes(100_000)) == 1
    assert rig.env.memtables == []
    assert rig.put(b"next", bytes(100_000)) == 2
    assert [memtable.last_seq for memtable in rig.env.memtables] == [1]
