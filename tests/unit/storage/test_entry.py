"""Range tombstones, against a list that is searched from end to end."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.ids import MAX_SEQ
from seerdb.storage import entry
from seerdb.storage.entry import NO_TOMBSTONES, RangeTombstone, RangeTombstones, joined

KEYS = [bytes([a]) + b for a in b"abcd" for b in (b"", b"\0", b"\xff")]
RANGES = st.builds(
    lambda pair, seq: RangeTombstone(min(pair), max(pair), seq),
    st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS)).filter(lambda p: p[0] != p[1]),
    st.integers(1, 9),
)


def naive(tombstones: list[RangeTombstone], key: bytes, at: int) -> int:
    """What ``covering`` must say."""
    seqs = [t.seq for t in tombstones if t.start <= key < t.end and t.seq <= at]
    return max(seqs, default=0)


def check(built: RangeTombstones, tombstones: list[RangeTombstone]) -> None:
    assert bool(built) == bool(tombstones)
    assert joined(built.tombstones) == joined(tombstones)
    for key in (*KEYS, b"", b"A", b"z"):
        for at in (*range(11), MAX_SEQ):
            assert built.covering(key, at) == naive(tombstones, key, at)
    for keys in (KEYS, KEYS[3:9:2], KEYS[5:6], [b"", b"z"]):
        for at in (*range(11), MAX_SEQ):
            for seq in (0, 3, 9):
                hidden = {n for n, key in enumerate(keys) if seq < naive(tombstones, key, at)}
                assert built.hidden(keys, [seq] * len(keys), at) == hidden


@given(st.lists(RANGES, max_size=12))
def test_the_highest_seq_over_a_key_is_found(tombstones: list[RangeTombstone]) -> None:
    check(RangeTombstones(tombstones), tombstones)


@given(st.lists(st.lists(RANGES, max_size=4), max_size=5))
def test_adding_some_is_having_them_all(parts: list[list[RangeTombstone]]) -> None:
    built = NO_TOMBSTONES
    so_far: list[RangeTombstone] = []
    for part in parts:
        before, earlier = built, list(so_far)
        built = built.with_added(part)
        so_far += part
        check(built, so_far)
        check(before, earlier)


@given(st.lists(RANGES, max_size=8), st.lists(RANGES, max_size=8))
def test_two_sets_become_one_whichever_is_newer(
    older: list[RangeTombstone], newer: list[RangeTombstone]
) -> None:
    for_one_read = RangeTombstones(older).read_under(RangeTombstones(newer))
    check(for_one_read, older + newer)
    built = RangeTombstones(older).under(RangeTombstones(newer))
    check(built, older + newer)
    check(built.with_added(newer), older + newer)


@given(st.lists(RANGES, max_size=8), st.lists(RANGES, max_size=4))
def test_what_newer_ones_hide_altogether_is_not_needed(
    some: list[RangeTombstone], others: list[RangeTombstone]
) -> None:
    built = RangeTombstones(some).with_added(others)
    unhidden = built.unhidden()
    assert set(unhidden) <= set(joined(built.tombstones))
    for key in KEYS:
        assert naive(list(unhidden), key, MAX_SEQ) == naive([*some, *others], key, MAX_SEQ)
    for each in unhidden:
        newer = [other for other in unhidden if other.seq > each.seq]
        covered = (naive(newer, key, MAX_SEQ) for key in KEYS if each.start <= key < each.end)
        assert not all(covered)


def test_a_range_ends_before_its_end() -> None:
    built = RangeTombstones([RangeTombstone(b"b", b"d", 5)])
    assert [built.covering(key, 9) for key in (b"a\xff", b"b", b"c\xff", b"d")] == [0, 5, 5, 0]


def test_one_of_the_same_seq_is_found_at_that_seq() -> None:
    built = RangeTombstones([RangeTombstone(b"a", b"z", 5)])
    assert [built.covering(b"m", at) for at in (4, 5, 6)] == [0, 5, 5]


def test_none_is_none() -> None:
    assert not NO_TOMBSTONES
    assert NO_TOMBSTONES.covering(b"a", MAX_SEQ) == 0
    assert NO_TOMBSTONES.with_added([]).tombstones == ()


def test_thousands_are_added_one_by_one_and_found() -> None:
    """Each addition once sorted and cut all of them anew, which took minutes."""
    built = NO_TOMBSTONES
    for number in range(3000):
        start = b"%05d" % (number * 7919 % 3000)
        built = built.with_added([RangeTombstone(start, start + b"\xff", number + 1)])
    for number in range(1500):
        built = built.with_added([RangeTombstone(b"%05d" % (number + 5000), b"9", number + 9000)])
    assert len(built.tombstones) == 4500
    assert built.covering(b"%05d" % (2999 * 7919 % 3000), MAX_SEQ) == 3000
    assert built.covering(b"08000", MAX_SEQ) == 10_499
    assert built.covering(b"08000", 9_700) == 9_700


@pytest.mark.parametrize("bulk", [False, True])
def test_ranges_that_lie_in_each_other_take_no_more_than_others(*, bulk: bool) -> None:
    """As of a log that is trimmed from its start: each of them once was kept for each of the
    ranges under it, so that two thousand took minutes."""
    trims = [RangeTombstone(b"log/", b"log/%06d" % number, number) for number in range(1, 1001)]
    tracemalloc.start()
    try:
        if bulk:
            built = RangeTombstones(trims)
        else:
            built = NO_TOMBSTONES
            for trim in trims:
                built = built.with_added([trim])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 << 20
    for number in (1, 500, 999):
        key = b"log/%06d" % number
        assert [built.covering(key, at) for at in (number, 900, MAX_SEQ)] == [
            0,
            900 if number < 900 else 0,
            1000,
        ]


@given(st.lists(RANGES, max_size=12))
def test_ranges_of_one_seq_that_meet_are_one(tombstones: list[RangeTombstone]) -> None:
    found = joined(tombstones)
    for key in KEYS:
        seqs = {t.seq for t in tombstones if t.start <= key < t.end}
        assert [t.seq for t in found if t.start <= key < t.end] == sorted(seqs)
    for left, right in pairwise(found):
        assert left.seq < right.seq or (left.seq == right.seq and left.end < right.start)


def test_many_of_one_seq_are_put_in_order_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one they took seconds, in which all other writers waited."""
    overlays: list[int] = []

    def overlaid(newer: Any, older: Any) -> Any:
        overlays.append(newer.count + older.count)
        return original(newer, older)

    original = entry._overlaid
    monkeypatch.setattr(entry, "_overlaid", overlaid)
    few = NO_TOMBSTONES.with_added([RangeTombstone(b"a", b"b", 1)])
    built = few.with_added(RangeTombstone(b"%04d" % n, b"%04d\0" % n, 2) for n in range(1000))
    assert len(built.tombstones) == 1001
    assert [built.covering(b"0500", at) for at in (1, 2)] == [0, 2]
    assert overlays == [1001]


def test_memory_is_about_what_a_set_takes() -> None:
    ranges = [RangeTombstone(b"%05d" % (2 * n), b"%05d" % (2 * n + 1), n) for n in range(1, 2000)]
    tracemalloc.start()
    try:
        built = RangeTombstones(ranges)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 * taken < built.memory < 1.2 * taken
    assert NO_TOMBSTONES.memory == 0
