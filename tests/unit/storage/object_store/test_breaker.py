"""When the breaker opens, lets a trial through, and closes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from seerdb.errors import NotFoundError, UnavailableError
from seerdb.storage.object_store.base import DeletionDeniedError
from seerdb.storage.object_store.breaker import SILENT_SECONDS, BreakingObjectStore, CircuitBreaker
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore


@pytest.fixture
def breaker(clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker(clock, threshold=3, cooldown_seconds=1.0, max_cooldown_seconds=5.0)


@pytest.fixture
def store(faulty: FaultyObjectStore, breaker: CircuitBreaker) -> BreakingObjectStore:
    return BreakingObjectStore(faulty, breaker)


def fail(store: BreakingObjectStore, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(UnavailableError):
            store.list("")


def test_a_healthy_store_is_passed_through(
    store: BreakingObjectStore, breaker: CircuitBreaker
) -> None:
    store.put("a", b"0123")
    store.put_if_absent("b", b"b")
    assert (store.get("a"), store.get_range("a", 1, 2)) == (b"0123", b"12")
    assert [info.name for info in store.list("")] == ["a", "b"]
    store.delete(["a"])
    assert not breaker.is_open
    assert breaker.last_error == ""


def test_it_opens_after_so_many_failures_in_a_row(
    store: BreakingObjectStore,
    breaker: CircuitBreaker,
    faulty: FaultyObjectStore,
    clock: FakeClock,
) -> None:
    clock.advance(10.0)
    faulty.outage = True
    fail(store, 2)
    assert not breaker.is_open
    clock.advance(2.0)
    fail(store)
    assert breaker.is_open
    assert "outage" in breaker.last_error
    with pytest.raises(UnavailableError, match=r"not tried: the store has failed for 2\.0 s"):
        store.get("a")
    assert len(faulty.trace) == 3


def test_a_success_in_between_starts_the_count_again(
    store: BreakingObjectStore, breaker: CircuitBreaker, faulty: FaultyObjectStore
) -> None:
    faulty.fail("list", times=2)
    fail(store, 2)
    store.put("a", b"a")
    assert breaker.last_error == ""
    faulty.fail("list", times=2)
    fail(store, 2)
    assert not breaker.is_open


def test_answers_like_not_found_are_no_failures(
    store: BreakingObjectStore, breaker: CircuitBreaker, faulty: FaultyObjectStore
) -> None:
    faulty.fail("list", times=2)
    fail(store, 2)
    with pytest.raises(NotFoundError):
        store.get("missing")
    assert breaker.last_error == ""


def test_after_the_cooldown_a_successful_trial_closes_it(
    store: BreakingObjectStore,
    breaker: CircuitBreaker,
    faulty: FaultyObjectStore,
    clock: FakeClock,
) -> None:
    faulty.outage = True
    fail(store, 3)
    faulty.outage = False
    clock.advance(0.9)
    fail(store)
    clock.advance(0.1)
    assert store.list("") == []
    assert not breaker.is_open
    assert breaker.last_error == ""


def test_each_failed_trial_doubles_the_cooldown_up_to_the_cap(
    store: BreakingObjectStore, faulty: FaultyObjectStore, clock: FakeClock
) -> None:
    faulty.outage = True
    fail(store, 3)
    for cooldown in (1.0, 2.0, 4.0, 5.0, 5.0):
        before = len(faulty.trace)
        clock.advance(cooldown - 0.01)
        fail(store)
        assert len(faulty.trace) == before
        clock.advance(0.01)
        fail(store)
        assert len(faulty.trace) == before + 1


def test_recovery_resets_the_cooldown(
    store: BreakingObjectStore, faulty: FaultyObjectStore, clock: FakeClock
) -> None:
    faulty.outage = True
    fail(store, 3)
    clock.advance(1.0)
    fail(store)
    faulty.outage = False
    clock.advance(2.0)
    store.list("")
    faulty.outage = True
    fail(store, 3)
    faulty.outage = False
    clock.advance(1.0)
    assert store.list("") == []


def test_only_one_trial_runs_at_a_time(breaker: CircuitBreaker, clock: FakeClock) -> None:
    def unavailable() -> None:
        raise UnavailableError("down")

    for _ in range(3):
        with pytest.raises(UnavailableError):
            breaker.run(unavailable)
    clock.advance(1.0)
    started, answer = threading.Event(), threading.Event()

    def trial() -> str:
        started.set()
        answer.wait()
        return "back"

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(breaker.run, trial)
        started.wait()
        with pytest.raises(UnavailableError, match="not tried"):
            breaker.run(lambda: "second")
        answer.set()
        assert running.result() == "back"
    assert breaker.run(lambda: "second") == "second"


def test_an_interrupted_trial_lets_another_follow(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    def unavailable() -> None:
        raise UnavailableError("down")

    def interrupted() -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(UnavailableError):
            breaker.run(unavailable)
    clock.advance(1.0)
    with pytest.raises(KeyboardInterrupt):
        breaker.run(interrupted)
    clock.advance(2.0)
    assert breaker.run(lambda: "back") == "back"


def test_interrupts_tell_nothing_of_the_store(breaker: CircuitBreaker) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            breaker.run(interrupted)
    assert (breaker.is_open, breaker.last_error) == (False, "")


def test_a_late_failure_does_not_prolong_the_cooldown(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    def unavailable() -> None:
        raise UnavailableError("down")

    def late() -> None:
        for _ in range(3):
            with pytest.raises(UnavailableError):
                breaker.run(unavailable)
        clock.advance(0.5)
        raise UnavailableError("late")

    with pytest.raises(UnavailableError, match="late"):
        breaker.run(late)
    clock.advance(0.5)
    assert breaker.run(lambda: "back") == "back"


def test_a_store_that_refuses_all_else_is_asked_to_delete(
    store: BreakingObjectStore, breaker: CircuitBreaker, faulty: FaultyObjectStore
) -> None:
    store.put("lock", b"")
    faulty.fail("put", times=3)
    for _ in range(3):
        with pytest.raises(UnavailableError):
            store.put("a", b"")
    store.delete(["lock"])
    assert breaker.is_open
    assert [each.operation for each in faulty.trace] == ["put"] * 4 + ["delete"]
    faulty.fail("delete")
    with pytest.raises(UnavailableError, match="by plan"):
        store.delete(["lock"])


def test_a_deletion_that_is_denied_says_nothing_of_other_requests(
    store: BreakingObjectStore,
    breaker: CircuitBreaker,
    faulty: FaultyObjectStore,
    clock: FakeClock,
) -> None:
    faulty.fail("delete", times=9, error=DeletionDeniedError("denied"))

    def denied() -> None:
        with pytest.raises(DeletionDeniedError):
            store.delete(["lock"])

    for _ in range(3):
        denied()
    assert (breaker.is_open, breaker.last_error) == (False, "")
    faulty.fail("list", times=3)
    fail(store, times=2)
    denied()
    fail(store)
    assert breaker.is_open, "nor that they go well"
    clock.advance(1.0)
    with pytest.raises(DeletionDeniedError):
        breaker.run(lambda: faulty.delete(["lock"]))
    assert breaker.is_open
    assert store.list("") == [], "the next one is a trial"
    assert not breaker.is_open


def test_a_store_that_is_silent_is_not_asked_to_delete(
    breaker: CircuitBreaker, faulty: FaultyObjectStore, clock: FakeClock
) -> None:
    def silent() -> None:
        clock.advance(SILENT_SECONDS)
        raise UnavailableError("timed out")

    for _ in range(3):
        with pytest.raises(UnavailableError, match="timed out"):
            breaker.run(silent)
    store = BreakingObjectStore(faulty, breaker)
    with pytest.raises(UnavailableError, match="not tried"):
        store.delete(["lock"])
    clock.advance(1.0)
    store.delete(["lock"])
    assert not breaker.is_open
