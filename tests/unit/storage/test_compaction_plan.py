"""What is merged next: a pure function of sizes, for very many shapes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from seerdb.storage.compaction.plan import (
    MAX_RUNS,
    RUN_TRIGGER,
    SIZE_RATIO,
    Plan,
    plan_compaction,
    plan_full,
)
from seerdb.storage.manifest.version import Run, TableMeta, Version
from tests.unit.storage.tables import id_of


def table(
    number: int, size: int, *, level: int = 0, deletes: int = 0, range_deletes: int = 0
) -> TableMeta:
    """A table that is run ``number``."""
    return TableMeta(
        id=id_of(number),
        level=level,
        run=number,
        size=size,
        checksum=0,
        entries=10,
        deletes=deletes,
        range_deletes=range_deletes,
        smallest=b"a",
        largest=b"z",
        min_seq=number,
        max_seq=number,
        tail_offset=0,
    )


def version(*sizes: int) -> Version:
    """Runs of these sizes, newest first."""
    return Version.of([table(n, size) for n, size in enumerate(reversed(sizes), 1)])


def sizes_of(plan: Plan | None) -> list[int]:
    return [run.size for run in plan.runs] if plan else []


def merged(before: Version, plan: Plan, *, keeps: float = 1.0) -> Version:
    """The version after the merge; ``keeps`` is how much of the data is left."""
    number = max(run.number for run in plan.runs)
    level = 1 if plan.bottom else plan.runs[-1].level
    size = max(1, int(sum(sizes_of(plan)) * keeps))
    output = table(number + 1_000_000, size, level=level)
    gone = [each.id for run in plan.runs for each in run.tables]
    return before.changed(add=[replace(output, run=number)], remove=gone)


def check(before: Version, plan: Plan) -> None:
    """What every plan must keep."""
    runs = list(before.runs)
    first = runs.index(plan.runs[0])
    assert tuple(runs[first : first + len(plan.runs)]) == plan.runs, "neighbours in age only"
    assert len(plan.runs) >= 2
    assert plan.bottom == (plan.runs[-1] is runs[-1]), "no older data, or tombstones must stay"


def settle(before: Version, keeps: float = 1.0) -> tuple[Version, int]:
    """The version when nothing is due any more, and the bytes that were rewritten."""
    rewritten = 0
    while (plan := plan_compaction(before)) is not None:
        check(before, plan)
        rewritten += sum(sizes_of(plan))
        before = merged(before, plan, keeps=keeps)
    return before, rewritten


@pytest.mark.parametrize("count", range(RUN_TRIGGER))
def test_a_few_runs_are_left_alone(count: int) -> None:
    assert plan_compaction(version(*[100] * count)) is None


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([10, 10, 10, 10], [10, 10, 10, 10]),
        ([10, 10, 10, 10, 1000], [10, 10, 10, 10]),
        ([1, 1, 1, 1, 4, 9], [1, 1, 1, 1, 4, 9]),
        ([1, 100, 100, 100, 100], [100, 100, 100, 100]),
        ([1, 10, 100, 1000], []),
        ([10, 13, 10, 10], []),
        ([10, 12, 10, 10], [10, 12, 10, 10]),
    ],
)
def test_similar_neighbours_are_merged(sizes: list[int], expected: list[int]) -> None:
    assert sizes_of(plan_compaction(version(*sizes))) == expected
    assert SIZE_RATIO == 1.2


def test_too_many_unequal_runs_are_merged_from_the_newest() -> None:
    sizes = [10 * 2**n for n in range(MAX_RUNS + 1)]
    plan = plan_compaction(version(*sizes))
    assert sizes_of(plan) == [10, 20]
    assert plan is not None
    assert not plan.bottom


def test_reaching_the_oldest_run_is_the_bottom() -> None:
    plan = plan_compaction(version(10, 10, 10, 10))
    assert plan is not None
    assert plan.bottom
    plan = plan_compaction(version(10, 10, 10, 10, 1000))
    assert plan is not None
    assert not plan.bottom


@given(st.lists(st.integers(1, 10**9), max_size=60))
def test_whatever_there_is_it_ends_with_few_runs(sizes: list[int]) -> None:
    before = version(*sizes)
    plan = plan_compaction(before)
    if plan is not None:
        check(before, plan)
        assert not plan.everything
    after, _ = settle(before)
    assert len(after.runs) <= MAX_RUNS
    assert sum(run.size for run in after.runs) == sum(sizes)


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=150),
    st.floats(0.0, 1.0),
)
def test_flush_by_flush_the_runs_stay_few(flushes: list[int], keeps: float) -> None:
    current = Version()
    for flush, size in enumerate(flushes, 10_000_000):
        number = 1 + max((run.number for run in current.runs), default=0)
        added = replace(table(flush, size), run=number)
        current = Version.of([*current.tables, added])
        current, _ = settle(current, keeps)
        assert len(current.runs) <= MAX_RUNS


def test_equal_flushes_are_rewritten_a_few_times_only() -> None:
    current, rewritten = Version(), 0
    for number in range(1, 1025):
        run = 1 + max((run.number for run in current.runs), default=0)
        current = Version.of([*current.tables, replace(table(2_000_000 + number, 1000), run=run)])
        current, more = settle(current)
        rewritten += more
    assert rewritten / (1024 * 1000) <= 6, "log4(1024) is 5"


def test_a_full_merge_takes_everything() -> None:
    before = version(1, 5, 1000)
    plan = plan_full(before)
    assert plan is not None
    assert (plan.runs, plan.bottom, plan.everything) == (before.runs, True, True)


def test_a_full_merge_of_what_is_merged_is_nothing() -> None:
    assert plan_full(Version()) is None
    assert plan_full(version(100)) is None


@pytest.mark.parametrize("tombstones", [{"deletes": 1}, {"range_deletes": 1}])
def test_one_run_with_tombstones_is_merged_again(tombstones: dict[str, int]) -> None:
    before = Version.of([table(1, 100, **tombstones)])
    plan = plan_full(before)
    assert plan is not None
    assert plan.runs == before.runs


def test_a_run_of_several_tables_counts_as_a_whole() -> None:
    parts = [replace(table(n, 50), run=9, smallest=b"%d" % n, largest=b"%d" % n) for n in range(4)]
    others = [table(number, 100) for number in (10, 11, 12)]
    before = Version.of([*parts, *others])
    assert [len(run.tables) for run in before.runs] == [1, 1, 1, 4]
    assert isinstance(before.runs[3], Run)
    assert sizes_of(plan_compaction(before)) == [100, 100, 100, 200]
