"""Threads, timer, processes and lanes. Nothing here waits for time to pass; what must happen
on another thread is waited for by an event."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue

import pytest

from seerdb.clock import SystemClock
from seerdb.errors import ClosedError, UnavailableError
from seerdb.storage.workers.lanes import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS, Lane
from seerdb.storage.workers.threads import (
    COMPACTION_THREADS,
    InlineExecutor,
    Timer,
    Workers,
)
from seerdb.testing.clock import FakeClock

PATIENCE = 60


class FakeTimer(Timer):
    """Keeps the calls for the test to make."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.calls: SimpleQueue[tuple[float, Callable[[], None]]] = SimpleQueue()

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.calls.put((seconds, call))

    def next(self) -> tuple[float, Callable[[], None]]:
        """The next call and its delay; waits for it."""
        return self.calls.get(timeout=PATIENCE)


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers("thread", SystemClock())
    workers.timer = FakeTimer()
    yield workers
    workers.close()


def timer_of(workers: Workers) -> FakeTimer:
    assert isinstance(workers.timer, FakeTimer)
    return workers.timer


class Failures:
    """What a lane told of its failures; ``goes_on`` is what it is answered."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int, float]] = []
        self.goes_on = True

    def __call__(self, name: str, error: BaseException, attempts: int, seconds: float) -> bool:
        self.told.append((name, str(error), attempts, seconds))
        return self.goes_on


def test_a_lane_works_until_there_is_nothing_left(workers: Workers) -> None:
    left, done = [3], threading.Event()

    def work() -> bool:
        left[0] -= 1
        if left[0] == 0:
            done.set()
        return left[0] > 0

    lane = Lane("flush", work, workers, Failures())
    lane.wake()
    assert done.wait(PATIENCE)
    lane.close()
    assert (left, lane.error, lane.attempts) == ([0], None, 0)


def test_a_lane_runs_on_one_thread_at_a_time(workers: Workers) -> None:
    """Two of them would meet at the gate."""
    gate, alone, meetings = threading.Barrier(2), threading.Event(), []

    def work() -> bool:
        with suppress(threading.BrokenBarrierError):
            gate.wait(0.05)
            meetings.append(1)
        alone.set()
        return False

    lane = Lane("flush", work, workers, Failures())
    threads = [threading.Thread(target=lane.wake) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone.wait(PATIENCE)
    lane.close()
    assert meetings == []


def test_a_wake_during_the_work_means_another_look(workers: Workers) -> None:
    begun, go_on, looks = threading.Event(), threading.Event(), threading.Semaphore(0)

    def work() -> bool:
        begun.set()
        assert go_on.wait(PATIENCE)
        looks.release()
        return False

    lane = Lane("flush", work, workers, Failures())
    lane.wake()
    assert begun.wait(PATIENCE)
    lane.wake()
    lane.wake()
    go_on.set()
    assert looks.acquire(timeout=PATIENCE)
    assert looks.acquire(timeout=PATIENCE)
    lane.close()
    assert not looks.acquire(blocking=False), "two wakes are one more look"


def test_who_waits_for_a_lane_learns_of_its_end(workers: Workers) -> None:
    lane, looked = Lane("compaction", lambda: False, workers, Failures()), threading.Event()

    def never() -> bool:
        looked.set()
        return False

    with ThreadPoolExecutor(1) as waiting:
        outcome = waiting.submit(lane.wake_and_outwait, never)
        assert looked.wait(PATIENCE)
        lane.close()
        assert outcome.result(PATIENCE) is False


def fail() -> bool:
    raise UnavailableError("away")


def test_a_failure_is_told_and_tried_again_later_and_later(workers: Workers) -> None:
    failures, wanted, delays = Failures(), [12], []

    def work() -> bool:
        if wanted[0]:
            wanted[0] -= 1
            raise UnavailableError(f"{wanted[0]} more")
        return False

    lane = Lane("flush", work, workers, failures)
    lane.wake()
    for attempt in range(12):
        seconds, again = timer_of(workers).next()
        delays.append(seconds)
        assert (lane.attempts, lane.failures) == (attempt + 1, attempt + 1)
        assert isinstance(lane.error, UnavailableError)
        again()
    assert lane.wake_and_wait(lambda: lane.error is None, PATIENCE)
    assert (lane.attempts, lane.failures, str(lane.last_failure)) == (0, 12, "0 more")
    assert delays[:3] == [FIRST_RETRY_SECONDS * factor for factor in (1, 2, 4)]
    assert delays == sorted(delays)
    assert delays[-1] == LAST_RETRY_SECONDS
    assert failures.told[0] == ("flush", "11 more", 1, FIRST_RETRY_SECONDS)
    assert [attempts for _, _, attempts, _ in failures.told] == list(range(1, 13))


def test_a_lane_that_has_failed_for_hours_still_tries_again(workers: Workers) -> None:
    """From the 1,025th attempt on its delay was no number, and its thread left it for ever."""
    wanted = [1100]

    def work() -> bool:
        if wanted[0]:
            wanted[0] -= 1
            raise UnavailableError("away")
        return False

    lane = Lane("flush", work, workers, Failures())
    lane.wake()
    delays = set()
    for _ in range(1100):
        seconds, again = timer_of(workers).next()
        delays.add(seconds)
        again()
    assert lane.wake_and_wait(lambda: lane.error is None, PATIENCE)
    assert max(delays) == LAST_RETRY_SECONDS
    lane.close()


def test_a_slot_waits_for_one_next_attempt_however_often_it_is_woken(workers: Workers) -> None:
    """Each failure left one more to come, which failed as well, and left the next."""
    lane = Lane("flush", fail, workers, Failures())
    for _ in range(100):
        assert not lane.wake_and_wait(lambda: False, PATIENCE)
    seconds, again = timer_of(workers).next()
    assert (seconds, lane.attempts) == (FIRST_RETRY_SECONDS, 100)
    assert timer_of(workers).calls.empty()
    again()
    assert timer_of(workers).next()[0] == LAST_RETRY_SECONDS, "the next one after it"
    lane.close()


def test_of_two_next_attempts_the_sooner_is_made(workers: Workers) -> None:
    workers.clock = FakeClock()
    looks: list[int] = []

    def work() -> bool:
        looks.append(1)
        return len(looks) == 3 or fail()  # the fourth is the first failure again

    lane = Lane("ship", work, workers, Failures(), submit=lambda turn: turn())
    lane.wake()
    timer_of(workers).next()[1]()
    _, later = timer_of(workers).next()
    lane.wake()
    seconds, sooner = timer_of(workers).next()
    assert (seconds, len(looks)) == (FIRST_RETRY_SECONDS, 4)
    later()
    assert len(looks) == 4
    sooner()
    assert len(looks) == 5


def test_a_lane_that_gives_up_stays_so(workers: Workers) -> None:
    failures, looks = Failures(), []
    failures.goes_on = False

    def work() -> bool:
        looks.append(1)
        raise UnavailableError("for good")

    lane = Lane("flush", work, workers, failures)
    for _ in range(2):
        assert not lane.wake_and_wait(lambda: False, PATIENCE)
    lane.close()
    assert (len(looks), timer_of(workers).calls.empty(), str(lane.error)) == (1, True, "for good")


def test_a_listener_that_raises_does_not_stop_the_lane(workers: Workers) -> None:
    """It left the lane running for ever in name only, and the close waiting for it."""
    outcomes = [UnavailableError("first")]

    def failed(name: str, error: BaseException, attempts: int, seconds: float) -> bool:
        raise ValueError("a bad listener")

    def work() -> bool:
        if outcomes:
            raise outcomes.pop()
        return False

    lane = Lane("flush", work, workers, failed)
    lane.wake()
    _, again = timer_of(workers).next()
    assert (str(lane.error), lane.attempts) == ("a bad listener", 1)
    again()
    assert lane.wake_and_wait(lambda: lane.error is None, PATIENCE)
    lane.close()


def side_by_side(
    workers: Workers, *works: Callable[[], bool], failures: Failures | None = None
) -> Lane:
    failed, submit = failures or Failures(), workers.submit_compaction
    return Lane("merge", works[0], workers, failed, beside=works[1:], submit=submit)


def test_slots_of_a_lane_work_beside_each_other(workers: Workers) -> None:
    gate = threading.Barrier(2)
    met = []

    def work() -> bool:
        gate.wait(PATIENCE)
        met.append(1)
        return False

    lane = side_by_side(workers, work, work)
    assert lane.wake_and_wait(lambda: len(met) == 2, PATIENCE)
    lane.close()
    assert not lane.has_work


def test_what_one_slot_did_wakes_the_others_and_not_itself(workers: Workers) -> None:
    looks: list[str] = []
    left, looked = [2], threading.Event()

    def first() -> bool:
        assert looked.wait(PATIENCE)  # or the wake of both and that by the first would be one look
        looks.append("first")
        left[0] -= 1
        return left[0] >= 0

    def second() -> bool:
        looks.append("second")
        looked.set()
        return False

    lane = side_by_side(workers, first, second)
    assert lane.wake_and_wait(lambda: left[0] < 0 and not lane.has_work, PATIENCE)
    lane.close()
    assert looks.count("first") == 3
    assert looks.count("second") >= 2


def test_each_slot_fails_and_tries_again_for_itself(workers: Workers) -> None:
    failures, done, wanted = Failures(), threading.Event(), [2]

    def failing() -> bool:
        if wanted[0]:
            wanted[0] -= 1
            raise UnavailableError(f"{wanted[0]} more")
        return False

    def working() -> bool:
        done.set()
        return False

    lane = side_by_side(workers, failing, working, failures=failures)
    assert not lane.wake_and_wait(lambda: False, PATIENCE), "a failure ends this"
    assert done.wait(PATIENCE)
    seconds, again = timer_of(workers).next()
    assert seconds == FIRST_RETRY_SECONDS
    assert lane.has_work
    again()
    _, again = timer_of(workers).next()
    assert ("merge", "0 more", 2, 2 * FIRST_RETRY_SECONDS) in failures.told
    again()
    assert lane.wake_and_outwait(lambda: lane.error is None)
    lane.close()
    assert (lane.attempts, lane.failures) == (0, 2)


def test_outwaiting_ends_with_success_or_the_end_of_the_lane(workers: Workers) -> None:
    failures, looks = Failures(), []

    def work() -> bool:
        looks.append(1)
        raise UnavailableError("for ever")

    lane = side_by_side(workers, work, failures=failures)
    waiting: list[bool] = []
    waiter = threading.Thread(
        target=lambda: waiting.append(lane.wake_and_outwait(lambda: len(looks) > 2))
    )
    waiter.start()
    for _ in range(2):
        timer_of(workers).next()[1]()
    waiter.join(PATIENCE)
    failures.goes_on = False
    assert not lane.wake_and_outwait(lambda: False)
    assert waiting == [True]
    lane.close()


def test_compactions_never_keep_other_lanes_waiting(workers: Workers) -> None:
    gate, flushed = threading.Event(), threading.Event()

    def merge() -> bool:
        assert gate.wait(PATIENCE)
        return False

    def flush() -> bool:
        flushed.set()
        return False

    busy = [side_by_side(workers, merge) for _ in range(2 * COMPACTION_THREADS)]
    for lane in busy:
        lane.wake()
    flusher = Lane("flush", flush, workers, Failures())
    flusher.wake()
    assert flushed.wait(PATIENCE)
    gate.set()
    for lane in (*busy, flusher):
        lane.close()


def test_waiting_ends_with_success_failure_timeout_or_close(workers: Workers) -> None:
    gate, looks = threading.Event(), []

    def work() -> bool:
        assert gate.wait(PATIENCE)
        looks.append(1)
        if len(looks) > 1:
            raise UnavailableError(f"look {len(looks)}")
        return False

    lane = Lane("flush", work, workers, Failures())
    assert not lane.wake_and_wait(lambda: False, 0), "timeout"
    gate.set()
    assert lane.wake_and_wait(lambda: len(looks) >= 1, PATIENCE)
    assert not lane.wake_and_wait(lambda: False, PATIENCE)
    assert isinstance(lane.last_failure, UnavailableError)
    lane.close()
    assert not lane.wake_and_wait(lambda: False, PATIENCE), "closed"


def test_a_failure_that_comes_before_the_waiting_ends_it_too(workers: Workers) -> None:
    """Otherwise it waits for the next attempt, which may be many seconds away."""
    lane = Lane("flush", fail, workers, Failures())
    for attempt in range(50):
        assert not lane.wake_and_wait(lambda: False, PATIENCE)
        assert lane.failures > attempt
    lane.close()


def test_closing_waits_for_the_turn_under_way_and_ends_the_work(workers: Workers) -> None:
    begun, go_on, looks = threading.Event(), threading.Event(), []

    def work() -> bool:
        looks.append(1)
        begun.set()
        assert go_on.wait(PATIENCE)
        return True  # there would be more

    lane = Lane("flush", work, workers, Failures())
    lane.wake()
    assert begun.wait(PATIENCE)
    closer = threading.Thread(target=lane.close)
    closer.start()
    while not lane.is_awaited:
        pass  # until it has begun to close
    assert closer.is_alive()
    go_on.set()
    closer.join(PATIENCE)
    assert not closer.is_alive()
    lane.wake()
    assert len(looks) == 1


def test_a_lane_whose_runtime_is_gone_says_so_and_closes() -> None:
    workers = Workers("thread", SystemClock())
    lane = Lane("flush", lambda: False, workers, Failures())
    workers.close()
    for _ in range(2):
        with pytest.raises(ClosedError, match="close it after its databases"):
            lane.wake()
    lane.close()


def test_inline_the_work_is_done_in_the_call() -> None:
    workers = Workers("inline", FakeClock())
    threads, failures = [], Failures()

    def work() -> bool:
        threads.append(threading.current_thread())
        if len(threads) == 2:
            raise UnavailableError("second")
        return False

    lane = Lane("flush", work, workers, failures)
    assert lane.wake_and_wait(lambda: len(threads) == 1)
    assert not lane.wake_and_wait(lambda: False), "nobody else would bring it about"
    assert threads == [threading.current_thread()] * 2
    assert [attempts for _, _, attempts, _ in failures.told] == [1]
    lane.close()
    workers.close()


def test_inline_an_interrupt_goes_through() -> None:
    workers = Workers("inline", FakeClock())

    def work() -> bool:
        raise KeyboardInterrupt

    lane = Lane("flush", work, workers, Failures())
    with pytest.raises(KeyboardInterrupt):
        lane.wake()
    lane.close()
    workers.close()


def test_no_lane_waits_for_the_thread_of_another(workers: Workers) -> None:
    all_at_work = threading.Barrier(51)

    def work() -> bool:
        all_at_work.wait(PATIENCE)
        return False

    lanes = [Lane("flush", work, workers, Failures()) for _ in range(50)]
    for lane in lanes:
        lane.wake()
    all_at_work.wait(PATIENCE)
    for lane in lanes:
        lane.close()


def test_the_inline_executor_runs_at_once_and_keeps_errors() -> None:
    executor: Executor = InlineExecutor()
    assert executor.submit(max, 1, 2).result() == 2
    future = executor.submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        future.result()
    assert list(executor.map(str, [1, 2])) == ["1", "2"]
