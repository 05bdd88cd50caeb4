"""The merge of a range of keys: what is cut, what is taken, and that no answer changes."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from seerdb.storage.compaction.plan import Plan, check_plan, collides
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.compaction.policy.given import PolicyOptions, PolicyStatistics
from seerdb.storage.compaction.policy.ranged import Range, cut, merge_range
from seerdb.storage.manifest.version import Run, Version
from tests.unit.storage.compaction.test_policies import FLUSHES, KEY, KEYS, MANY_STEPS, check_reads
from tests.unit.storage.compaction.toy import Tree, table

OPTIONS = PolicyOptions(table_size=100)
SMALL = PolicyOptions(size_ratio=3, base_size=20, table_size=40)


def compact(
    tree: Tree, start: bytes | None, end: bytes | None, options: PolicyOptions
) -> list[Plan]:
    """As the compactor does; returns what it did."""
    seq, done = tree.seq, list[Plan]()
    while plan := cut(tree.version, Range(start, end, seq), options):
        check_plan(tree.version, plan)
        tree.apply(plan)
        check_reads(tree)
        done.append(plan)
        assert len(done) < MANY_STEPS
    if plan := merge_range(tree.version, Range(start, end, seq), 0, options):
        check_plan(tree.version, plan)
        tree.apply(plan)
        check_reads(tree)
        done.append(plan)
    return done


def inside(run: Run, start: bytes | None, end: bytes | None) -> bool:
    return any(
        (end is None or each.smallest < end) and (start is None or each.largest >= start)
        for each in run.tables
    )


BOUND = st.none() | KEY | st.just(b"dd")


def is_range(borders: tuple[bytes | None, bytes | None]) -> bool:
    start, end = borders
    return start is None or end is None or start < end


BORDERS: st.SearchStrategy[tuple[bytes | None, bytes | None]] = st.tuples(BOUND, BOUND).filter(
    is_range
)


@given(
    flushes=st.lists(FLUSHES, max_size=15),
    policy=st.sampled_from(sorted(POLICIES)),
    borders=BORDERS,
)
@example(
    flushes=[([], [b"a"], []), ([], [b"b"], [(b"a", b"b")])],
    policy="adaptive",
    borders=(b"b", None),
)
def test_no_answer_changes_and_the_range_is_one_run_without_tombstones(
    flushes: list[Any], policy: str, borders: tuple[bytes | None, bytes | None]
) -> None:
    """Except where a range tombstone lies across a border or ends at it: then some may stay."""
    tree = Tree()
    for flush in flushes:
        tree.flush(*flush)
        plan = POLICIES[policy](tree.version, PolicyStatistics(), SMALL)
        if plan is not None:
            tree.apply(plan)
    start, end = borders
    compact(tree, start, end, SMALL)

    def holds(key: bytes) -> bool:
        return (start is None or key >= start) and (end is None or key < end)

    found = [
        (run.level, run.number, key, tree.rows[each.id][key])
        for run in tree.version.runs
        for each in run.tables
        for key in tree.rows[each.id]
        if holds(key)
    ]
    assert len({(level, run) for level, run, _, _ in found}) <= 1
    if not any(
        low < border <= high
        for _, _, gone in flushes
        for low, high in gone
        for border in borders
        if border is not None
    ):
        assert {key: seq for _, _, key, (seq, _) in found} == {
            key: seq for key, seq in tree.truth.items() if holds(key)
        }, "no tombstone is left, and nothing that one hides"
        assert all(is_put for _, _, _, (_, is_put) in found)


@given(flushes=st.lists(st.lists(KEY, min_size=1), min_size=1, max_size=12), low=st.integers(1, 13))
def test_without_range_deletes_only_what_overlaps_the_range_is_rewritten(
    flushes: list[list[bytes]], low: int
) -> None:
    tree = Tree()
    for number, keys in enumerate(flushes):
        tree.flush(keys, [], [])
        if number % 5 == 3 and (
            plan := merge_range(tree.version, Range(None, None, tree.seq), 0, SMALL)
        ):
            tree.apply(plan)
    start, end = KEYS[low], KEYS[low + 2]
    before = {each.id: each for each in tree.version.tables}
    for plan in compact(tree, start, end, SMALL):
        for each in plan.tables:
            if each.id in before:
                assert each.smallest < end
                assert each.largest >= start


def test_a_flushed_table_is_cut_and_only_its_middle_goes_down() -> None:
    bottom = [
        table(number, level=7, run=1, keys=(low, high))
        for number, (low, high) in enumerate([(b"a", b"c"), (b"e", b"h"), (b"k", b"p")], 1)
    ]
    version = Version.of([*bottom, table(9, keys=(b"a", b"p"), seqs=(90, 99))])
    first = cut(version, Range(b"e", b"j", 99), OPTIONS)
    assert first is not None
    assert (first.tables, first.splits) == ([version.runs[0].tables[0]], (b"e", b"j"))
    assert (first.level, first.run, first.bottom, first.move) == (0, 9, False, False)
    pieces = [
        table(11, run=9, keys=(b"a", b"d"), seqs=(90, 99)),
        table(12, run=9, keys=(b"e", b"i"), seqs=(90, 99)),
        table(13, run=9, keys=(b"j", b"p"), seqs=(90, 99)),
    ]
    version = Version.of([*bottom, *pieces])
    assert cut(version, Range(b"e", b"j", 99), OPTIONS) is None
    plan = merge_range(version, Range(b"e", b"j", 99), 0, OPTIONS)
    assert plan is not None
    assert [each.id for each in plan.tables] == [pieces[1].id, bottom[1].id]
    assert (plan.level, plan.run, plan.bottom) == (7, 1, True)


def test_what_came_after_the_request_is_left_alone() -> None:
    old = [table(1, level=7, run=1), table(2)]
    version = Version.of([*old, table(3, seqs=(30, 39))])
    plan = merge_range(version, Range(None, b"m", 29), 0, OPTIONS)
    assert plan is not None
    assert [each.id for each in plan.tables] == [each.id for each in reversed(old)]
    assert (
        cut(Version.of([old[0], table(3, seqs=(30, 39))]), Range(None, b"m", 29), OPTIONS) is None
    )


def test_nothing_is_done_where_nothing_lies_or_nothing_would_change() -> None:
    apart = Version.of([table(2, keys=(b"x", b"z")), table(1, level=7, run=1, keys=(b"a", b"c"))])
    for start, end in ((b"d", b"f"), (b"a", b"c"), (None, b"a")):
        assert cut(apart, Range(start, end, 99), OPTIONS) is None
        assert merge_range(apart, Range(start, end, 99), 0, OPTIONS) is None
    assert merge_range(Version(), Range(None, b"z", 0), 0, OPTIONS) is None


def test_tombstones_go_where_nothing_older_is_below() -> None:
    only = Version.of([table(5, keys=(b"a", b"k"), deletes=3)])
    plan = merge_range(only, Range(b"b", b"c", 99), 0, OPTIONS)
    assert plan is not None
    assert plan.bottom
    beyond = table(1, level=7, run=1, keys=(b"d", b"e"))
    assert (
        merge_range(Version.of([*only.tables, beyond]), Range(b"b", b"c", 99), 0, OPTIONS) is None
    )
    apart = cut(Version.of([*only.tables, beyond]), Range(b"b", b"c", 99), OPTIONS)
    assert apart is not None, "they may hide what lies beyond the range"
    assert apart.splits == (b"b", b"c")
    pieces = [
        table(number, run=5, keys=(key, key), deletes=1) for number, key in ((6, b"b"), (7, b"d"))
    ]
    plan = merge_range(Version.of([*pieces, beyond]), Range(b"b", b"c", 99), 0, OPTIONS)
    assert plan is not None
    assert ([each.id for each in plan.tables], plan.bottom) == ([pieces[0].id], True)


def test_what_begins_where_a_range_delete_ends_goes_along() -> None:
    """That key is the largest of the newer table, so the older one, beyond the range, overlaps it
    and would be passed."""
    tree = Tree()
    tree.flush([b"a"], [], [])
    tree.flush([b"d", b"h"], [], [])
    tree.flush([], [], [(b"a", b"d")])
    [done] = compact(tree, b"a", b"d", OPTIONS)
    assert len(done.tables) == 3


@given(flushes=st.lists(FLUSHES, min_size=1, max_size=20), draw=st.data())
def test_requests_and_policies_beside_each_other_change_no_answer(
    flushes: list[Any], draw: st.DataObject
) -> None:
    tree, running = Tree(), list[Plan]()
    while flushes or running:
        step = draw.draw(st.sampled_from(["flush", "policy", "request", "request", "end"]))
        plan = None
        if step == "flush" and flushes:
            tree.flush(*flushes.pop())
        elif step == "policy":
            policy = POLICIES[draw.draw(st.sampled_from(sorted(POLICIES)))]
            plan = policy(tree.version, PolicyStatistics(), SMALL, tuple(running))
        elif step == "request":
            wanted = Range(*draw.draw(BORDERS), draw.draw(st.integers(0, tree.seq)))
            plan = cut(tree.version, wanted, SMALL) or merge_range(tree.version, wanted, 0, SMALL)
        elif running:
            ended = running.pop(draw.draw(st.integers(0, len(running) - 1)))
            check_plan(tree.version, ended, running)
            tree.apply(ended)
        if plan is not None and not any(collides(plan, other) for other in running):
            check_plan(tree.version, plan, running)
            running.append(plan)
        check_reads(tree)
