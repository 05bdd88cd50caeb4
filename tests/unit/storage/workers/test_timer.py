"""The timer: one thread that makes calls when they are due, for all databases of a process."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial

import pytest

from seerdb.storage.workers.threads import Timer
from seerdb.testing.clock import FakeClock

PATIENCE = 60
"""Seconds that a test waits for a thread."""


def test_calls_are_made_in_the_order_they_are_due() -> None:
    clock = FakeClock()
    timer = Timer(clock)
    made: list[tuple[int, float]] = []
    done = threading.Event()

    def make(seconds: int) -> None:
        made.append((seconds, clock.monotonic()))

    for seconds in (50, 10, 30, 10):
        timer.call_later(seconds, partial(make, seconds))
    assert made == []
    clock.advance(100)
    timer.call_later(0, done.set)  # due last, and it has the timer look at the clock
    assert done.wait(PATIENCE)
    assert made == [(10, 100.0), (10, 100.0), (30, 100.0), (50, 100.0)]
    timer.close()


def test_a_call_is_not_made_before_it_is_due() -> None:
    clock = FakeClock()
    timer = Timer(clock)
    made, done = [], threading.Event()
    timer.call_later(1000, lambda: made.append("late"))
    timer.call_later(0, done.set)
    assert done.wait(PATIENCE)
    assert made == []
    timer.close()
    timer.call_later(0, lambda: made.append("after the close"))
    assert made == []


def test_a_call_that_raises_is_told_and_the_timer_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """PB-04. All databases of the process wait for this one thread: without it no log is synced at
    an interval, nothing is shipped, and nothing that failed is tried again."""
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    timer, done = Timer(FakeClock()), threading.Event()

    def fail() -> None:
        raise RuntimeError("can't start new thread")

    timer.call_later(0, fail)
    timer.call_later(0, done.set)
    assert done.wait(PATIENCE)
    timer.close()
    assert [(args.exc_type, args.thread is not None) for args in told] == [(RuntimeError, True)]


def test_a_timer_that_nobody_asked_has_no_thread() -> None:
    before = set(threading.enumerate())
    timer = Timer(FakeClock())
    assert set(threading.enumerate()) <= before
    timer.close()
    timer.close()


ENDING = """
import concurrent.futures.thread, threading, time
from seerdb.clock import SystemClock
from seerdb.errors import ClosedError
from seerdb.storage.workers.threads import Workers

workers, is_made = Workers("thread", SystemClock()), threading.Event()

def wake():
    workers.submit_lane(print)

def last():
    while not concurrent.futures.thread._shutdown:
        time.sleep(0.001)
    workers.timer.call_later(0, wake)
    workers.timer.call_later(0, is_made.set)
    is_made.wait(60)
    try:
        wake()
    except ClosedError as error:
        print(error)

workers.submit_lane(last)
"""


def test_what_is_due_while_the_program_ends_is_not_told() -> None:
    """A program that ended without closing its database left a stack of Python behind."""
    ran = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    assert "main thread" in ran.stdout
