"""The builder: what it accepts, where it cuts blocks, what it says of the table."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, pairwise

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import InternalError
from seerdb.ids import MAX_SEQ
from seerdb.storage.entry import DELETE, DELETE_RANGE, PUT, RangeTombstone
from seerdb.storage.sstable.builder import TableBuilder
from seerdb.storage.sstable.packed import NOTHING, pack
from tests.unit.storage.sstable.samples import (
    Entry,
    OpenTable,
    add,
    block_number,
    build,
    in_order,
    new_builder,
    puts,
)


def add_one_by_one(builder: TableBuilder, entries: list[Entry]) -> None:
    """Each entry in a call of its own."""
    for entry in entries:
        add(builder, [entry])


def block_keys(table: OpenTable) -> list[list[bytes]]:
    """The keys of each block."""
    return [list(table.block(index).columns().keys) for index in range(table.reader.block_count)]


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(b"b", 1), Entry(b"a", 2)],
        [Entry(b"a", 1), Entry(b"a", 2)],
        [Entry(b"a", 1), Entry(b"a", 1)],
        [Entry(b"", 1)],
        [Entry(b"a", 5), Entry(b"b", 3), Entry(b"b", 4), Entry(b"c", 2)],
    ],
    ids=["keys", "seqs", "twice", "empty key", "seqs inside"],
)
def test_unsorted_entries_are_refused(entries: list[Entry]) -> None:
    with pytest.raises(InternalError, match="out of order"):
        add(new_builder(), entries)
    with pytest.raises(InternalError, match="out of order"):
        add_one_by_one(new_builder(), entries)


def test_versions_of_a_key_come_by_one_call() -> None:
    """Else one could come when the block of the others is written."""
    builder = new_builder()
    add(builder, [Entry(b"a", 5), Entry(b"b", 4)])
    with pytest.raises(InternalError, match="out of order: b'b' after b'b'"):
        add(builder, [Entry(b"b", 3), Entry(b"c", 2)])


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_blocks_that_are_just_full_are_written_at_once(blocks: int) -> None:
    builder = new_builder(block_size=10 * (7 + 100))
    entries = puts(10 * blocks + 3)
    add(builder, entries[: 10 * blocks])
    add(builder, entries[10 * blocks :])
    keys = block_keys(OpenTable(builder.finish(1_000, 2_000)))
    assert [len(block) for block in keys] == [10] * blocks + [3]


def test_order_holds_across_the_steps_of_one_call() -> None:
    entries = puts(1000)
    entries[640], entries[639] = entries[639], entries[640]
    with pytest.raises(InternalError, match="out of order"):
        add(new_builder(), entries)


@pytest.mark.parametrize(
    "entry",
    [Entry(b"k", -1), Entry(b"k", MAX_SEQ + 1), Entry(b"k", 1, DELETE_RANGE), Entry(b"k", 1, 0)],
    ids=["seq -1", "seq too large", "range delete", "kind 0"],
)
def test_what_is_no_entry_of_a_table_is_refused(entry: Entry) -> None:
    with pytest.raises(InternalError):
        add(new_builder(), [entry])


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(InternalError, match="differ in length"):
        pack([b"a", b"b"], [1, 2], bytes([PUT]), [b"", b""])


def test_an_empty_table_is_refused() -> None:
    builder = new_builder()
    builder.add(NOTHING)
    with pytest.raises(InternalError, match="empty"):
        builder.finish(0, 0)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(InternalError, match="covers nothing"):
        new_builder().add_range_tombstones([RangeTombstone(b"a", b"a", 1)])


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20), st.integers(256, 3000))
def test_bytes_do_not_depend_on_how_entries_are_handed_over(
    pieces: list[int], block_size: int
) -> None:
    entries = puts(sum(pieces))
    builder = new_builder(block_size=block_size)
    position = 0
    for piece in pieces:
        add(builder, entries[position : position + piece])
        position += piece
    built = builder.finish(1_000, 2_000, created_by="test")
    at_once = build(entries, block_size=block_size)
    assert bytes(built.data) == bytes(at_once.data)
    assert replace(built, stretches=()) == replace(at_once, stretches=())


@pytest.mark.parametrize("block_size", [256, 1000, 4096, 65_536])
def test_blocks_are_as_full_as_their_size_allows(block_size: int) -> None:
    entries = puts(900)
    keys = block_keys(OpenTable(build(entries, block_size=block_size)))
    fitting = block_size // (len(entries[0].key) + len(entries[0].value))
    assert [len(block) for block in keys[:-1]] == [fitting] * (len(keys) - 1)
    assert [key for block in keys for key in block] == [entry.key for entry in entries]


@pytest.mark.parametrize("block_size", [1, 1 << 30])
def test_extreme_block_sizes_work(block_size: int) -> None:
    entries = puts(300)
    table = OpenTable(build(entries, block_size=block_size))
    assert table.reader.block_count == (300 if block_size == 1 else 1)
    assert table.entries() == entries


def test_a_large_value_does_not_weigh_on_its_neighbours() -> None:
    entries = puts(9)
    entries[4] = entries[4]._replace(value=b"v" * 100_000)
    keys = block_keys(OpenTable(build(entries)))
    assert [len(block) for block in keys] == [4, 1, 4]


@pytest.mark.parametrize("keys_at_once", [1, 7, 20])
def test_versions_of_a_key_never_part(keys_at_once: int) -> None:
    versions = [
        in_order(
            Entry(b"key%02d" % number, seq, PUT, b"v" * 60) for seq in range(1, 3 + number * 7 % 40)
        )
        for number in range(20)
    ]
    entries = list(chain.from_iterable(versions))
    builder = new_builder(block_size=300)
    for start in range(0, len(versions), keys_at_once):
        add(builder, list(chain.from_iterable(versions[start : start + keys_at_once])))
    table = OpenTable(builder.finish(1_000, 2_000))
    keys = block_keys(table)
    assert len(keys) > 10
    for left, right in pairwise(keys):
        assert left[-1] < right[0]
    assert table.entries() == entries
    for entry in entries:
        assert table.find(entry.key, entry.seq) == entry


def test_only_blocks_with_repeated_keys_are_marked() -> None:
    entries = in_order([*puts(200), Entry(b"key0100", 999, DELETE)])
    table = OpenTable(build(entries, block_size=1000))
    marked = [
        index for index in range(table.reader.block_count) if table.block(index).several_versions
    ]
    assert marked == [block_number(table.reader, b"key0100")]


def test_the_record_of_a_table_says_what_is_in_it() -> None:
    entries = [Entry(b"b", 9, DELETE), Entry(b"b", 4, PUT, b"v"), Entry(b"c", 7, PUT, b"")]
    built = build(entries, [RangeTombstone(b"a", b"d", 3), RangeTombstone(b"b", b"c", 20)])
    assert (built.entries, built.deletes, built.range_deletes) == (3, 1, 2)
    assert (built.smallest, built.largest) == (b"a", b"d")
    assert (built.min_seq, built.max_seq) == (3, 20)
    assert built.checksum == crc32c(bytes(built.data))
    properties = OpenTable(built).reader.properties
    assert (properties.min_timestamp_us, properties.max_timestamp_us) == (1_000, 2_000)
    assert properties.raw_bytes == 4
    assert properties.created_by == "test"


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_the_checksum_of_a_table_tells_what_is_in_it(compression: str) -> None:
    """It told how long each part is, and no more: a part that ends with its own CRC adds the same
    to that of the object whatever it holds."""
    one = build([Entry(b"b", 9, PUT, b"v" * 99)], compression=compression)
    other = build([Entry(b"b", 9, PUT, b"w" * 99)], compression=compression)
    assert one.lengths == other.lengths
    assert len(one.tail) == len(other.tail)
    assert one.checksum != other.checksum


def test_a_repeated_range_tombstone_counts_once() -> None:
    tombstone = RangeTombstone(b"a", b"b", 1)
    assert build([], [tombstone, tombstone]).range_deletes == 1


def test_compression_spares_bytes_only_when_asked_to() -> None:
    entries = puts(500)
    assert len(build(entries).data) < len(build(entries, compression="none").data) / 3


def test_the_size_estimate_follows_the_size() -> None:
    builder = new_builder(compression="none")
    entries = puts(2000)
    for start in range(0, 2000, 100):
        add(builder, entries[start : start + 100])
    estimate = builder.size_estimate
    assert estimate == pytest.approx(len(builder.finish(0, 0).data), rel=0.05)
