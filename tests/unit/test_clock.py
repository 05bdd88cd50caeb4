"""The clock that expiry goes by."""

from __future__ import annotations

import pytest

from seerdb.clock import ForwardClock, when, when_second
from seerdb.testing.clock import FakeClock


def test_a_forward_clock_never_goes_back() -> None:
    wall = FakeClock(1000.0)
    clock = ForwardClock(wall, 5_000_000)
    assert clock.now_us() == 1_000_000_000
    wall.set_now(10.0)
    assert (clock.now_us(), clock.now_ns(), clock.now()) == (1_000_000_000, 10**12, 1000.0)
    assert clock.wall_ns() == 10**10
    clock.committed_us = 2_000_000_000
    assert clock.now_us() == 2_000_000_000
    wall.set_now(3000.0)
    assert clock.now_us() == 3_000_000_000
    assert ForwardClock(FakeClock(1.0), 5_000_000).now_us() == 5_000_000


def test_what_is_settled_is_before_the_commit_on_its_way() -> None:
    clock = ForwardClock(FakeClock(1000.0))
    clock.unseen_us = 999_000_000
    assert clock.settled_us() == 999_000_000
    clock.unseen_us = None
    assert clock.settled_us() == 1_000_000_000


def test_while_the_wall_clock_is_behind_a_forward_clock_goes_on_until_that_has_caught_up() -> None:
    wall = FakeClock(1000.0)
    clock = ForwardClock(wall)
    clock.now_us()
    wall.set_now(900.0)
    for _ in range(80):
        wall.advance(0.125)
        clock.now_us()
    assert clock.now_us() == 1_005_000_000
    clock.committed_us = 1_050_000_000
    assert clock.now_us() == 1_050_000_000
    wall.advance(10.0)
    assert clock.now_us() == 1_055_000_000
    wall.advance(500.0)
    assert clock.now() == wall.now() == 1420.0


def test_a_time_is_shown_to_the_microsecond() -> None:
    assert when(1_700_000_000_000_001) == "2023-11-14T22:13:20.000001Z"


@pytest.mark.parametrize("time_us", [1 << 62, (1 << 64) - 1, -(1 << 62), 10**400])
def test_a_time_that_no_calendar_has_is_shown_as_a_number(time_us: int) -> None:
    assert when(time_us) == f"{time_us:,} µs since 1970"


def test_seconds_that_no_calendar_has_are_told_as_they_are() -> None:
    assert when_second(1_700_000_000.9) == "2023-11-14T22:13:20Z"
    for seconds in (1e12, 1e15, 1e30, -1e12):
        assert when_second(seconds) == f"{seconds:,.0f} s since 1970"
