"""The index: both forms send every key, there or not, to the same block."""

from __future__ import annotations

import random
from bisect import bisect_right
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from seerdb.errors import CorruptionError
from seerdb.storage.sstable.index import (
    ERROR,
    BlockIndex,
    LearnedIndex,
    TableIndex,
    build_index,
    open_index,
    separators_of,
)

# Heads that are equal, that differ in their last bits only, that jump; ends of zeros; long ones.
TAILS = st.one_of(
    st.binary(max_size=4),
    st.integers(0, (1 << 64) - 1).map(lambda number: number.to_bytes(8)),
    st.integers((1 << 64) - 600, (1 << 64) - 1).map(lambda number: number.to_bytes(8)),
    st.integers(0, 1 << 40).map(lambda number: b"%016d" % number),
    st.integers(0, 500).map(lambda number: b"12345678" + number.to_bytes(2)),
    st.lists(st.sampled_from([b"\x00", b"\xff", b"a"]), max_size=12).map(b"".join),
)


@st.composite
def blocks(draw: st.DrawFn) -> list[list[bytes]]:
    """Keys in blocks of one to three."""
    prefix = draw(st.sampled_from([b"", b"a", b"/a/long/shared/prefix/", b"\xff\x00"]))
    tails = draw(st.lists(TAILS, min_size=1, max_size=150))
    step = draw(st.integers(1, 3))
    keys = sorted({prefix + tail for tail in tails} - {b""}) or [b"k"]
    return [keys[start : start + step] for start in range(0, len(keys), step)]


def built(groups: list[list[bytes]], *, learned: bool) -> TableIndex:
    first_keys, last_keys = [group[0] for group in groups], [group[-1] for group in groups]
    separators = separators_of(first_keys[:1], last_keys[:1], None)
    separators += separators_of(first_keys[1:], last_keys[1:], last_keys[0])
    assert separators == separators_of(first_keys, last_keys, None)
    return build_index(separators, last_keys[-1], [10] * len(groups), learned=learned)


def opened(groups: list[list[bytes]], *, learned: bool) -> BlockIndex:
    return open_index(built(groups, learned=learned), name="t", offset=0)


@given(blocks(), st.lists(TAILS, max_size=50))
def test_both_forms_answer_alike(groups: list[list[bytes]], others: list[bytes]) -> None:
    separators = built(groups, learned=False).separators
    bisected, learned = opened(groups, learned=False), opened(groups, learned=True)
    keys = [key for group in groups for key in group]
    probes = [*keys, *others, *separators, b""]
    probes += [groups[0][0][:1] + other for other in others]
    probes += [probe + b"\0" for probe in probes] + [probe[:-1] for probe in probes]
    for probe in probes:
        expected = bisect_right(separators, probe)
        assert bisected.rank(probe) == expected
        assert learned.rank(probe) == expected
    for number, separator in enumerate(separators):
        assert bisected.separator(number) == learned.separator(number) == separator


@given(blocks())
def test_every_key_ranks_in_its_block(groups: list[list[bytes]]) -> None:
    for index in (opened(groups, learned=False), opened(groups, learned=True)):
        for number, group in enumerate(groups, 1):
            assert {index.rank(key) for key in group} == {number}


@given(blocks())
def test_separators_are_as_short_as_can_be(groups: list[list[bytes]]) -> None:
    separators = built(groups, learned=False).separators
    assert separators[0] == groups[0][0]
    for (before, group), separator in zip(pairwise(groups), separators[1:], strict=True):
        assert before[-1] < separator <= group[0]
        assert group[0].startswith(separator)
        assert separator[:-1] <= before[-1]


def clusters(rng: random.Random, count: int, size: int) -> list[list[bytes]]:
    """Heads that come in dense clusters far apart: the worst for lines."""
    starts = [rng.getrandbits(62) for _ in range(count)]
    return [
        [key.to_bytes(8)]
        for key in sorted({start + i * i // 99 for start in starts for i in range(size)})
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("count", "size"), [(1, 4000), (4, 1000), (60, 70), (2000, 2)])
def test_the_error_is_bounded_where_heads_cluster(seed: int, count: int, size: int) -> None:
    groups = clusters(random.Random(seed), count, size)
    index = opened(groups, learned=True)
    assert isinstance(index, LearnedIndex)
    separators = built(groups, learned=False).separators
    for [key] in groups:
        for probe in (int.from_bytes(key) - 1, int.from_bytes(key), int.from_bytes(key) + 1):
            expected = bisect_right(separators, probe.to_bytes(8))
            assert index.rank(probe.to_bytes(8)) == expected


def test_even_keys_need_few_lines_and_little_memory() -> None:
    groups = [[b"key%013d" % (100 * number)] for number in range(5000)]
    columns = built(groups, learned=True).learned
    assert columns is not None
    assert len(columns.starts) < 100
    assert opened(groups, learned=True).memory < 15 * 5000
    assert opened(groups, learned=False).memory > 40 * 5000


@pytest.mark.parametrize(
    "groups",
    [
        [[b"12345678%05d" % number, b"23456789"] for number in range(1)]
        + [[b"a2345678%05d" % number] for number in range(ERROR + 1)],
        [[b"%06d-and-so-on" % (number // 3) + b"%d" % number] for number in range(100)],
    ],
    ids=["too many with one head", "too many long ones"],
)
def test_what_heads_do_not_tell_apart_is_bisected(groups: list[list[bytes]]) -> None:
    assert built(groups, learned=True) == built(groups, learned=False)


@pytest.mark.parametrize(
    "damage",
    [
        {"heads": bytes(8 * 99)},
        {"heads": bytes(3)},
        {"starts": []},
        {"starts": [1]},
        {"starts": [0, 0], "slopes": [1.0, 1.0]},
        {"starts": [0, 100], "slopes": [1.0, 1.0]},
        {"slopes": []},
        {"slopes": [-1.0]},
        {"slopes": [float("nan")]},
        {"slopes": [float("inf")]},
        {"error": 0},
        {"long": {100: b"x"}},
        {"long": {-1: b"x"}},
    ],
    ids=str,
)
def test_columns_that_do_not_fit_are_corruption(damage: dict[str, object]) -> None:
    index = built([[b"key%04d" % number] for number in range(100)], learned=True)
    assert index.learned is not None
    assert index.learned.starts == [0]
    broken = replace(index, learned=replace(index.learned, **damage))
    with pytest.raises(CorruptionError, match="index is malformed"):
        open_index(broken, name="t", offset=0)


def test_heads_that_do_not_ascend_are_corruption() -> None:
    index = built([[b"key%04d" % number] for number in range(100)], learned=True)
    assert index.learned is not None
    lowest, others = index.learned.heads[:100], index.learned.heads[100:]
    broken = replace(index, learned=replace(index.learned, heads=lowest + others[::-1]))
    with pytest.raises(CorruptionError, match="index is malformed"):
        open_index(broken, name="t", offset=0)


@pytest.mark.parametrize(
    "separators", [[b"a", b"c", b"b"], [b"a", b"b", b"b"], [b"a", b"b"]], ids=str
)
def test_separators_that_do_not_ascend_are_corruption(separators: list[bytes]) -> None:
    with pytest.raises(CorruptionError, match="index is malformed"):
        open_index(TableIndex(separators, [1, 1, 1], b"z"), name="t", offset=0)


def test_a_key_below_several_separators_of_its_head_is_before_all_of_them() -> None:
    keys = [b"a%03d" % number for number in range(40)]
    keys += [b"m" * 8 + ending for ending in (b"b", b"d", b"f", b"h")]
    keys += [b"z%03d" % number for number in range(40)]
    separators = separators_of(keys, keys, None)
    index = build_index(separators, keys[-1], [100] * len(keys), learned=True)
    assert index.learned is not None
    assert len(index.learned.long) == 3
    opened = open_index(index, name="t", offset=0)
    assert separators == [opened.separator(number) for number in range(len(keys))]
    for ending in (b"", b"a", b"c", b"e", b"g", b"i"):
        key = b"m" * 8 + ending
        assert opened.rank(key) == bisect_right(separators, key)


def test_what_long_keys_have_in_common_is_in_the_index_once() -> None:
    """As each separator had it, the index of keys that are as long as blocks was as large as the
    table, and stayed in memory."""
    keys = [b"k" * 60_000 + b"%04d" % number for number in range(200)]
    index = opened([[key] for key in keys], learned=False)
    assert index.memory < 4 * len(keys[0])
    assert [index.rank(key) for key in keys] == list(range(1, 201))
