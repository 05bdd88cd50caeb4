"""When a follower looks: in step with its writer while log comes, and seldom else."""

from __future__ import annotations

import pytest

from seerdb.storage.engine.shipping import DUE
from seerdb.storage.replication.looks import LONGEST_STEP, Looks


def follow(shipped: list[float], until: float, interval: float = 1.0) -> tuple[list[float], int]:
    """How late each object is found that appears at such a moment, and how many looks it took."""
    looks, now, found, count = Looks(interval), 0.0, 0, 0
    late = []
    while now < until:
        count += 1
        there = sum(moment <= now for moment in shipped)
        late += [now - moment for moment in shipped[found:there]]
        news, found = there > found, there
        now += looks.wait(now, now, found=news)
    return late, count


@pytest.mark.parametrize("interval", [0.1, 1.0])
@pytest.mark.parametrize("trip", [0.001, 0.01, 0.03])
def test_it_keeps_step_with_a_writer_for_two_or_three_looks_an_object(
    interval: float, trip: float
) -> None:
    period = (DUE + trip) * interval
    shipped = [7.3 * interval + number * period for number in range(200)]
    late, count = follow(shipped, shipped[-1] + interval, interval)
    assert max(late[1:]) <= 1.001 * LONGEST_STEP * interval
    assert count <= 3.5 * len(shipped)


def test_one_that_is_shipped_early_puts_it_out_of_step_once() -> None:
    regular = [7.3 + number * DUE for number in range(10)]
    shipped = [*regular, *(regular[-1] + 0.4 + number * DUE for number in range(10))]
    late, _ = follow(shipped, shipped[-1] + 1.0)
    assert late[10] > 0.5
    assert max(late[11:]) <= 1.001 * LONGEST_STEP


def test_a_writer_that_is_late_is_looked_for_at_growing_distances() -> None:
    late, count = follow([0.0, 1.5], 2.0)
    assert late[1] <= 0.4
    assert count <= 30


def test_while_nothing_comes_it_looks_once_an_interval() -> None:
    _, before = follow([0.0], 5.0)
    _, count = follow([0.0], 105.0)
    assert count - before == 100
