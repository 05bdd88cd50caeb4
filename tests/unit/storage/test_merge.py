"""Merging, against a naive merge that sorts everything at once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.ids import MAX_SEQ
from seerdb.storage.entry import NO_TOMBSTONES, RangeTombstone, RangeTombstones
from seerdb.storage.merge import EMPTY, Chunk, Piece, clip, collapse, windows
from seerdb.storage.value import BELOW, Merge, Operand, Value
from tests.unit.storage.test_entry import naive

KEYS = [bytes([letter]) for letter in b"abcdefghij"]
Rows = dict[bytes, tuple[int, bytes | None]]
ROWS = st.dictionaries(
    st.sampled_from(KEYS), st.sampled_from([b"1", b"2", None]), max_size=len(KEYS)
)
RANGES = st.builds(
    lambda pair, seq: RangeTombstone(min(pair), max(pair), seq),
    st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS)).filter(lambda p: p[0] != p[1]),
    st.integers(1, 60),
)


def chunk_of(rows: Rows) -> Chunk:
    keys = sorted(rows)
    return Chunk(keys, [rows[key][0] for key in keys], [rows[key][1] for key in keys])


def with_seqs(sources: list[dict[bytes, bytes | None]]) -> list[Rows]:
    """Newest first: an earlier source has higher seqs for the same key."""
    top = len(sources)
    return [
        {key: (10 * (top - n) + KEYS.index(key) % 10, value) for key, value in source.items()}
        for n, source in enumerate(sources)
    ]


def pieces_of(rows: Rows, cuts: list[bytes], *, reverse: bool) -> Iterator[Piece[Chunk]]:
    """The rows as a source that tells them up to each cut, then the rest."""
    bounds: list[bytes | None] = [None, *sorted(cuts, reverse=reverse), None]
    for before, after in pairwise(bounds):
        low, high = (after, before) if reverse else (before, after)
        yield Piece(clip(chunk_of(rows), low, high), after)


def naive_merge(sources: list[Rows], tombstones: list[RangeTombstone], at: int) -> Rows:
    newest: Rows = {}
    for source in reversed(sources):
        newest.update(source)
    return {key: row for key, row in newest.items() if naive(tombstones, key, at) <= row[0]}


@given(
    sources=st.lists(
        st.tuples(ROWS, st.lists(st.sampled_from(KEYS), unique=True, max_size=4)), max_size=4
    ),
    tombstones=st.lists(RANGES, max_size=4),
    reverse=st.booleans(),
)
def test_windows_cut_as_one_likes_merge_to_the_same(
    sources: list[tuple[dict[bytes, bytes | None], list[bytes]]],
    tombstones: list[RangeTombstone],
    reverse: bool,
) -> None:
    rows = with_seqs([source for source, _ in sources])
    streams = [
        pieces_of(each, cuts, reverse=reverse)
        for each, (_, cuts) in zip(rows, sources, strict=True)
    ]
    found: list[tuple[bytes, int, Value]] = []
    for window in windows(streams, EMPTY, reverse=reverse):
        assert len(window) == len(sources)
        chunk = collapse(window, RangeTombstones(tombstones))
        entries = list(zip(*chunk, strict=True))
        assert entries == sorted(entries, key=lambda entry: entry[0])
        found += entries[:: -1 if reverse else 1]
    expected = naive_merge(rows, tombstones, MAX_SEQ)
    order = sorted(expected, reverse=reverse)
    assert found == [(key, *expected[key]) for key in order]


@given(st.lists(ROWS, max_size=4), st.lists(RANGES, max_size=4), st.integers(1, 60))
def test_a_range_delete_after_the_moment_hides_nothing(
    sources: list[dict[bytes, bytes | None]], tombstones: list[RangeTombstone], at: int
) -> None:
    rows = with_seqs(sources)
    chunk = collapse([chunk_of(each) for each in rows], RangeTombstones(tombstones), at)
    expected = naive_merge(rows, tombstones, at)
    assert list(zip(*chunk, strict=True)) == [(key, *expected[key]) for key in sorted(expected)]


def test_no_source_is_one_empty_window() -> None:
    assert list(windows([], EMPTY)) == [[]]
    assert collapse([], NO_TOMBSTONES) == EMPTY


def test_a_source_is_asked_only_when_its_next_rows_are_wanted() -> None:
    asked = []

    def source(name: str) -> Iterator[Piece[Chunk]]:
        for number in range(3):
            asked.append((name, number))
            keys = [b"%d" % number]
            yield Piece(Chunk(keys, [1], [b"v"]), b"%d" % (number + 1) if number < 2 else None)

    merged = windows([source("a"), source("b")], EMPTY)
    assert asked == []
    next(merged)
    assert asked == [("a", 0), ("b", 0)], "the first window costs the first pieces only"
    next(merged)
    assert asked[2:] == [("a", 1), ("b", 1)]


def test_a_put_at_the_seq_of_a_range_delete_stays() -> None:
    chunk = chunk_of({b"a": (5, b"1"), b"b": (4, b"1"), b"c": (6, None)})
    tombstones = RangeTombstones([RangeTombstone(b"a", b"z", 5)])
    assert collapse([chunk], tombstones) == chunk_of({b"a": (5, b"1"), b"c": (6, None)})


@given(ROWS, st.none() | st.sampled_from(KEYS), st.none() | st.sampled_from(KEYS))
def test_clip_keeps_what_is_in_bounds(
    source: dict[bytes, bytes | None], start: bytes | None, end: bytes | None
) -> None:
    [rows] = with_seqs([source])
    kept = {
        key: row
        for key, row in rows.items()
        if (start is None or key >= start) and (end is None or key < end)
    }
    clipped = clip(chunk_of(rows), start, end)
    assert list(zip(*clipped, strict=True)) == list(zip(*chunk_of(kept), strict=True))


@pytest.mark.parametrize(("deleted", "base"), [(4, b"x"), (5, b"x"), (6, None)])
def test_operands_reach_what_no_later_range_delete_hides(deleted: int, base: bytes | None) -> None:
    """A batch may delete a range and put a key in it anew, both with one seq."""
    operands = (Operand(1, b"o"),)
    window = [Chunk([b"a"], [9], [Merge(BELOW, operands)]), Chunk([b"a"], [5], [b"x"])]
    tombstones = RangeTombstones([RangeTombstone(b"a", b"b", deleted)])
    found = collapse(window, tombstones, special=True)
    assert [list(column) for column in found] == [[b"a"], [9], [Merge(base, operands)]]


@pytest.mark.parametrize("base", [b"new", None])
def test_operands_end_at_the_first_base(base: bytes | None) -> None:
    """What is older than that is nothing to them, be it a value or other operands."""
    operands = (Operand(1, b"o"),)
    for oldest in (b"old", Merge(BELOW, (Operand(0, b"old"),))):
        values: list[Value] = [Merge(BELOW, operands), base, oldest]
        window = [
            Chunk([b"a"], [seq], [value]) for seq, value in zip((3, 2, 1), values, strict=True)
        ]
        found = collapse(window, NO_TOMBSTONES, special=True)
        assert [list(column) for column in found] == [[b"a"], [3], [Merge(base, operands)]]


def test_a_range_delete_after_the_moment_leaves_operands_their_base() -> None:
    operands = (Operand(1, b"o"),)
    window = [Chunk([b"a"], [3], [Merge(BELOW, operands)]), Chunk([b"a"], [1], [b"x"])]
    tombstones = RangeTombstones([RangeTombstone(b"a", b"b", 5)])
    found = collapse(window, tombstones, 4, special=True)
    assert [list(column) for column in found] == [[b"a"], [3], [Merge(b"x", operands)]]
