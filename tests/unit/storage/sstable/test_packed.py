"""Packed entries, against lists of rows."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.storage.entry import DELETE, PUT
from seerdb.storage.sstable.packed import NOTHING, Packed, gather, join
from tests.unit.storage.sstable.samples import Entry, packed

ALIKE = st.binary(min_size=3, max_size=3)
KEYS = st.one_of(
    ALIKE,
    st.sampled_from([b"a", b"a\0", b"a\0\0", b"b", b"\0", b"\0\0"]),
    st.binary(min_size=1, max_size=40),
)
KINDS = st.sampled_from([PUT, DELETE])


def entries_of(keys: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[Entry]]:
    return st.lists(
        st.builds(Entry, keys, st.integers(0, 1 << 62), KINDS, st.sampled_from([b"", b"1", b"22"])),
        max_size=12,
    )


EQUAL = st.lists(st.builds(Entry, ALIKE, st.integers(0, 9), KINDS, st.just(b"vv")), max_size=12)
LISTS = st.one_of(EQUAL, entries_of(ALIKE), entries_of(KEYS))


def rows(entries: Packed) -> list[Entry]:
    columns = entries.keys(), entries.seqs.tolist(), entries.kinds.tolist(), entries.values()
    return [Entry(*row) for row in zip(*columns, strict=True)]


def pack(entries: list[Entry]) -> Packed:
    return packed(entries) if entries else NOTHING


@given(LISTS)
def test_what_goes_in_comes_out(entries: list[Entry]) -> None:
    whole = pack(entries)
    assert rows(whole) == entries
    assert len(whole) == len(entries)
    assert [whole.key(position) for position in range(len(whole))] == [e.key for e in entries]
    sizes = [len(entry.key) + len(entry.value) for entry in entries]
    assert whole.ends.tolist() == np.cumsum(sizes, dtype=int).tolist()
    assert whole.lengths.tolist() == [[len(entry.key), len(entry.value)] for entry in entries]
    if entries:
        assert whole.first_key == entries[0].key


@given(st.lists(LISTS, min_size=1, max_size=4))
def test_joined_they_are_one(several: list[list[Entry]]) -> None:
    assert rows(join(list(map(pack, several)))) == [entry for each in several for entry in each]


@given(st.lists(LISTS, max_size=4), st.integers(0, 40))
def test_gathered_they_are_one_however_much_room_was_expected(
    several: list[list[Entry]], size: int
) -> None:
    gathered = gather(map(pack, several), size)
    assert rows(gathered) == [entry for each in several for entry in each]


@given(LISTS, st.data())
def test_a_part_is_what_is_at_its_positions(entries: list[Entry], data: st.DataObject) -> None:
    stop = data.draw(st.integers(0, len(entries)))
    start = data.draw(st.integers(0, stop))
    assert rows(pack(entries).between(start, stop)) == entries[start:stop]


@given(LISTS, st.integers(1, 99), st.integers(1, 4))
def test_portions_are_the_whole_and_as_large_as_groups_of_entries_allow(
    entries: list[Entry], size: int, group: int
) -> None:
    whole = pack(entries)
    portions = list(whole.portions(size, group))
    assert [row for each in portions for row in rows(each)] == entries
    if len({len(entry.key) + len(entry.value) for entry in entries}) == 1:
        fits = group * whole.start(1) <= size
        assert all(each.parts.size <= size or len(each) == 1 for each in portions)
        assert all(len(each) % group == 0 for each in portions[:-1] if fits)
        more = (group if fits else 1) * whole.start(1)
        assert len(portions) == 1 or portions[0].parts.size + more > size


@given(LISTS, st.data())
def test_taken_in_any_order(entries: list[Entry], data: st.DataObject) -> None:
    positions = st.lists(st.integers(0, len(entries) - 1)) if entries else st.just([])
    order = data.draw(positions)
    taken = pack(entries).take(np.array(order, np.intp))
    assert rows(taken) == [entries[position] for position in order]


@given(LISTS, st.integers(1, 13), st.randoms())
def test_taken_in_stretches(entries: list[Entry], size: int, random: Random) -> None:
    order = random.sample(range(len(entries)), len(entries))
    stretches = list(pack(entries).stretches(np.array(order, np.intp), size))
    assert [len(each) for each in stretches[:-1]] == [size] * (len(stretches) - 1)
    assert [row for each in stretches for row in rows(each)] == [entries[at] for at in order]


@given(LISTS, KEYS)
def test_split_at_a_key(entries: list[Entry], bound: bytes) -> None:
    entries = sorted(entries, key=lambda entry: entry.key)
    low, high = pack(entries).split(bound)
    assert rows(low) == [entry for entry in entries if entry.key < bound]
    assert rows(high) == [entry for entry in entries if entry.key >= bound]


@given(LISTS.filter(bool))
def test_the_newest_is_the_first_of_each_key(entries: list[Entry]) -> None:
    entries.sort(key=lambda entry: -entry.seq)
    first: dict[bytes, Entry] = {}
    for entry in entries:
        first.setdefault(entry.key, entry)
    newest, others = pack(entries).newest()
    assert rows(newest) == [first[key] for key in sorted(first)]
    assert sorted(rows(newest) + rows(others)) == sorted(entries)


@given(
    st.data(),
    st.binary(max_size=9),
    st.integers(1, 20),
    st.sampled_from([b"ab", bytes(range(256))]),
)
def test_the_order_of_distinct_keys(
    data: st.DataObject, common: bytes, size: int, digits: bytes
) -> None:
    """They may have the same eight bytes at first, and few or many the same eight after that."""
    rest = st.lists(st.sampled_from(list(digits)), min_size=size, max_size=size).map(bytes)
    keys = data.draw(st.lists(rest.map(common.__add__), min_size=1, max_size=60, unique=True))
    order = pack([Entry(key, 1) for key in keys]).order()
    assert [keys[position] for position in order] == sorted(keys)


@pytest.mark.parametrize("common", [b"", b"in common:"])
def test_a_few_keys_that_come_again_are_told_from_those_that_only_begin_alike(
    common: bytes,
) -> None:
    """Where eight bytes tell nearly all apart."""
    keys = [common + b"%08dx" % (n * 7 % 100) for n in range(100)]
    newer = [Entry(key, 9) for key in keys]
    older = [Entry(keys[at], 1) for at in (3, 60)]
    others = [Entry(common + b"%08dy" % n, 5) for n in (3, 4)]
    newest, dropped = pack([*newer, *others, *older]).newest()
    assert rows(newest) == sorted([*newer, *others])
    assert rows(dropped) == sorted(older)


@given(
    st.lists(
        st.builds(
            lambda word, rest: word * 8 + rest,
            st.sampled_from([b"a", b"b", b"c"]),
            st.sampled_from([b"xx", b"xx", b"xx", b"xx", b"xy"]),
        ),
        min_size=1,
        max_size=200,
    )
)
def test_of_each_key_the_last_is_the_latest(keys: list[bytes]) -> None:
    latest = pack([Entry(key, seq) for seq, key in enumerate(keys)]).latest()
    last = {key: position for position, key in enumerate(keys)}
    assert latest.tolist() == [last[key] for key in sorted(last)]


def test_one_long_key_among_short_ones_is_not_paid_by_all() -> None:
    entries = [Entry(b"k" * 60_000, 1), *(Entry(b"%03d" % n, 1) for n in range(100))]
    whole = pack(entries)
    assert whole._comparable_keys() is None
    newest, others = whole.newest()
    assert rows(newest) == sorted(entries)
    assert not len(others)


@pytest.mark.parametrize("entries", [[], [Entry(b"a", 1)], [Entry(b"a", 1, DELETE)]])
def test_without_a_kind(entries: list[Entry]) -> None:
    others, deletes = pack(entries).without(DELETE)
    assert rows(others) == [e for e in entries if e.kind != DELETE]
    assert rows(deletes) == [e for e in entries if e.kind == DELETE]
