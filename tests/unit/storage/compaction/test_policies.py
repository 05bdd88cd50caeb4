"""What holds for every policy, on any version and beside any plans that are running."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seerdb.storage.compaction.plan import Plan, check_plan
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.compaction.policy.adaptive import SHAPES
from seerdb.storage.compaction.policy.full import merge_all
from seerdb.storage.compaction.policy.given import PolicyOptions, PolicyStatistics
from seerdb.storage.compaction.policy.tiers import max_runs
from seerdb.storage.manifest.version import TableMeta, Version, check_version
from tests.unit.storage.compaction.toy import Tree, table

KEYS = [bytes([letter]) for letter in b"abcdefghijklmnop"]
KEY = st.sampled_from(KEYS)
FLUSHES = st.tuples(
    st.lists(KEY, max_size=12),
    st.lists(KEY, max_size=3),
    st.lists(st.tuples(KEY, KEY).map(sorted).filter(lambda p: p[0] < p[1]).map(tuple), max_size=1),
)
"""Puts, deletes and range deletes."""

OPTIONS = st.builds(
    PolicyOptions,
    size_ratio=st.integers(2, 5),
    base_size=st.sampled_from([5, 20, 80]),
    table_size=st.sampled_from([10, 40, 200]),
)
"""Of trees that have several levels when they hold a few dozen entries of 10 bytes."""

MANY_STEPS = 500


def settle(tree: Tree, policy: str, options: PolicyOptions, statistics: Any = None) -> None:
    """Apply the policy until it comes to nothing."""
    for _ in range(MANY_STEPS):
        plan = POLICIES[policy](tree.version, statistics or PolicyStatistics(), options)
        if plan is None:
            return
        check_plan(tree.version, plan)
        tree.apply(plan)
    raise AssertionError("it goes on and on")


def check_reads(tree: Tree) -> None:
    assert {key: tree.read(key) for key in KEYS if tree.read(key) is not None} == tree.truth


@pytest.mark.parametrize("policy", SHAPES)
@given(flushes=st.lists(FLUSHES, max_size=30), options=OPTIONS)
def test_merges_change_no_answer_and_come_to_an_end(
    policy: str, flushes: list[Any], options: PolicyOptions
) -> None:
    """PB-18."""
    tree = Tree()
    for flush in flushes:
        tree.flush(*flush)
        settle(tree, policy, options)
        check_reads(tree)
        assert len(tree.version.runs) <= max_runs(options) + 7
    plan = merge_all(tree.version, tree.seq, 0, options)
    if plan is not None:
        check_plan(tree.version, plan)
        tree.apply(plan)
    check_reads(tree)
    assert tree.tombstones(tree.version.tables) == 0, "nothing older is left for them to hide"
    assert sum(len(tree.rows[each.id]) for each in tree.version.tables) == len(tree.truth)


@pytest.mark.parametrize("policy", SHAPES)
@pytest.mark.parametrize("base_size", [1, 1 << 40], ids=["all levels", "one level"])
@pytest.mark.parametrize("size_ratio", [2, 100])
@pytest.mark.parametrize("table_size", [1, 1 << 40], ids=["a key a table", "one table"])
@settings(max_examples=10)
@given(flushes=st.lists(FLUSHES, max_size=30))
def test_shapes_at_the_edge_change_no_answer(
    policy: str, base_size: int, size_ratio: int, table_size: int, flushes: list[Any]
) -> None:
    options = PolicyOptions(size_ratio=size_ratio, base_size=base_size, table_size=table_size)
    tree = Tree()
    for flush in flushes:
        tree.flush(*flush)
        settle(tree, policy, options)
        check_reads(tree)


@given(
    flushes=st.lists(FLUSHES, min_size=1, max_size=30),
    options=OPTIONS,
    draw=st.data(),
)
def test_plans_that_run_beside_each_other_change_no_answer(
    flushes: list[Any], options: PolicyOptions, draw: st.DataObject
) -> None:
    """And beside flushes, in any order of their ends, while the policy changes as it likes."""
    tree = Tree()
    running: list[Plan] = []
    shapes = st.sampled_from(sorted(SHAPES))
    while flushes or running:
        step = draw.draw(st.sampled_from(["flush", "start", "start", "end"]))
        if step == "flush" and flushes:
            tree.flush(*flushes.pop())
        elif step == "start":
            policy = SHAPES[draw.draw(shapes)]
            plan = policy(tree.version, PolicyStatistics(), options, tuple(running))
            if plan is not None:
                check_plan(tree.version, plan, running)
                running.append(plan)
        elif running:
            ended = running.pop(draw.draw(st.integers(0, len(running) - 1)))
            check_plan(tree.version, ended, running)  # still good, whatever has come and gone
            tree.apply(ended)
        check_reads(tree)
    check_version(tree.version)


@st.composite
def key_ranges(draw: st.DrawFn) -> list[tuple[int, int, bool]]:
    """First and last keys of the tables of a run. The end of a range delete, of which the third
    tells, may be the first key of the next table."""
    borders = sorted(draw(st.lists(st.integers(0, 99), min_size=2, max_size=12, unique=True)))
    ranges = []
    while len(borders) > 1:
        low, high = borders[:2]
        touches = len(borders) > 2 and draw(st.booleans())
        ranges.append((low, high, touches))
        borders = borders[1:] if touches else borders[2:]
    return ranges


@st.composite
def versions(draw: st.DrawFn) -> Version:
    """Any version at all, of any policy or none: the newer a run, the higher its seqs."""
    tables: list[TableMeta] = []
    places = st.tuples(st.integers(0, 7), st.integers(1, 30))
    runs = draw(st.lists(places, unique=True, max_size=12))
    for age, (level, run) in enumerate(sorted(runs, key=lambda place: (-place[0], place[1]))):
        for low, high, touches in draw(key_ranges()):
            deletes = draw(st.sampled_from([0, 0, 1, 9]))
            tables.append(
                table(
                    len(tables) + 1,
                    draw(st.integers(1, 500)),
                    level=level,
                    run=run,
                    keys=(b"%02d" % low, b"%02d" % high),
                    seqs=(100 * age + 1, 100 * age + 99),
                    deletes=deletes,
                    range_deletes=max(touches, deletes // 9),
                )
            )
    version = Version.of(tables)
    check_version(version)
    return version


@pytest.mark.parametrize("policy", SHAPES)
@given(version=versions(), options=OPTIONS)
def test_whatever_there_is_plans_are_sound_and_may_run_together(
    policy: str, version: Version, options: PolicyOptions
) -> None:
    running: list[Plan] = []
    while plan := SHAPES[policy](version, PolicyStatistics(), options, tuple(running)):
        check_plan(version, plan, running)
        running.append(plan)
        assert len(running) <= len(version.tables)
    taken = [each.id for plan in running for each in plan.tables]
    assert len(taken) == len(set(taken))


def outcome(plan: Plan, number: int) -> list[TableMeta]:
    """Some tables such a plan could make, if nothing of its inputs became obsolete."""
    if plan.move:
        return [
            table(
                number + count,
                each.size,
                level=plan.level,
                run=plan.run,
                keys=(each.smallest, each.largest),
                seqs=(each.min_seq, each.max_seq),
                deletes=each.deletes,
                range_deletes=each.range_deletes,
            )
            for count, each in enumerate(plan.tables)
        ]
    inputs = sorted(plan.tables, key=lambda each: each.smallest)
    keys = (inputs[0].smallest, max(each.largest for each in inputs))
    seqs = (min(each.min_seq for each in inputs), max(each.max_seq for each in inputs))
    made = table(
        number,
        plan.size,
        level=plan.level,
        run=plan.run,
        keys=keys,
        seqs=seqs,
        deletes=0 if plan.bottom else max(each.deletes for each in inputs),
        # Never dropped here: without them the table would end before its last key.
        range_deletes=max(each.range_deletes for each in inputs),
    )
    return [made]


@pytest.mark.parametrize("policy", SHAPES)
@given(version=versions(), options=OPTIONS)
def test_whatever_there_is_it_comes_to_rest_with_few_runs(
    policy: str, version: Version, options: PolicyOptions
) -> None:
    for step in range(MANY_STEPS):
        plan = SHAPES[policy](version, PolicyStatistics(), options)
        if plan is None:
            break
        check_plan(version, plan)
        gone = [each.id for each in plan.tables]
        version = version.changed(add=outcome(plan, 1000 * (step + 1)), remove=gone)
    else:
        raise AssertionError("it goes on and on")
    assert len(version.runs) <= max_runs(options) + 7
