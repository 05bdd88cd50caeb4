"""A system that gives the process no other thread: what is refused, and what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from seerdb.clock import SystemClock
from seerdb.errors import BusyError, UnavailableError
from seerdb.storage.workers.lanes import LAST_RETRY_SECONDS, Lane
from seerdb.storage.workers.threads import Workers

PATIENCE = 60


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers("thread", SystemClock())
    yield made
    made.close()


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_turn_that_was_refused_is_not_taken_later(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executor keeps what it refuses: two threads took turns of one flush lane."""
    gate, is_done, turns = threading.Event(), threading.Event(), list[str]()
    workers.submit_lane(lambda: turns.append(f"held: {gate.wait(PATIENCE)}"))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BusyError, match="no other thread"):
            workers.submit_lane(lambda: turns.append("refused"))
    gate.set()
    workers.submit_lane(is_done.set)
    assert is_done.wait(PATIENCE)
    workers.close()
    assert turns == ["held: True"]


def test_a_lane_without_a_thread_is_tried_again(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, calls, is_up = list[float](), list[Callable[[], None]](), False

    def call_later(seconds: float, call: Callable[[], None]) -> None:
        waits.append(seconds)
        calls.append(call)

    def work() -> bool:
        if not is_up:
            raise UnavailableError("away")
        return False

    monkeypatch.setattr(workers.timer, "call_later", call_later)
    lane = Lane("flush", work, workers, lambda *_: True)
    lane.wake_and_wait(lambda: False)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        patched.setattr(workers._lanes, "_idle_semaphore", threading.Semaphore(0))
        with pytest.raises(BusyError):
            calls.pop()()
    assert waits[-1] == LAST_RETRY_SECONDS
    is_up = True
    calls.pop()()
    assert lane.wait(lambda: lane.error is None, PATIENCE)
    lane.close()
