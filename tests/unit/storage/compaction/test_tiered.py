"""Tiering: which runs are merged, when, and where they come to lie."""

from __future__ import annotations

import pytest

from seerdb.storage.compaction.plan import Plan, check_plan
from seerdb.storage.compaction.policy.given import PolicyOptions, PolicyStatistics
from seerdb.storage.compaction.policy.tiered import tiered
from seerdb.storage.compaction.policy.tiers import max_runs
from seerdb.storage.manifest.version import Version
from tests.unit.storage.compaction.toy import table

OPTIONS = PolicyOptions(base_size=10, table_size=1000)


def version(*sizes: int, level: int = 0) -> Version:
    """Runs of these sizes, newest first."""
    return Version.of(
        [table(number, size, level=level) for number, size in enumerate(reversed(sizes), 1)]
    )


def plan(version: Version, *running: Plan) -> Plan | None:
    found = tiered(version, PolicyStatistics(), OPTIONS, running)
    if found is not None:
        check_plan(version, found, running)
    return found


def sizes_of(plan: Plan | None) -> list[int]:
    return [run.size for run in plan.inputs] if plan else []


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([10, 10, 10, 10], []),
        ([10, 10, 10, 10, 10], [10] * 5),
        ([10, 10, 10, 10, 10, 50, 50], [10] * 5),
        ([10, 10, 10, 10, 25, 62, 155], [10, 10, 10, 10, 25, 62, 155]),
        ([10, 10, 10, 10, 26], []),
        ([9, 1, 12, 11, 13, 10], [9, 1, 12, 11, 13, 10]),
        ([1, 100, 100, 100, 100, 100], [100] * 5),
        ([1, 10, 100, 1000], []),
    ],
)
def test_five_neighbours_of_similar_size_are_merged(sizes: list[int], expected: list[int]) -> None:
    assert sizes_of(plan(version(*sizes))) == expected


def test_too_many_unequal_runs_are_merged_from_the_newest() -> None:
    most = max_runs(OPTIONS)
    sizes = [3**n for n in range(most)]
    assert plan(version(*sizes)) is None
    sizes = [3**n for n in range(most + 2)]
    assert sizes_of(plan(version(*sizes))) == [1, 3, 9]


def test_a_merge_goes_one_level_down() -> None:
    found = plan(version(*[10] * 5, 1000))
    assert found is not None
    assert (found.level, found.run, found.bottom) == (0, 2, False), "level 0 has the older run too"
    found = plan(Version.of([*version(*[10] * 5).tables, table(9, 1000, level=3)]))
    assert found is not None
    assert (found.level, found.run) == (1, 5)
    older = [table(number, 50, level=1, run=number) for number in range(1, 4)]
    newer = [table(number, 10) for number in range(4, 9)]
    found = plan(Version.of([*newer, *older]))
    assert found is not None
    assert (found.level, found.run) == (1, 8)


def test_a_merge_that_takes_the_oldest_run_goes_to_the_bottom() -> None:
    found = plan(version(*[10] * 5))
    assert found is not None
    assert (found.level, found.run, found.bottom) == (7, 5, True)
    found = plan(version(*[10] * 5, level=7))
    assert found is not None
    assert (found.level, found.run, found.bottom) == (7, 5, True)


def test_while_a_tier_is_merged_others_may_be() -> None:
    current = version(*[10] * 5, *[100] * 5, *[1000] * 5)
    first = plan(current)
    assert first is not None
    second = plan(current, first)
    assert second is not None
    third = plan(current, first, second)
    assert third is not None
    assert [sizes_of(each)[0] for each in (first, second, third)] == [10, 100, 1000]
    assert plan(current, first, second, third) is None


def test_flushes_one_after_the_other_are_moved() -> None:
    """Keys that only rise, as of a clock, are never rewritten."""
    tables = [table(n, 300, keys=(b"%d0" % n, b"%d9" % n)) for n in range(1, 6)]
    found = plan(Version.of(tables))
    assert found is not None
    assert found.move
    assert (found.level, found.run) == (7, 5)


def test_data_is_rewritten_once_a_tier() -> None:
    current, rewritten = Version(), 0
    for flush in range(1, 626):
        current = current.changed(add=[table(flush, 100)], remove=[])
        while found := plan(current):
            rewritten += found.size
            made = table(10_000 * found.run + flush, found.size, level=found.level, run=found.run)
            current = current.changed(add=[made], remove=[each.id for each in found.tables])
    assert [run.size for run in current.runs] == [62_500]
    assert rewritten == 4 * 62_500, "log5(625) is 4"
