"""Leveling: which level is due, which of its tables, and what lies above the levels."""

from __future__ import annotations

from msgspec.structs import replace

from seerdb.storage.compaction.plan import Plan, check_plan
from seerdb.storage.compaction.policy.given import PolicyOptions, PolicyStatistics
from seerdb.storage.compaction.policy.leveled import leveled
from seerdb.storage.manifest.version import TableMeta, Version
from tests.unit.storage.compaction.toy import table

OPTIONS = PolicyOptions(base_size=20, table_size=1000)
"""What is above the base goes down when it is more than 100 bytes."""


def plan(version: Version, *running: Plan) -> Plan | None:
    found = leveled(version, PolicyStatistics(), OPTIONS, running)
    if found is not None:
        check_plan(version, found, running)
    return found


def level(number: int, tables: int, size: int) -> list[TableMeta]:
    """A run of so many tables side by side; ids from 100 times its level."""
    return [
        table(
            100 * number + n,
            size // tables,
            level=number,
            run=1,
            keys=(b"%d" % (1000 * n // tables + 1000), b"%d" % (1000 * (n + 1) // tables + 999)),
        )
        for n in range(tables)
    ]


def fresh(*sizes: int) -> list[TableMeta]:
    """Flushed runs over all keys, newest first."""
    return [
        table(number, size, keys=(b"1000", b"1999"))
        for number, size in enumerate(reversed(sizes), 1000)
    ]


def numbers(plan: Plan | None) -> list[int]:
    return sorted(int(each.id[-4:]) for each in plan.tables) if plan else []


def test_what_is_flushed_first_goes_to_the_bottom() -> None:
    assert plan(Version.of(fresh(50, 50))) is None
    found = plan(Version.of(fresh(50, 51)))
    assert numbers(found) == [1000, 1001]
    assert found is not None
    assert (found.level, found.bottom) == (7, True)


def test_a_level_is_begun_when_a_fifth_of_the_last_has_room_for_what_is_above() -> None:
    for bottom, expected in ((500, 7), (508, 6), (2520, 6), (2540, 5)):
        found = plan(Version.of([*fresh(101), *level(7, 4, bottom)]))
        assert found is not None
        assert found.level == expected


def test_a_level_that_is_too_large_gives_the_table_with_the_fewest_below() -> None:
    below = level(7, 10, 1000)
    lighter = [replace(each, size=1) for each in below[8:]]
    found = plan(Version.of([*level(6, 3, 300), *below[:8], *lighter]))
    assert numbers(found) == [602, 706, 707, 708, 709]
    assert found is not None
    assert (found.level, found.run, found.bottom) == (7, 1, True)


def test_deletes_go_down_first() -> None:
    first, second, third = level(6, 3, 300)
    upper = [first, replace(second, deletes=9), third]
    found = plan(Version.of([*upper, *level(7, 9, 1000)]))
    assert numbers(found)[0] == 601


def test_the_level_that_is_most_over_its_target_goes_first() -> None:
    full = [*level(5, 2, 110), *level(6, 4, 800), *level(7, 20, 2500)]
    found = plan(Version.of([*fresh(101), *full]))
    assert found is not None
    assert found.inputs[0].level == 6
    found = plan(Version.of([*fresh(201), *full]))
    assert found is not None
    assert found.inputs[0].level == 0


def test_plans_of_one_level_run_beside_each_other() -> None:
    current = Version.of([*level(6, 8, 400), *level(7, 16, 1008)])
    running: list[Plan] = []
    while found := plan(current, *running):
        running.append(found)
    assert len(running) == 4, "until no more than the target of 201 would be left"
    assert {len(each.inputs[0].tables) for each in running} == {1}


def test_tables_that_overlap_nothing_are_moved_together() -> None:
    upper = level(6, 8, 240)
    below = [
        table(700, 480, level=7, run=1, keys=(b"0000", b"0999")),
        table(701, 20, level=7, run=1, keys=(b"1700", b"1710")),
    ]
    found = plan(Version.of([*upper, *below]))
    assert numbers(found) == [600, 601, 602, 603, 604], "140 over the target, of 30 each"
    assert found is not None
    assert (found.move, found.level, found.run) == (True, 7, 1)


def test_what_is_above_the_base_is_tiered_until_it_is_due() -> None:
    found = plan(Version.of([*fresh(5, 5, 5, 5, 5), *level(7, 10, 5000)]))
    assert numbers(found) == [1000, 1001, 1002, 1003, 1004]
    assert found is not None
    assert found.level == 1


def test_a_tier_does_not_reach_the_base() -> None:
    """Else a level would have two runs."""
    deep = level(7, 20, 1_600_000)
    assert OPTIONS.base_size * 5**6 < 1_600_000, "level 1 is the base"
    found = plan(Version.of([*fresh(5, 5, 5, 5, 5), *level(1, 2, 100), *deep]))
    assert found is not None
    assert found.level == 0


def test_levels_of_several_runs_are_made_one() -> None:
    """A tree that was tiered until now."""
    older = level(7, 2, 500)
    newer = [table(5, 400, level=7, run=5, keys=(b"1000", b"1300"))]
    found = plan(Version.of([*newer, *older]))
    assert numbers(found) == [5, 700]
    assert found is not None
    assert (found.level, found.run) == (7, 1)


def test_a_large_top_goes_where_there_is_room() -> None:
    """Such as the tiers of a tree that was lazy until now."""
    current = [*fresh(50), table(9, 400, level=2, run=9, keys=(b"1000", b"1999"))]
    found = plan(Version.of([*current, *level(5, 2, 90), *level(7, 10, 2500)]))
    assert found is not None
    assert found.level == 6
    assert numbers(found) == [9, 500, 501, 1000]
    found = plan(Version.of([*current, table(10, 3000, level=3, run=7), *level(7, 10, 2500)]))
    assert found is not None
    assert found.level == 7


def test_a_last_run_of_an_older_release_goes_to_the_bottom_at_once() -> None:
    found = plan(Version.of(level(1, 10, 5000)))
    assert found is not None
    assert (found.move, found.level, len(found.tables)) == (True, 7, 10)


def test_small_levels_are_made_of_small_tables() -> None:
    sizes = []
    for bottom in (1000, 4000, 400_000):
        found = plan(Version.of([*fresh(101), *level(7, 10, bottom)]))
        assert found is not None
        sizes.append((found.level, found.table_size))
    assert sizes == [(6, 20), (5, 20), (2, 20)]
    found = plan(Version.of([*level(6, 4, 100_000), *level(7, 10, 400_000)]))
    assert found is not None
    assert (found.level, found.table_size) == (7, 1000)
