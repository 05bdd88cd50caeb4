"""The rule by which pressure becomes delay, on its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.storage.write.pressure import (
    LEAST_ROOM,
    LONGEST_DELAY_SECONDS,
    ROOM_SECONDS,
    SLOWEST_RATE,
    Gauge,
    Reason,
    delay,
    rate,
    room,
    worst,
)

SEVERITIES = st.floats(0, 1)
SIZES = st.integers(0, 64 << 20)
LIMITS = st.floats(1, 1e12)
VALUES = st.floats(-1e12, 1e12)


def gauge(value: float, soft: float = 12, hard: float = 36) -> Gauge:
    return Gauge(Reason.RUNS, value, soft, hard, "")


@given(soft=LIMITS, span=LIMITS, value=VALUES, rising=st.booleans())
def test_nothing_up_to_the_soft_limit_and_all_from_the_hard_one_on(
    soft: float, span: float, value: float, *, rising: bool
) -> None:
    sign = 1 if rising else -1
    severity = gauge(sign * value, sign * soft, sign * (soft + span)).severity
    if value <= soft:
        assert severity == 0
    elif value >= soft + span:
        assert severity == pytest.approx(1)
    assert 0 <= severity <= 1


@given(SEVERITIES, SEVERITIES, SIZES)
def test_more_pressure_never_means_less_delay_nor_more_room(
    one: float, another: float, size: int
) -> None:
    low, high = sorted((one, another))
    assert delay(low, size) <= delay(high, size)
    assert room(low, 1 << 20) >= room(high, 1 << 20)


@given(SEVERITIES, SIZES, SIZES)
def test_more_bytes_never_mean_less_delay(severity: float, one: int, another: int) -> None:
    low, high = sorted((one, another))
    assert delay(severity, low) <= delay(severity, high) <= LONGEST_DELAY_SECONDS


@given(st.floats(0, 0.999), SIZES)
def test_a_little_more_pressure_is_a_little_more_delay(severity: float, size: int) -> None:
    step = delay(severity + 0.001, size) - delay(severity, size)
    assert step <= 0.0021 * size / SLOWEST_RATE + 1e-9


@given(SIZES)
def test_no_pressure_costs_nothing(size: int) -> None:
    assert delay(0, size) == 0
    assert room(0, size) == size


@given(st.floats(0.01, 1))
def test_the_delay_of_one_room_is_short(severity: float) -> None:
    allowed = room(severity, 1 << 30)
    assert allowed >= LEAST_ROOM
    assert delay(severity, allowed) <= ROOM_SECONDS * 1.001


def test_just_before_the_hard_limit_writes_still_go_on() -> None:
    assert rate(1.0) == SLOWEST_RATE
    assert delay(1.0, SLOWEST_RATE) == pytest.approx(1.0)


@given(st.floats(0.05, 0.9), st.integers(1, 1 << 20))
def test_the_rate_is_what_the_delays_come_to(severity: float, size: int) -> None:
    assert delay(severity, size) == pytest.approx(min(size / rate(severity), LONGEST_DELAY_SECONDS))


def test_limits_that_are_equal_slow_nothing_down() -> None:
    assert gauge(5, 0, 0).severity == 0


def test_the_worst_is_the_one_that_slows_down_most() -> None:
    assert worst([gauge(13), gauge(20), gauge(15)]).value == 20
