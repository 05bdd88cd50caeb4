"""Commits that nobody waits for: groups, order, errors, and when to slow down."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest

from seerdb import (
    DB,
    Batch,
    BusyError,
    ClosedError,
    ConflictError,
    FencedError,
    InvalidRequestError,
    PoisonedError,
    UnavailableError,
)
from seerdb.storage.engine.engine import Engine
from seerdb.storage.write import inbox
from seerdb.storage.write.request import Outcome, Submission
from tests.db.conftest import OpenDB
from tests.fixtures.database import ROOMY, World

PATIENCE = 60


class Told:
    """A sink: what it was told, call by call."""

    def __init__(self) -> None:
        self.calls: list[list[Outcome]] = []
        self._changed = threading.Condition()

    def __call__(self, outcomes: list[Outcome]) -> None:
        with self._changed:
            self.calls.append(list(outcomes))
            self._changed.notify_all()

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for call in self.calls for outcome in call]

    def wait(self, count: int) -> list[Outcome]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.outcomes) >= count, PATIENCE)
            return self.outcomes


def put(key: bytes, value: bytes = b"v") -> Batch:
    batch = Batch()
    batch.put(key, value)
    return batch


@contextmanager
def held(db: DB) -> Iterator[None]:
    """Let what is submitted wait until the block is left."""
    with db._engine.committer._mutex:
        yield


def test_every_ticket_is_told_its_seq_in_order(db: DB) -> None:
    told = Told()
    for number in range(500):
        db.submit(put(b"%03d" % number), ticket=number, sink=told, durability="memory")
    assert told.wait(500) == [(number, number + 1) for number in range(500)]
    assert len(list(db.scan())) == 500


def test_told_means_readable_and_durable() -> None:
    world = World()
    db, told, found = world.open(), Told(), []

    def sink(outcomes: list[Outcome]) -> None:
        found.append((db.get(b"a"), world.lose_power(1).open().get(b"a")))
        told(outcomes)

    db.submit(put(b"a", b"1"), ticket="t", sink=sink)
    told.wait(1)
    assert found == [(b"1", b"1")]


def test_a_batch_is_empty_once_it_is_submitted_and_may_be_used_again() -> None:
    """Changed while it waited it was one thing in the log and another in memory."""
    world = World(**ROOMY)
    db, told = world.open(), Told()
    for batch in (put(b"a", b"1"), Batch()):
        batch.put(b"b", b"1")
        batch.delete_range(b"x", b"z")
        with held(db):
            db.submit(batch, ticket="t", sink=told)
            assert len(batch) == 0
            batch.put(b"later", b"2")
        told.wait(1)
        assert b"later" not in dict(db.scan())
        assert dict(world.kill().open().scan()) == dict(db.scan()), "log and memtable agree"
    db.submit(batch, ticket="t", sink=told)
    assert [seq for _, seq in told.wait(3)] == [1, 2, 3]
    assert dict(db.scan()) == {b"a": b"1", b"b": b"1", b"later": b"2"}


def test_the_committer_thread_outlives_whatever_is_raised_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PB-04. All writes over HTTP wait for this thread; without it none was ever answered again,
    and readiness said that all was well."""
    died: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    db, told = World(**ROOMY).open(), Told()

    def raising(outcomes: list[Outcome]) -> None:
        told(outcomes)
        raise RuntimeError("Event loop is closed")

    with held(db):
        db.submit(put(b"a"), ticket="a", sink=raising)
        db.submit(put(b"b"), ticket="b", sink=told, expect=(b"b", 0))  # a group of its own
    assert sorted(told.wait(2)) == [("a", 1), ("b", 2)]
    db.submit(put(b"c"), ticket="c", sink=told)
    assert told.wait(3)[-1] == ("c", 3)
    assert [args.exc_type for args in died] == [RuntimeError]
    db.close()


def test_what_waits_becomes_one_group_and_one_call(db: DB) -> None:
    told, other = Told(), Told()
    db.submit(put(b"warm"), ticket=-1, sink=told)
    told.wait(1)
    before = db.statistics()
    with held(db):
        for number in range(10):
            db.submit(put(b"%d" % number), ticket=number, sink=told if number % 2 else other)
        # The committer thread holds the first few and waits for the mutex.
    told.wait(6)
    other.wait(5)
    after = db.statistics()
    assert after.commits.groups - before.commits.groups <= 2
    assert after.wal.syncs - before.wal.syncs <= 2
    assert len(told.calls) <= 3
    assert len(other.calls) <= 2
    assert [ticket for ticket, _ in told.outcomes[1:]] == [1, 3, 5, 7, 9]
    assert [seq for _, seq in other.outcomes] == [2, 4, 6, 8, 10]


def test_an_expectation_is_checked_against_all_before_it(db: DB) -> None:
    told = Told()
    with held(db):
        db.submit(put(b"k", b"1"), ticket=1, sink=told)
        db.submit(put(b"k", b"2"), ticket=2, sink=told, expect=(b"k", 1))
        db.submit(put(b"k", b"3"), ticket=3, sink=told, expect=(b"k", 1))
        db.submit(put(b"l", b"4"), ticket=4, sink=told, expect=(b"l", 0))
    outcomes = dict(told.wait(4))
    assert isinstance(outcomes.pop(3), ConflictError)
    assert outcomes == {1: 1, 2: 2, 4: 3}
    assert dict(db.scan()) == {b"k": b"2", b"l": b"4"}


def test_waiting_writers_and_submitted_batches_share_one_sequence(db: DB) -> None:
    told = Told()
    seqs = []
    for number in range(100):
        db.submit(put(b"s%d" % number), ticket=number, sink=told, durability="memory")
        seqs.append(db.put(b"w%d" % number, b"v", durability="memory"))
    seqs += [seq for _, seq in told.wait(100) if isinstance(seq, int)]
    assert sorted(seqs) == list(range(1, 201))


@pytest.mark.parametrize(
    ("limit", "value", "fitting"), [("MAX_QUEUED_REQUESTS", 5, 5), ("MAX_QUEUED_BYTES", 500, 7)]
)
def test_too_much_waiting_is_refused_for_now(
    db: DB, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, fitting: int
) -> None:
    monkeypatch.setattr(inbox, limit, value)
    told, tickets = Told(), iter(range(100))

    batch = Batch()

    def submit_many() -> None:
        for number in tickets:
            batch.put(b"%02d" % number, b"x" * 50)
            db.submit(batch, ticket=number, sink=told)

    with held(db):
        with pytest.raises(BusyError, match="wait already") as refusal:
            submit_many()
        taken = next(tickets) - 1
        assert refusal.value.retry_after_seconds > 0
        assert len(batch) == 1, "what is refused stays in the batch"
        assert taken == fitting
        assert db.statistics().commits.queued >= 4
    assert [seq for _, seq in told.wait(taken)] == list(range(1, taken + 1))
    db.submit(put(b"again"), ticket="again", sink=told)
    assert told.wait(taken + 1)[-1] == ("again", taken + 1)
    assert db.statistics().commits.queued == 0


def test_a_failed_sync_is_told_to_all_of_the_group() -> None:
    world = World()
    db, told = world.open(), Told()
    for _ in range(2):  # beside the second, a spare segment is made
        db.put(b"a", b"1")
    world.files.fail_sync()
    with held(db):
        for number in range(3):
            db.submit(put(b"b%d" % number), ticket=number, sink=told)
    outcomes = told.wait(3)
    assert [ticket for ticket, _ in outcomes] == [0, 1, 2]
    assert all(isinstance(outcome, PoisonedError) for _, outcome in outcomes)
    with pytest.raises(PoisonedError):
        db.submit(put(b"c"), ticket=9, sink=told)
    assert list(db.scan()) == [(b"a", b"1")]
    db.close()


def test_object_level_is_told_once_it_is_in_the_bucket(open_db: OpenDB) -> None:
    world = World(takes_tables=False)
    db, told, shipped = world.open(), Told(), []

    def sink(outcomes: list[Outcome]) -> None:
        shipped.append(bool(world.bucket.list("wal/")))
        told(outcomes)

    db.submit(put(b"a", b"1"), ticket="object", sink=sink, durability="object")
    assert told.wait(1) == [("object", 1)]
    assert shipped == [True]
    world.store.outage = True
    db.submit(put(b"b", b"2"), ticket="outage", sink=sink, durability="object")
    ticket, error = told.wait(2)[1]
    assert ticket == "outage"
    assert isinstance(error, UnavailableError)
    assert world.lose_machine().open().get(b"a") == b"1"


def test_who_is_told_of_another_writer_finds_this_one_stopped() -> None:
    world = World(takes_tables=False)
    db, told, stopped = world.open(), Told(), []
    db.put(b"a", b"1")
    world.open("other").put(b"b", b"2")

    def sink(outcomes: list[Outcome]) -> None:
        stopped.append(db.is_fenced)
        told(outcomes)

    db.submit(put(b"c"), ticket="object", sink=sink, durability="object")
    [(_, error)] = told.wait(1)
    assert isinstance(error, FencedError)
    assert stopped == [True], "nothing is acknowledged from here on"
    with pytest.raises(FencedError):
        db.put(b"d", b"3", durability="local")
    with pytest.raises(FencedError):
        db.submit(put(b"d"), sink=sink)


def test_closing_tells_every_ticket_exactly_once(open_db: OpenDB) -> None:
    db, told = open_db(), Told()
    for number in range(300):
        db.submit(put(b"%03d" % number), ticket=number, sink=told)
    db.close()
    assert [ticket for ticket, _ in told.outcomes] == list(range(300))
    outcomes = [outcome for _, outcome in told.outcomes]
    assert all(isinstance(outcome, int | ClosedError) for outcome in outcomes)
    committed = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(list(open_db().scan())) == len(committed)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda db, sink: db.submit(Batch(), sink=sink), InvalidRequestError),
        (lambda db, sink: db.submit(put(b"a"), sink=sink, durability="no"), InvalidRequestError),
        (lambda db, sink: (db.close(), db.submit(put(b"a"), sink=sink)), ClosedError),
    ],
)
def test_what_can_be_told_at_once_is_raised(
    db: DB, call: Callable[[DB, Told], object], error: type[Exception]
) -> None:
    told = Told()
    with pytest.raises(error):
        call(db, told)
    assert (told.calls, db.visible_seq) == ([], 0)


def test_many_are_submitted_in_one_call_and_share_a_sync() -> None:
    world = World(**ROOMY)
    db = world.open()
    db.put(b"warm", b"1", durability="local")
    waiting: queue.SimpleQueue[Iterable[Outcome]] = queue.SimpleQueue()
    before = db.statistics().wal.syncs
    submissions: list[Submission] = [(put(b"%02d" % n), "local", None, n) for n in range(20)]
    submissions[7] = put(b"07"), "never", None, 7
    [(refused, error)] = db.submit_all(submissions, waiting.put)
    assert (refused, type(error)) == (7, InvalidRequestError)
    outcomes = waiting.get(timeout=PATIENCE)
    assert db.statistics().wal.syncs == before + 1
    assert len(list(world.lose_power(1).open().scan())) == 20, "durable before they are visible"
    assert [ticket for ticket, _ in outcomes] == [n for n in range(20) if n != 7]
    assert len(list(db.scan())) == 20
    db.close()
    with pytest.raises(ClosedError):
        db.submit_all([(put(b"a"), None, None, 1)], waiting.put)


def test_what_is_submitted_while_another_thread_closes_is_told(
    db: DB, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    committer = db._engine.committer
    check = committer.check

    def check_and_lose_the_race() -> None:
        check()
        monkeypatch.undo()
        db.close()

    monkeypatch.setattr(committer, "check", check_and_lose_the_race)
    db.submit(put(b"late"), ticket="late", sink=told)
    [(ticket, error)] = told.calls[-1]
    assert (ticket, type(error)) == ("late", ClosedError)


def test_no_thread_is_started_when_another_has_closed(
    db: DB, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = Engine._serve_inbox

    def lose_the_race(engine: Engine) -> None:
        db.close()
        serve(engine)

    monkeypatch.setattr(Engine, "_serve_inbox", lose_the_race)
    before = threading.enumerate()
    with pytest.raises(ClosedError):
        db.submit(put(b"late"), sink=Told())
    assert not [thread.name for thread in threading.enumerate() if thread not in before]
