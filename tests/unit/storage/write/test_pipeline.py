"""Appended by who submits, synced by another, visible by who is told: each step on this thread."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import pytest

from seerdb.errors import (
    ConflictError,
    DiskError,
    FencedError,
    PoisonedError,
    UnavailableError,
)
from seerdb.storage.batch import Batch
from seerdb.storage.memtable import Memtable
from seerdb.storage.wal.reader import scan_segment
from seerdb.storage.write.inbox import Inbox
from seerdb.storage.write.request import LOCAL, MEMORY, OBJECT, Outcome, Request
from tests.unit.storage.commit_rig import Rig
from tests.unit.storage.test_batch import batch_of


class Told:
    """A sink that runs through nothing before it is asked to."""

    def __init__(self) -> None:
        self.waiting: list[Iterable[Outcome]] = []

    def __call__(self, outcomes: Iterable[Outcome]) -> None:
        self.waiting.append(outcomes)

    def run_through(self) -> list[Outcome]:
        waiting, self.waiting = self.waiting, []
        return [outcome for outcomes in waiting for outcome in outcomes]


class Lease:
    """One that can run out."""

    def __init__(self) -> None:
        self.is_sure = True

    def require(self) -> None:
        self.confirm()

    def confirm(self) -> None:
        if not self.is_sure:
            raise FencedError("it ran out")


class _AsleepError(Exception):
    """The serving thread would wait for ever."""


class Line:
    """A rig with a started segment, and the pipeline moved by hand."""

    def __init__(self, **settings: Any) -> None:
        self.rig = Rig(**settings)
        self.committer = self.rig.committer
        self.told = Told()
        self.rig.put(b"first")
        self.base = self.rig.live.visible_seq

    def submit(
        self, *keys: bytes, level: int = LOCAL, expect: tuple[bytes, int] | None = None
    ) -> None:
        """Each key is the ticket of a put of it."""
        submissions = [(batch_of([("put", key, b"v")]), None, expect, key) for key in keys]
        assert self.committer.pipeline.submit(submissions, level, self.told) == []

    def serve(self) -> None:
        """Let the serving thread do all there is to do, on this one."""
        self.committer.pipeline.stop()
        self.committer.pipeline.serve()
        self.committer.pipeline._inbox._ended = False  # served again, as no database is

    def look(self) -> None:
        """As :meth:`serve`, until the thread would sleep; not at all if nothing wakes it."""
        inbox = self.committer.pipeline._inbox

        def wait() -> bool:
            if inbox._bell.empty():
                raise _AsleepError
            return Inbox.wait(inbox)

        with suppress(_AsleepError), patch.object(inbox, "wait", wait):
            wait()
            self.committer.pipeline.serve()

    def logged(self) -> list[int]:
        return [record[0] for record in scan_segment(self.rig.files, "wal", 1).records]

    @property
    def queued(self) -> int:
        return self.committer.statistics().queued


def test_what_is_submitted_is_in_the_log_at_once_and_visible_once_it_is_synced() -> None:
    line = Line()
    line.submit(b"a", b"b")
    line.submit(b"c")
    assert line.logged() == [1, 2, 3, 4]
    assert line.rig.live.visible_seq == 1, "nothing is visible before it is synced"
    syncs = line.rig.syncs
    synced = line.committer.sync_beside()
    assert (synced, line.rig.syncs) == (4, syncs + 1)
    assert line.rig.live.visible_seq == 1, "nor before somebody runs through it"
    line.serve()
    assert line.told.run_through() == [(b"a", 2), (b"b", 3), (b"c", 4)]
    assert line.rig.live.visible_seq == 4
    assert line.rig.entries().keys() == {b"first", b"a", b"b", b"c"}


def test_a_sink_makes_visible_no_more_than_what_is_synced() -> None:
    line = Line()
    line.submit(b"a")
    synced = line.committer.sync_beside()
    line.submit(b"b")
    line.committer.pipeline._tell(synced)
    assert line.told.run_through() == [(b"a", 2)]
    assert line.rig.live.visible_seq == 2
    line.serve()
    assert line.told.run_through() == [(b"b", 3)]


def test_what_nobody_runs_through_is_visible_when_the_thread_ends() -> None:
    line = Line()
    line.submit(b"a")
    line.serve()
    assert line.rig.live.visible_seq == 2
    assert line.told.run_through() == [(b"a", 2)]


WAITS: dict[str, Callable[[Line], None]] = {
    "a lower level": lambda line: line.submit(b"a", level=MEMORY),
    "a higher level": lambda line: line.submit(b"a", level=OBJECT),
    "an expectation": lambda line: line.submit(b"a", expect=(b"a", 0)),
    "a large group": lambda line: line.submit(*(b"%04d" % each for each in range(1300))),
}


@pytest.mark.parametrize("what", WAITS)
def test_what_may_have_to_wait_is_queued_and_nothing_overtakes_it(what: str) -> None:
    line = Line()
    line.submit(b"before")
    WAITS[what](line)
    before = line.queued
    assert before > 0
    line.submit(b"after")
    assert line.queued == before + 1
    assert line.logged() == [1, 2]
    line.serve()
    seqs = [seq for _, seq in line.told.run_through() if isinstance(seq, int)]
    shipped = [seq for _, group in line.rig.env.shipped for _, _, seq in group]
    assert sorted([*seqs, *shipped]) == list(range(2, 2 + before + 2))
    assert line.rig.live.visible_seq == 2 + before + 1


def test_while_somebody_leads_it_is_queued() -> None:
    line = Line()
    with line.committer._mutex:
        line.submit(b"a")
        assert line.queued == 1
    line.serve()
    assert line.told.run_through() == [(b"a", 2)]


def test_a_new_segment_is_not_begun_by_who_submits() -> None:
    rig, told = Rig(), Told()
    rig.committer.pipeline.submit(
        [(batch_of([("put", b"a", b"v")]), None, None, b"a")], LOCAL, told
    )
    assert rig.committer.statistics().queued == 1
    rig.committer.pipeline.stop()
    rig.committer.pipeline.serve()
    assert told.run_through() == [(b"a", 1)]


@pytest.mark.parametrize("space", ["memtable", "log", "pressure"])
def test_no_more_goes_in_flight_than_there_is_room_for(space: str) -> None:
    settings = {"memtable": {"capacity": 4000}, "log": {"segment_size": 4 << 10}, "pressure": {}}
    line = Line(**settings[space])
    asked: list[int] = []
    if space == "pressure":
        line.committer.position()  # the next write asks

        def pressure(appended: int, _: Callable[[], None]) -> int:
            asked.append(appended)
            return 1000

        line.rig.env.pressure = pressure
    for number in range(100):
        line.submit(b"%03d" % number)
        if line.queued:
            line.serve()
    line.serve()
    assert [seq for _, seq in line.told.run_through()] == list(range(2, 102))
    if space == "pressure":
        assert len(asked) > 3
        assert all(later - earlier < 1500 for earlier, later in itertools.pairwise(asked))
    else:
        sealed = line.rig.env.memtables
        assert len(sealed) > 3
        assert all(memtable.size <= 4400 for memtable in sealed)


EXCLUSIVE: dict[str, Callable[[Line], object]] = {
    "a commit": lambda line: line.rig.put(b"z"),
    "a commit that syncs nothing": lambda line: line.rig.put(b"z", level=MEMORY),
    "a lone put": lambda line: line.rig.put_alone(b"z", b"v", MEMORY),
    "an expectation": lambda line: line.rig.put(b"b", expect=3),
    "a rotation": lambda line: line.committer.rotate(),
    "a position": lambda line: line.committer.position(),
    "an ingest": lambda line: line.committer.insert(lambda _: None, lambda _: None),
}


@pytest.mark.parametrize("what", EXCLUSIVE)
def test_whoever_leads_finishes_first_what_is_in_flight(what: str) -> None:
    line = Line()
    line.submit(b"a")
    line.submit(b"b")
    EXCLUSIVE[what](line)
    assert line.rig.live.visible_seq >= 3
    assert line.rig.log.synced == line.rig.log.position or what.endswith(("nothing", "put"))
    line.serve()
    assert line.told.run_through() == [(b"a", 2), (b"b", 3)]
    line.submit(b"c")
    line.serve()
    [(_, last)] = line.told.run_through()
    assert last == line.rig.live.visible_seq
    assert line.rig.entries().keys() >= {b"first", b"a", b"b", b"c"}


def test_a_lone_put_never_takes_a_seq_in_flight() -> None:
    line = Line()
    assert line.rig.put_alone(b"x", b"v", MEMORY) == 2
    line.submit(b"a")
    assert line.rig.put_alone(b"y", b"v", MEMORY) == 4
    assert line.rig.put_alone(b"z", b"v", MEMORY) == 5
    line.submit(b"b")
    line.serve()
    assert line.told.run_through() == [(b"a", 3), (b"b", 6)]
    assert line.logged() == [1, 2, 3, 4, 5, 6]


def test_a_sync_that_fails_fails_all_in_flight_and_all_after() -> None:
    line = Line()
    line.submit(b"a", b"b")
    line.submit(b"c")
    line.rig.files.fail_sync()
    line.serve()
    outcomes = line.told.run_through()
    assert [ticket for ticket, _ in outcomes] == [b"a", b"b", b"c"]
    assert all(isinstance(error, PoisonedError) for _, error in outcomes)
    assert all(isinstance(error.__cause__, DiskError) for _, error in outcomes)  # type: ignore[union-attr]
    assert (line.rig.live.visible_seq, len(line.rig.env.causes)) == (1, 1)
    with pytest.raises(PoisonedError):
        line.submit(b"d")


def test_an_append_that_fails_fails_all_in_flight() -> None:
    line = Line()
    line.submit(b"a")
    line.rig.files.no_space = True
    line.submit(b"b")
    line.rig.files.no_space = False
    line.serve()
    outcomes = line.told.run_through()
    assert [type(error) for _, error in outcomes] == [PoisonedError] * 2
    assert line.rig.entries().keys() == {b"first"}


def test_nothing_is_published_over_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread was about to append when it failed, and knew nothing of it yet."""
    line = Line()
    line.submit(b"a")
    monkeypatch.setattr(Memtable, "put", lambda *_: 1 // 0)
    line.committer.sync_beside()
    line.committer.publish(2)
    monkeypatch.undo()
    line.committer._append([late := Request(batch_of([("put", b"b", b"v")]), LOCAL, None)], LOCAL)
    line.committer.publish(line.committer.sync_beside())
    assert isinstance(late.error, PoisonedError)
    assert line.rig.live.visible_seq == 1
    line.serve()
    assert [type(error) for _, error in line.told.run_through()] == [PoisonedError]


def test_a_lease_that_ends_between_sync_and_sink_acknowledges_nothing() -> None:
    line = Line()
    lease = Lease()
    line.committer._lease = line.committer._flight._lease = lease  # type: ignore[assignment]
    line.submit(b"a")
    line.committer.pipeline._tell(line.committer.sync_beside())
    lease.is_sure = False
    [(_, error)] = line.told.run_through()
    assert isinstance(error, FencedError)
    assert line.rig.live.visible_seq == 1


def test_without_a_sure_lease_nothing_is_appended() -> None:
    line = Line()
    lease = Lease()
    line.committer._lease = line.committer._flight._lease = lease  # type: ignore[assignment]
    lease.is_sure = False
    line.submit(b"a")
    line.serve()
    assert line.logged() == [1]
    assert isinstance(line.told.run_through()[0][1], FencedError)


def test_no_commit_on_its_way_is_earlier_than_what_is_settled() -> None:
    line = Line()
    clock, wall = line.committer._clock, line.rig.clock
    line.submit(b"a")
    first = clock.committed_us
    wall.advance(5.0)
    line.submit(b"b")
    wall.advance(5.0)
    assert clock.settled_us() <= first
    line.committer.sync_beside()
    line.committer.publish(2)
    assert first <= clock.settled_us() <= clock.committed_us
    line.committer.publish(3)
    wall.advance(5.0)
    assert clock.settled_us() == clock.now_us()


def test_one_is_refused_and_the_others_are_not() -> None:
    line = Line()
    bad = Batch()
    bad.merge(b"m", b"1")
    submissions = [
        (batch_of([("put", b"a", b"v")]), None, None, 1),
        (bad, None, None, 2),
        (Batch(), None, None, 3),
        (batch_of([("put", b"b", b"v")]), "no", None, 4),
        (batch_of([("put", b"c", b"v")]), "memory", None, 5),
        (batch_of([("put", b"c", b"v")]), None, (b"c", 9), 6),
    ]
    refused = line.committer.pipeline.submit(submissions, LOCAL, line.told)
    assert [ticket for ticket, _ in refused] == [2, 3, 4]
    line.serve()
    outcomes = dict(line.told.run_through())
    assert isinstance(outcomes.pop(6), ConflictError)
    assert outcomes == {1: 2, 5: 3}


def test_a_sink_that_raises_costs_the_others_nothing_even_at_the_end() -> None:
    line = Line()

    def raising(_: Iterable[Outcome]) -> None:
        raise RuntimeError("the loop is closed")

    line.committer.pipeline.submit(
        [(batch_of([("put", b"a", b"v")]), None, None, 1)], LOCAL, raising
    )
    line.submit(b"b")
    line.committer.pipeline.stop()
    while line.committer.pipeline._inbox.wait():
        pass
    with pytest.raises(RuntimeError, match="loop is closed"):
        line.committer.pipeline.serve()
    line.committer.pipeline.serve()
    assert line.told.run_through() == [(b"b", 3)]


def test_what_is_queued_while_the_serving_thread_ends_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line()
    wait = Inbox.wait

    def wait_and_be_late(inbox: Inbox) -> bool:
        goes_on = wait(inbox)
        if goes_on:
            inbox._ended = False  # as the one who submits still sees it
            line.submit(b"late", expect=(b"late", 0))
            inbox._ended = True
        return goes_on

    monkeypatch.setattr(Inbox, "wait", wait_and_be_late)
    line.committer.pipeline.stop()
    line.committer.pipeline.serve()
    assert line.told.run_through() == [(b"late", 2)]


def _leads_a_put(line: Line) -> None:
    line.rig.put(b"own")


def _leads_after_a_failed_ingest(line: Line) -> None:
    def publish(_: int) -> None:
        raise UnavailableError("by plan")

    with pytest.raises(UnavailableError):
        line.committer.insert(lambda _: None, publish)


@pytest.mark.parametrize("lead", [_leads_a_put, _leads_after_a_failed_ingest])
@pytest.mark.parametrize("has_ended", [False, True])
def test_what_another_took_when_the_serving_thread_looked_is_told(
    lead: Callable[[Line], None], *, has_ended: bool
) -> None:
    """It was no longer queued and not yet done, so the thread went to sleep, or ended, and nobody
    told of it."""
    line = Line()
    pipeline = line.committer.pipeline
    line.committer.rotate()
    line.submit(b"a", level=MEMORY)
    if has_ended:
        pipeline.stop()
    # Asked once the group is taken.
    line.rig.env.check_disk = pipeline.serve if has_ended else line.look  # type: ignore[method-assign]
    lead(line)
    if not has_ended:
        line.look()
    [(ticket, seq)] = line.told.run_through()
    assert (ticket, line.rig.entries()[b"a"]) == (b"a", (seq, b"v"))


def test_what_is_submitted_when_nobody_serves_any_more_is_told_at_once() -> None:
    line = Line()
    line.committer.pipeline.stop()
    line.committer.pipeline.serve()
    line.submit(b"a")
    line.submit(b"b", expect=(b"b", 0))
    assert line.told.run_through() == [(b"a", 2), (b"b", 3)]


def test_a_sink_may_submit_even_then() -> None:
    line = Line()
    line.committer.pipeline.stop()
    line.committer.pipeline.serve()

    def submit_again(outcomes: Iterable[Outcome]) -> None:
        line.told(list(outcomes))
        line.submit(b"again")

    batch = batch_of([("put", b"a", b"v")])
    line.committer.pipeline.submit([(batch, None, None, b"a")], LOCAL, submit_again)
    assert line.told.run_through() == [(b"a", 2), (b"again", 3)]
