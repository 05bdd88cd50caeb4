"""Lazy leveling: when the last run is merged with what is above it, and with what of it."""

from __future__ import annotations

import pytest

from seerdb.storage.compaction.plan import Plan, check_plan
from seerdb.storage.compaction.policy.given import PolicyOptions, PolicyStatistics
from seerdb.storage.compaction.policy.lazy_leveled import lazy_leveled
from seerdb.storage.manifest.version import TableMeta, Version
from tests.unit.storage.compaction.toy import table

OPTIONS = PolicyOptions(base_size=10, table_size=1000)
"""Less than 50 bytes in all are too few to care."""


def plan(version: Version, *running: Plan) -> Plan | None:
    found = lazy_leveled(version, PolicyStatistics(), OPTIONS, running)
    if found is not None:
        check_plan(version, found, running)
    return found


def last(size: int = 1000, *, entries: int = 10) -> TableMeta:
    return table(1, size, level=7, run=1, entries=entries)


def upper(*sizes: int) -> list[TableMeta]:
    """Fresh runs, newest first."""
    return [table(number, size) for number, size in enumerate(reversed(sizes), 10)]


def numbers(plan: Plan | None) -> list[int]:
    return [int(each.id[-3:]) for each in plan.tables] if plan else []


@pytest.mark.parametrize(("above", "due"), [(249, False), (250, False), (251, True)])
def test_the_last_run_is_merged_when_a_quarter_of_it_lies_above(above: int, due: bool) -> None:
    found = plan(Version.of([*upper(1, above - 1), last()]))
    assert numbers(found) == ([11, 10, 1] if due else [])
    if found is not None:
        assert (found.level, found.run, found.bottom) == (7, 1, True)


def test_until_then_the_upper_runs_are_tiered() -> None:
    found = plan(Version.of([*upper(*[10] * 5), last()]))
    assert numbers(found) == [14, 13, 12, 11, 10]
    assert found is not None
    assert (found.level, found.bottom) == (1, False)
    assert plan(Version.of([*upper(*[10] * 3), last(20)])) is not None
    assert plan(Version.of([*upper(*[10] * 3), last(19)])) is None, "49 bytes are too few to care"


def test_fresh_runs_are_merged_beside_a_merge_into_the_last() -> None:
    """They are as large as those that are on their way down, and were taken for one tier."""
    below = [*upper(*[50] * 6), last()]
    down = plan(Version.of(below))
    assert numbers(down) == [15, 14, 13, 12, 11, 10, 1]
    assert down is not None
    fresh = [table(number, 50) for number in range(20, 25)]
    assert plan(Version.of([*fresh[:4], *below]), down) is None
    beside = plan(Version.of([*fresh, *below]), down)
    assert numbers(beside) == [24, 23, 22, 21, 20]
    assert beside is not None
    assert not beside.bottom
    assert plan(Version.of([*fresh, *below]), down, beside) is None


def test_too_many_runs_are_merged_however_unequal_but_those_that_go_do_not_count() -> None:
    below = [*upper(*[50] * 6), last()]
    down = plan(Version.of(below))
    assert down is not None
    unequal = [table(20 + number, 7 ** (19 - number)) for number in range(19, -1, -1)]
    assert plan(Version.of([*unequal[:-1], *below]), down) is None
    beside = plan(Version.of([*unequal, *below]), down)
    assert numbers(beside) == [39, 38]


def test_the_first_few_flushes_are_tiered() -> None:
    assert plan(Version.of(upper(*[9] * 4))) is None
    found = plan(Version.of(upper(*[9] * 5)))
    assert found is not None
    assert (found.level, found.run, found.bottom) == (7, 14, True)


def test_deletes_count_for_what_they_may_free() -> None:
    """100 deletes of 1 byte each may make a tenth of the last run useless."""
    deleting = table(10, 100, deletes=100, entries=100)
    assert plan(Version.of([deleting, last(1000, entries=1000)])) is None
    assert numbers(plan(Version.of([deleting, last(1000, entries=500)]))) == [10, 1]
    assert numbers(plan(Version.of([deleting, last(1000, entries=0)]))) == [10, 1]


def test_only_what_is_overlapped_of_the_last_run_is_rewritten() -> None:
    bottom = [table(n, 250, level=7, run=1, keys=(b"%d0" % n, b"%d9" % n)) for n in range(1, 5)]
    hot = table(10, 300, keys=(b"25", b"33"))
    found = plan(Version.of([hot, *bottom]))
    assert numbers(found) == [10, 2, 3]
    assert found is not None
    assert (found.level, found.run) == (7, 1)


def test_what_overlaps_nothing_joins_the_last_run_unread() -> None:
    bottom = table(1, 1000, level=7, run=1, keys=(b"a", b"m"))
    found = plan(Version.of([table(10, 300, keys=(b"n", b"z")), bottom]))
    assert numbers(found) == [10]
    assert found is not None
    assert (found.move, found.level, found.run) == (True, 7, 1)


def test_a_last_run_that_is_elsewhere_is_moved_to_the_bottom() -> None:
    """One that was ingested, in level 0, or that an older release made, in level 1."""
    for level in (0, 1):
        found = plan(Version.of([*upper(20), table(1, 1000, level=level, run=5)]))
        assert numbers(found) == [1]
        assert found is not None
        assert (found.move, found.level, found.run) == (True, 7, 5)


def test_a_last_run_that_cannot_be_moved_goes_to_the_bottom_with_its_first_merge() -> None:
    found = plan(Version.of([*upper(200), table(1, 1000, level=1, run=5, deletes=1)]))
    assert found is None
    part = table(1, 1000, level=1, run=5, keys=(b"a", b"c"), deletes=1)
    rest = table(2, 1000, level=1, run=5, keys=(b"d", b"f"))
    found = plan(Version.of([table(10, 900, keys=(b"a", b"b")), part, rest]))
    assert numbers(found) == [10, 1, 2], "all of it, also what is not overlapped"
    assert found is not None
    assert (found.level, found.run) == (7, 5)


def test_while_the_last_run_is_merged_newer_runs_are_tiered() -> None:
    before = Version.of([*upper(100, 200), last()])
    running = plan(before)
    assert numbers(running) == [11, 10, 1]
    assert running is not None
    assert plan(before, running) is None
    fresh = [table(number, 20) for number in range(20, 25)]
    found = plan(Version.of([*fresh, *before.tables]), running)
    assert numbers(found) == [24, 23, 22, 21, 20]


def test_while_newer_runs_are_tiered_the_last_run_is_merged_with_the_older_ones() -> None:
    current = Version.of([*upper(*[20] * 5, 300), last()])
    whole = plan(current)
    assert numbers(whole) == [15, 14, 13, 12, 11, 10, 1]
    tier = Version.of([*upper(*[20] * 5, 100), last()])
    running = plan(tier)
    assert numbers(running) == [15, 14, 13, 12, 11]
    assert running is not None
    found = plan(current, running)
    assert numbers(found) == [10, 1]


@pytest.mark.parametrize("deletes", [0, 3, 10])
def test_space_stays_within_a_quarter_of_what_is_live(deletes: int) -> None:
    """Every put replaces a live entry, every delete ends one; sizes in entries of 10 bytes."""
    live, current = 1000, Version.of([last(10_000, entries=1000)])
    for flush in range(10, 200):
        puts = 10 - deletes // 2
        added = table(flush, 10 * puts + 3 * deletes, deletes=deletes, entries=puts + deletes)
        live = max(1, live - deletes)
        current = current.changed(add=[added], remove=[])
        while found := plan(current):
            size = 10 * live if found.bottom else found.size
            made = table(
                1000 * flush,
                size,
                level=found.level,
                run=found.run,
                entries=live if found.bottom else sum(each.entries for each in found.tables),
                deletes=0 if found.bottom else sum(each.deletes for each in found.tables),
            )
            current = current.changed(add=[made], remove=[each.id for each in found.tables])
        stored = sum(run.size for run in current.runs)
        if stored > 500:
            assert stored <= 1.25 * 10 * live
