"""The cost model, and the choice of a shape by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seerdb.clock import Clock
from seerdb.storage.compaction.load import (
    HALF_LIFE_SECONDS,
    UNKNOWN_SECONDS,
    OperationCounts,
    RecentLoad,
)
from seerdb.storage.compaction.planner import Planner
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.compaction.policy.adaptive import SHAPES, adaptive, choose
from seerdb.storage.compaction.policy.cost import (
    levels,
    most_runs,
    runs,
    space_amplification,
    write_amplification,
)
from seerdb.storage.compaction.policy.given import (
    LAZY_LEVELED,
    LEVELED,
    TIERED,
    PolicyOptions,
    PolicyStatistics,
)
from seerdb.storage.compaction.requests import Request
from seerdb.storage.manifest.version import Version
from seerdb.testing.clock import FakeClock
from tests.unit.storage.compaction.toy import table

OPTIONS = PolicyOptions()
GIB = 1 << 30
LARGE = Version.of([table(1, 10 * GIB, level=7, entries=100_000_000)])
"""100 bytes an entry, 164 entries a block; 4 levels of T = 5 from 16 MiB on."""


def load(
    puts: float = 0, gets: float = 0, scans: float = 0, shape: str = LAZY_LEVELED
) -> PolicyStatistics:
    return PolicyStatistics(puts=puts, gets=gets, scans=scans, shape=shape)


def test_the_model_knows_the_shapes_as_the_paper_does() -> None:
    assert {shape: most_runs(shape, 10) for shape in SHAPES} == {
        LEVELED: (1, 1),
        LAZY_LEVELED: (9, 1),
        TIERED: (9, 9),
    }


def test_amplifications_of_a_tree_of_four_levels() -> None:
    assert [write_amplification(shape, 4, 5) for shape in (LEVELED, LAZY_LEVELED, TIERED)] == [
        1 + 4 * 4,
        1 + 3 + 4,
        1 + 4,
    ]
    assert [runs(shape, 4, 5) for shape in (LEVELED, LAZY_LEVELED, TIERED)] == [6, 9, 10]
    assert space_amplification(LEVELED, 5) == space_amplification(LAZY_LEVELED, 5) == 1.25
    assert space_amplification(TIERED, 5) == 4.25


def test_a_level_is_added_for_each_factor_of_the_size_ratio() -> None:
    base = OPTIONS.base_size
    assert levels(0, OPTIONS) == levels(25 * base, OPTIONS) == 1
    assert levels(125 * base, OPTIONS) == pytest.approx(2)
    assert levels(625 * base, OPTIONS) == pytest.approx(3)


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [
        (load(), LAZY_LEVELED),
        (load(puts=100, gets=1), TIERED),
        (load(puts=100, gets=100), LAZY_LEVELED),
        (load(puts=100, gets=500), LAZY_LEVELED),
        (load(puts=1, gets=100), LEVELED),
        (load(puts=100, scans=1), LAZY_LEVELED),
        (load(puts=100, scans=50), LEVELED),
        (load(gets=1), LEVELED),
        (load(scans=1), LEVELED),
    ],
)
def test_the_load_decides_the_shape(statistics: PolicyStatistics, expected: str) -> None:
    assert choose(LARGE, statistics, OPTIONS) == expected


def test_a_shape_stays_until_another_is_a_fifth_cheaper() -> None:
    """From only puts to only gets and back: it changes at other mixes on the way back."""
    shape = TIERED
    there: dict[tuple[str, str], float] = {}
    back: dict[tuple[str, str], float] = {}
    mixes = [1.2**step for step in range(-40, 40)]
    for changes, gets in ((there, mixes), (back, mixes[::-1])):
        for mix in gets:
            chosen = choose(LARGE, load(puts=1, gets=mix, shape=shape), OPTIONS)
            if chosen != shape:
                changes[shape, chosen] = mix
            shape = chosen
        assert shape == (LEVELED if changes is there else TIERED)
    assert list(there) == [(TIERED, LAZY_LEVELED), (LAZY_LEVELED, LEVELED)]
    assert list(back) == [(LEVELED, LAZY_LEVELED), (LAZY_LEVELED, TIERED)]
    for (one, other), mix in there.items():
        assert mix > 3 * back[other, one]


def test_without_filters_each_run_costs_a_read() -> None:
    blind = replace(OPTIONS, false_positives=1.0)
    assert choose(LARGE, load(puts=100, gets=100), OPTIONS) == LAZY_LEVELED
    assert choose(LARGE, load(puts=100, gets=100), blind) == LEVELED


def test_an_empty_tree_may_be_asked_too() -> None:
    assert choose(Version(), load(puts=1, gets=1), OPTIONS) in SHAPES
    assert adaptive(Version(), load(), OPTIONS) is None


def test_it_plans_as_the_shape_it_chose() -> None:
    version = Version.of([table(n, 10 << 20) for n in range(1, 8)])
    for shape, policy in SHAPES.items():
        statistics = load(shape=shape)
        plan = adaptive(version, statistics, OPTIONS)
        assert plan == policy(version, statistics, OPTIONS)
    assert set(POLICIES) == {*SHAPES, "adaptive"}


class Counters:
    def __init__(self) -> None:
        self.now = OperationCounts(0, 0, 0)

    def __call__(self) -> OperationCounts:
        return self.now


def recent(clock: Clock) -> tuple[Counters, RecentLoad]:
    counters = Counters()
    return counters, RecentLoad(counters, clock)


def test_what_is_long_ago_fades() -> None:
    clock = FakeClock()
    counters, found = recent(clock)
    counters.now = OperationCounts(100, 40, 4)
    assert found.statistics(TIERED) == load(100, 40, 4, TIERED)
    assert found.statistics(TIERED) == load(100, 40, 4, TIERED), "asking changes nothing"
    clock.advance(HALF_LIFE_SECONDS)
    counters.now = OperationCounts(101, 40, 4)
    assert found.statistics(LEVELED) == load(51, 20, 2, LEVELED)
    clock.advance(100 * HALF_LIFE_SECONDS)
    assert found.statistics(LEVELED).puts < 1e-9


def test_a_planner_remembers_the_shape_it_chose() -> None:
    clock = FakeClock()
    counters, found = recent(clock)
    planner = Planner(adaptive, OPTIONS, found)
    clock.advance(UNKNOWN_SECONDS)
    similar = Version.of([table(n, 10 << 20, entries=100_000) for n in range(1, 8)])
    counters.now = OperationCounts(1_000_000, 0, 0)
    plan = planner.next(similar)
    assert plan is not None
    assert planner.shape == TIERED
    clock.advance(20 * HALF_LIFE_SECONDS)
    assert planner.next(Version()) is None
    assert planner.shape == TIERED, "nothing happened that would ask for another"
    counters.now = OperationCounts(1_000_000, 1_000_000, 0)
    assert planner.next(Version()) is None
    assert planner.shape == LEVELED


TIERS = Version.of([table(n, GIB, level=7, entries=10_000_000) for n in range(1, 5)])
LEVELS = Version.of(
    [table(20, 60 << 20), *(table(10 - n, 5**n << 20, level=n) for n in range(3, 8))]
)


@pytest.mark.parametrize(
    ("version", "expected"),
    [(Version(), LAZY_LEVELED), (LARGE, LAZY_LEVELED), (TIERS, TIERED), (LEVELS, LEVELED)],
    ids=["empty", "one run", "tiers", "levels"],
)
def test_an_opening_goes_on_with_the_shape_that_the_tree_has(
    version: Version, expected: str
) -> None:
    planner = Planner(adaptive, OPTIONS, recent(FakeClock())[1])
    assert planner.next(version) is None
    assert planner.shape == expected


def test_the_first_reads_after_an_opening_change_no_shape() -> None:
    clock = FakeClock()
    counters, found = recent(clock)
    planner = Planner(adaptive, OPTIONS, found)
    counters.now = OperationCounts(0, 0, 1)
    assert planner.next(TIERS) is None
    clock.advance(UNKNOWN_SECONDS)
    counters.now = OperationCounts(1_000_000, 0, 1)
    assert planner.next(TIERS) is None
    assert planner.shape == TIERED


@pytest.mark.parametrize(("scans", "expected"), [(3, TIERED), (1_000_000, LEVELED)])
def test_a_few_scans_after_a_quiet_night_rewrite_nothing(scans: int, expected: str) -> None:
    """Four gigabytes for three scans would never pay; for a million in some minutes they do."""
    clock = FakeClock()
    counters, found = recent(clock)
    planner = Planner(adaptive, OPTIONS, found)
    assert planner.next(TIERS) is None
    clock.advance(100 * HALF_LIFE_SECONDS)
    counters.now = OperationCounts(1, 0, scans)
    plan = planner.next(TIERS)
    assert planner.shape == expected
    assert (plan is None) == (expected == TIERED)


def test_everything_is_merged_when_somebody_asks() -> None:
    planner = Planner(adaptive, OPTIONS, recent(FakeClock())[1])
    assert planner.whole(Version(), Request()) is None
    assert planner.whole(Version.of([table(1)]), Request()) is None
    assert planner.whole(Version.of([table(1, level=7)]), Request()) is None
    for points, ranges in ((1, 0), (0, 1)):
        alone = table(1, level=3, deletes=points, range_deletes=ranges)
        again = planner.whole(Version.of([alone]), Request())
        assert again is not None
        assert (again.level, again.run, again.bottom) == (3, 1, True)
    whole = Version.of([table(9), table(8), table(1, level=7)])
    plan = planner.whole(whole, Request())
    assert plan is not None
    assert plan.inputs == whole.runs
    assert (plan.level, plan.run, plan.bottom) == (7, 9, True)
