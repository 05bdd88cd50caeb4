"""A plan and the rules it must keep, alone and beside others."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from seerdb.errors import InternalError
from seerdb.storage.compaction.plan import (
    SPLIT_TABLES,
    Plan,
    between,
    check_plan,
    collides,
    free_stretches,
    make_plan,
    overlapping,
)
from seerdb.storage.manifest.version import Run, TableMeta, Version
from tests.unit.storage.compaction.toy import table

SIZE = 100
"""Of a full table."""


def plan_of(version: Version, *numbers: int, level: int, run: int, table_size: int = SIZE) -> Plan:
    """The merge of the tables with these numbers."""
    plan = make_plan(version, inputs_of(version, *numbers), (level, -run), table_size)
    assert plan is not None
    return plan


def inputs_of(version: Version, *numbers: int) -> tuple[Run, ...]:
    wanted = {table(number).id for number in numbers}
    runs = [
        Run(run.level, run.number, tuple(each for each in run.tables if each.id in wanted))
        for run in version.runs
    ]
    return tuple(run for run in runs if run.tables)


def faulty(version: Version, plan: Plan, *running: Plan) -> str:
    """What is wrong with a plan."""
    with pytest.raises(InternalError) as caught:
        check_plan(version, plan, running)
    return str(caught.value)


def three_levels() -> list[TableMeta]:
    """Two fresh runs; three tables in level 6; four at the bottom."""
    return [
        table(12, run=12, keys=(b"a", b"k"), seqs=(90, 99)),
        table(11, run=11, keys=(b"e", b"p"), seqs=(80, 89)),
        table(21, level=6, run=2, keys=(b"a", b"c"), seqs=(50, 79)),
        table(22, level=6, run=2, keys=(b"e", b"g"), seqs=(50, 79), deletes=1),
        table(23, level=6, run=2, keys=(b"m", b"n"), seqs=(50, 79)),
        table(31, level=7, run=1, keys=(b"a", b"d"), seqs=(1, 60)),
        table(32, level=7, run=1, keys=(b"e", b"h"), seqs=(1, 60)),
        table(33, level=7, run=1, keys=(b"i", b"k"), seqs=(1, 60)),
        table(34, level=7, run=1, keys=(b"p", b"q"), seqs=(1, 60)),
    ]


VERSION = Version.of(three_levels())


def test_a_table_and_what_it_overlaps_below_may_be_merged() -> None:
    plan = plan_of(VERSION, 22, 32, level=7, run=1)
    check_plan(VERSION, plan)
    assert (plan.level, plan.run, plan.bottom, plan.move) == (7, 1, True, False)
    assert [each.id for each in plan.tables] == [table(22).id, table(32).id]
    assert plan.size == 200
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_a_table_that_overlaps_nothing_is_moved() -> None:
    plan = plan_of(VERSION, 23, level=7, run=1)
    check_plan(VERSION, plan)
    assert (plan.bottom, plan.move, plan.splits) == (True, True, ())


def test_a_tombstone_with_nothing_below_is_dropped_not_moved() -> None:
    for points, ranges in ((1, 0), (0, 1)):
        above = table(1, level=6, keys=(b"x", b"z"), deletes=points, range_deletes=ranges)
        version = Version.of([above, *three_levels()])
        plan = plan_of(version, 1, level=7, run=1)
        check_plan(version, plan)
        assert (plan.bottom, plan.move) == (True, False)
        assert "could be dropped" in faulty(version, replace(plan, move=True))


@pytest.mark.parametrize(("expiring", "merges"), [(1, 0), (0, 1)])
def test_what_may_expire_or_fold_at_the_bottom_is_not_moved_there(
    expiring: int, merges: int
) -> None:
    above = table(1, level=6, keys=(b"x", b"z"), expiring=expiring, merges=merges)
    version = Version.of([above, *three_levels()])
    plan = plan_of(version, 1, level=7, run=1)
    check_plan(version, plan)
    assert (plan.bottom, plan.move) == (True, False)
    assert "could be dropped or folded" in faulty(version, replace(plan, move=True))
    alone = Version.of([table(1, level=7, expiring=expiring, merges=merges)])
    assert not plan_of(alone, 1, level=7, run=1).move


def test_a_tombstone_with_something_below_is_moved_along() -> None:
    version = Version.of([table(9, keys=(b"a", b"z"), deletes=1), table(1, level=7)])
    plan = plan_of(version, 9, level=5, run=9)
    check_plan(version, plan)
    assert (plan.bottom, plan.move) == (False, True)


def test_tables_that_overlap_are_not_moved() -> None:
    plan = plan_of(VERSION, 12, 11, level=5, run=12)
    check_plan(VERSION, plan)
    assert not plan.move
    assert "moves tables that overlap" in faulty(VERSION, replace(plan, move=True))


def test_many_small_tables_are_merged_though_they_could_be_moved() -> None:
    tables = [table(n, 10, keys=(b"%02d" % n, b"%02d" % n)) for n in range(1, 6)]
    version = Version.of(tables)
    assert plan_of(version, 1, 2, 3, 4, 5, level=7, run=5, table_size=80).move
    assert not plan_of(version, 1, 2, 3, 4, 5, level=7, run=5, table_size=88).move


def test_what_is_there_already_and_holds_no_tombstone_is_no_plan() -> None:
    version = Version.of([table(1, level=7)])
    assert make_plan(version, version.runs, (7, -1), SIZE) is None
    version = Version.of([table(1, level=7, deletes=1)])
    plan = make_plan(version, version.runs, (7, -1), SIZE)
    assert plan is not None
    assert (plan.bottom, plan.move) == (True, False)


def test_a_merge_that_leaves_older_data_below_is_not_at_the_bottom() -> None:
    plan = plan_of(VERSION, 12, 11, level=5, run=12)
    assert not plan.bottom
    assert "claims the bottom" in faulty(VERSION, replace(plan, bottom=True))


def test_what_lies_below_is_older_though_by_a_single_commit() -> None:
    version = Version.of([table(2, seqs=(2, 2), deletes=1), table(1, level=7, seqs=(1, 1))])
    assert not plan_of(version, 2, level=5, run=2).bottom


def test_what_lies_below_counts_only_where_it_overlaps() -> None:
    version = Version.of(
        [table(9, keys=(b"r", b"s")), table(8, keys=(b"s", b"z")), *three_levels()]
    )
    assert plan_of(version, 9, 8, level=5, run=9).bottom


def test_what_lies_below_counts_only_if_it_is_older() -> None:
    """A table that a wide one spans without sharing a key with it may have got below it."""
    old = table(1, run=1, seqs=(1, 5), keys=(b"a", b"z"), deletes=1)
    young = table(2, level=7, run=2, seqs=(6, 9), keys=(b"m", b"n"))
    assert plan_of(Version.of([old, young]), 1, level=5, run=1).bottom


def test_newer_data_must_not_pass_older() -> None:
    older_first = Version.of([table(9, keys=(b"a", b"c")), table(8, keys=(b"b", b"d"))])
    plan = plan_of(older_first, 9, level=7, run=9)
    assert "would pass" in faulty(older_first, plan)
    skipping = plan_of(VERSION, 12, level=7, run=1)
    assert "would pass" in faulty(VERSION, skipping)


def test_older_data_must_not_rise_above_newer() -> None:
    version = Version.of([table(9), table(8, level=3)])
    plan = plan_of(version, 8, level=0, run=10)
    assert "would pass" in faulty(version, plan)


def test_older_data_must_not_join_a_run_of_newer_that_holds_the_same_key() -> None:
    """Though there is nothing but that key between its bounds."""
    version = Version.of([table(9, keys=(b"a", b"c")), table(8, level=3, keys=(b"c", b"e"))])
    plan = plan_of(version, 8, level=0, run=9)
    assert "would pass" in faulty(version, plan)


def test_two_runs_that_share_no_key_may_pass_each_other() -> None:
    version = Version.of([table(9, keys=(b"a", b"c")), table(8, keys=(b"d", b"f"))])
    check_plan(version, plan_of(version, 9, level=7, run=9))


def test_a_plan_must_take_in_all_it_overlaps_in_the_run_it_joins() -> None:
    plan = plan_of(VERSION, 22, level=7, run=1)
    assert "would pass level 7 run 1" in faulty(VERSION, plan)


def test_outputs_must_not_enclose_what_stays_in_the_run_they_join() -> None:
    version = Version.of(
        [
            table(1, level=6, run=2, keys=(b"a", b"c")),
            table(2, level=6, run=2, keys=(b"x", b"z")),
            table(3, level=7, run=1, keys=(b"m", b"n")),
        ]
    )
    assert "among its outputs" in faulty(version, plan_of(version, 1, 2, level=7, run=1))
    check_plan(version, plan_of(version, 1, level=7, run=1))


def test_neighbours_that_touch_at_the_end_of_a_range_delete_may_part() -> None:
    left = table(1, level=6, run=2, keys=(b"a", b"m"), range_deletes=1)
    right = table(2, level=6, run=2, keys=(b"m", b"z"))
    below = table(3, level=7, run=1, keys=(b"n", b"z"))
    version = Version.of([left, right, below])
    check_plan(version, plan_of(version, 1, level=7, run=1))
    assert "would pass" in faulty(version, plan_of(version, 2, level=7, run=1))


def test_tables_that_are_not_in_the_version_are_no_inputs() -> None:
    plan = plan_of(VERSION, 22, 32, level=7, run=1)
    after = VERSION.changed(add=[], remove=[table(22).id])
    assert "does not hold" in faulty(after, plan)
    elsewhere = Run(3, 3, plan.inputs[0].tables)
    assert "does not hold" in faulty(VERSION, replace(plan, inputs=(elsewhere,)))


def test_plans_must_not_share_a_table() -> None:
    one = plan_of(VERSION, 22, 32, level=7, run=1)
    other = plan_of(VERSION, 11, 22, level=6, run=2)
    assert collides(one, other)
    assert "collide" in faulty(VERSION, one, other)


def test_plans_in_other_ranges_may_run_together() -> None:
    one = plan_of(VERSION, 22, 32, level=7, run=1)
    other = plan_of(VERSION, 21, 31, level=7, run=1)
    assert not collides(one, other)
    assert not collides(other, one)
    check_plan(VERSION, one, [other])


def test_two_plans_must_not_make_one_run_of_overlapping_ranges() -> None:
    """Each is good alone: the one encloses the other without overlapping it."""
    version = Version.of(
        [
            table(9, keys=(b"a", b"b")),
            table(8, keys=(b"y", b"z")),
            table(5, level=3, run=5, keys=(b"m", b"n")),
        ]
    )
    wide = plan_of(version, 9, 8, level=7, run=9)
    inner = plan_of(version, 5, level=7, run=9)
    check_plan(version, wide)
    check_plan(version, inner)
    assert collides(wide, inner)
    assert collides(inner, wide)
    assert not collides(wide, replace(inner, run=5))


def test_newer_data_must_not_pass_older_that_is_on_its_way() -> None:
    """The older goes down; until it has arrived the newer must not overtake it."""
    version = Version.of([table(9), table(8, level=1), table(7, level=2, keys=(b"p", b"q"))])
    older = plan_of(version, 8, 7, level=6, run=8)
    newer = make_plan(version, inputs_of(version, 9), (4, -9), SIZE)
    assert newer is not None
    assert collides(older, newer)
    assert collides(newer, older)
    behind = make_plan(version, inputs_of(version, 9), (1, -9), SIZE)
    assert behind is not None
    assert not collides(behind, older)


def test_older_data_must_not_come_to_lie_where_newer_goes() -> None:
    version = Version.of([table(9), table(8, level=2)])
    newer = plan_of(version, 9, level=1, run=9)
    older = plan_of(version, 8, level=1, run=9)
    assert collides(newer, older)


def test_runs_that_are_being_merged_cut_the_others_into_stretches() -> None:
    version = Version.of([table(n) for n in range(1, 7)])

    def stretches(*running: Plan, of: int = 6) -> list[list[int]]:
        found = free_stretches(version.runs[:of], running)
        return [[run.number for run in stretch] for stretch in found]

    middle = plan_of(version, 5, 4, level=0, run=4)
    assert stretches() == [[6, 5, 4, 3, 2, 1]]
    assert stretches(middle) == [[6], [3, 2, 1]]
    assert stretches(middle, of=3) == [[6], []]
    assert stretches(middle, plan_of(version, 2, 1, level=7, run=2)) == [[6], [3], []]
    assert stretches(plan_of(version, 6, 5, level=0, run=5)) == [[4, 3, 2, 1]]


def test_a_large_merge_is_split_at_borders_of_its_largest_run() -> None:
    tables = [
        table(n, SIZE, level=7, run=1, keys=(b"%03d" % n, b"%03d+" % n)) for n in range(1, 41)
    ]
    version = Version.of([*tables, table(99, 10 * SIZE, keys=(b"000", b"999"))])
    plan = plan_of(version, *range(1, 41), 99, level=7, run=1)
    assert plan.splits == (b"008", b"015", b"022", b"029", b"036")
    assert SPLIT_TABLES * SIZE == 800, "7 tables of 100 and 7/40 of the 1000 above are 875"
    assert plan.parts[0] == (None, b"008")
    assert plan.parts[-1] == (b"036", None)
    assert len(plan.parts) == 6
    [only] = plan_of(version, 1, 2, level=6, run=1).parts
    assert only == (None, None)


def test_tables_of_a_range() -> None:
    [run] = Version.of(three_levels()[5:]).runs

    def numbers(found: tuple[TableMeta, ...]) -> list[int]:
        return [int(each.id[-2:]) for each in found]

    assert numbers(overlapping(run, b"d", b"i").tables) == [31, 32, 33]
    assert numbers(overlapping(run, b"d0", b"d9").tables) == []
    assert numbers(overlapping(run, b"q", b"q").tables) == [34]
    for start, end, expected in (
        (None, None, [31, 32, 33, 34]),
        (b"d", b"i", [31, 32]),
        (b"d0", b"e", []),
        (b"q", None, [34]),
        (None, b"a", []),
    ):
        found = between([run], start, end)
        assert [number for each in found for number in numbers(each.tables)] == expected
