"""Reading a table: everything comes back, and damage never comes back as data."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import CorruptionError, TruncatedError
from seerdb.ids import MAX_SEQ
from seerdb.storage.entry import DELETE, PUT, RangeTombstone, RangeTombstones
from seerdb.storage.sstable.builder import BuiltTable
from seerdb.storage.sstable.filter import key_hash
from seerdb.storage.sstable.format import FOOTER_SIZE, decode_footer, seal, unseal
from seerdb.storage.sstable.reader import TableReader
from tests.unit.storage.sstable.samples import (
    Entry,
    OpenTable,
    add,
    build,
    found_as,
    in_order,
    meta_of,
    new_builder,
    puts,
)

keys = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.lists(st.sampled_from([b"\x00", b"\xff", b"a"]), min_size=1, max_size=6).map(b"".join),
    st.builds(lambda end: b"/a/long/shared/prefix/" * 20 + end, st.binary(max_size=2)),
)
values = st.one_of(st.just(b""), st.binary(max_size=80), st.just(b"x" * 3000))
seqs = st.integers(1, 40)
tables_of_entries = st.lists(
    st.builds(Entry, keys, seqs, st.sampled_from([PUT, DELETE]), values),
    min_size=1,
    max_size=80,
    unique_by=lambda entry: (entry.key, entry.seq),
).map(in_order)
tombstones = st.lists(
    st.builds(
        lambda a, b, seq: RangeTombstone(min(a, b), max(a, b) + b"\0", seq), keys, keys, seqs
    ),
    max_size=4,
)


@given(
    entries=tables_of_entries,
    ranges=tombstones,
    block_size=st.sampled_from([1, 300, 4096, 1 << 22]),
    compression=st.sampled_from(["zstd", "none"]),
    bits_per_key=st.sampled_from([0, 1, 10, 64]),
    index=st.sampled_from(["bisect", "learned"]),
    absent=keys,
    limit=seqs,
)
def test_a_table_gives_back_what_was_put_in(
    entries: list[Entry],
    ranges: list[RangeTombstone],
    block_size: int,
    compression: str,
    bits_per_key: int,
    index: str,
    absent: bytes,
    limit: int,
) -> None:
    built = build(
        entries,
        ranges,
        block_size=block_size,
        compression=compression,
        filter_bits_per_key=bits_per_key,
        index=index,
    )
    table = OpenTable(built)
    assert table.entries() == entries
    assert table.packed(0, table.reader.block_count) == entries
    assert table.reader.tombstones == tuple(sorted(set(ranges)))
    for key in {entry.key for entry in entries} | {absent}:
        visible = [entry for entry in entries if entry.key == key and entry.seq <= limit]
        assert table.find(key, limit) == (found_as(visible[0]) if visible else None)


def test_blocks_lie_back_to_back_before_the_tail() -> None:
    built = build(puts(500))
    reader = OpenTable(built).reader
    ranges = [reader.block_range(index) for index in range(reader.block_count)]
    assert len(ranges) > 5
    assert ranges[0][0] == 0
    for (offset, length), (following, _) in pairwise(ranges):
        assert offset + length == following
    assert sum(ranges[-1]) == built.tail_offset


def test_a_table_of_deletes_only_finds_them() -> None:
    entries = [Entry(b"key%d" % number, number + 1, DELETE) for number in range(9)]
    built = build(entries)
    assert (built.entries, built.deletes) == (9, 9)
    assert OpenTable(built).find(b"key3") == entries[3]


def test_a_table_of_range_tombstones_only_has_no_blocks() -> None:
    built = build([], [RangeTombstone(b"a", b"m", 5)])
    reader = OpenTable(built).reader
    assert (reader.block_count, reader.slots, built.tail_offset) == (0, [], 0)
    assert (reader.smallest, reader.largest) == (b"a", b"m")
    assert not reader.filter.may_contain(key_hash(b"b"))
    assert RangeTombstones(reader.tombstones).covering(b"b", MAX_SEQ) == 5


def test_range_tombstones_do_not_hide_entries_from_a_point_read() -> None:
    """Who wins is decided above, where all tables are known."""
    table = OpenTable(build([Entry(b"b", 1, PUT, b"v")], [RangeTombstone(b"a", b"c", 9)]))
    assert table.find(b"b") == Entry(b"b", 1, PUT, b"v")


def test_without_a_filter_every_key_may_be_there() -> None:
    reader = OpenTable(build(puts(3), filter_bits_per_key=0)).reader
    assert all(reader.filter.may_contain(key_hash(b"%d" % number)) for number in range(100))


def small_table(compression: str) -> tuple[BuiltTable, list[Entry]]:
    entries = in_order([*puts(10, value_size=20), Entry(b"key0004", 90, DELETE)])
    ranges = [RangeTombstone(b"key0001", b"key0003", 50)]
    return build(entries, ranges, block_size=120, compression=compression), entries


def read_all(built: BuiltTable, data: bytes) -> list[Entry]:
    """Everything a reader can ask of a table."""
    table = OpenTable(built, data)
    for key in (b"key0004", b"key0009", b"other"):
        table.find(key)
    assert RangeTombstones(table.reader.tombstones).covering(b"key0002", MAX_SEQ) == 50
    return table.entries()


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_every_flipped_byte_is_found(compression: str) -> None:
    built, entries = small_table(compression)
    assert read_all(built, bytes(built.data)) == entries
    for position in range(len(built.data)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(bytes(built.data))
            damaged[position] ^= flip
            with pytest.raises(CorruptionError) as raised:
                read_all(built, bytes(damaged))
            assert raised.value.name == "tables/00000001-000000000007.sst"


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_every_flipped_byte_is_found_by_a_merge(compression: str) -> None:
    built, entries = small_table(compression)
    table = OpenTable(built)
    count = table.reader.block_count
    assert table.packed(0, count) == entries
    for position in range(built.tail_offset):
        damaged = bytearray(bytes(built.data))
        damaged[position] ^= 0x80
        with pytest.raises(CorruptionError) as raised:
            OpenTable(built, bytes(damaged)).packed(0, count)
        assert raised.value.name == "tables/00000001-000000000007.sst"


def test_some_blocks_are_taken_apart_as_they_are_one_by_one() -> None:
    table = OpenTable(build([*puts(300), Entry(b"z", 1 << 40, DELETE)], block_size=1000))
    assert table.reader.block_count > 20
    whole = table.entries()
    some = table.packed(3, 9)
    assert some == whole[whole.index(some[0]) :][: len(some)]
    assert table.packed(0, 3) + some + table.packed(9, table.reader.block_count) == whole


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_every_truncation_is_found(compression: str) -> None:
    built, _ = small_table(compression)
    for length in range(len(built.data)):
        with pytest.raises(CorruptionError):
            read_all(built, bytes(built.data)[:length])


def test_a_flipped_byte_in_a_block_names_the_block() -> None:
    built, _ = small_table("none")
    offset, _ = OpenTable(built).reader.block_range(2)
    damaged = bytearray(bytes(built.data))
    damaged[offset + 5] ^= 1
    table = OpenTable(built, bytes(damaged))
    table.block(1)
    with pytest.raises(CorruptionError) as raised:
        table.block(2)
    assert raised.value.offset == offset


def test_another_block_of_the_same_length_is_refused() -> None:
    reader = OpenTable(build(puts(100), block_size=1000, compression="none")).reader
    data = bytes(build(puts(100), block_size=1000, compression="none").data)
    assert reader.block_range(1)[1] == reader.block_range(2)[1]
    offset, length = reader.block_range(2)
    with pytest.raises(CorruptionError, match="not the block"):
        reader.decode_block(1, data[offset : offset + length])
    with pytest.raises(CorruptionError, match="not the block"):
        reader.pack_blocks(1, 2, data[offset : offset + length])


def test_a_block_of_another_length_is_truncated() -> None:
    built = build(puts(10))
    with pytest.raises(TruncatedError):
        OpenTable(built).reader.decode_block(0, bytes(built.data))
    with pytest.raises(TruncatedError):
        OpenTable(built).reader.pack_blocks(0, 1, bytes(built.data))


@pytest.mark.parametrize(
    "other",
    [
        build([*puts(9), Entry(b"key0009", 11, PUT, b"0009" * 25)]),
        build([*puts(9), Entry(b"key0009", 10, DELETE, b"0009" * 25)]),
        build([*puts(9), Entry(b"key000a", 10, PUT, b"0009" * 25)]),
        build([Entry(b"key/000", 1, PUT, b"0000" * 25), *puts(10)[1:]]),
    ],
    ids=["max_seq", "deletes", "largest", "smallest"],
)
def test_the_tail_of_another_table_is_refused(other: BuiltTable) -> None:
    built = build(puts(10), compression="none")
    other = build(OpenTable(other).entries(), compression="none")
    assert len(other.data) == len(built.data)
    with pytest.raises(CorruptionError, match="not the table that the manifest names"):
        TableReader(meta_of(built), other.tail)


def test_a_tail_of_another_length_is_truncated() -> None:
    built = build(puts(10))
    tail = built.tail
    for other in (tail[:-1], tail[1:], b"", b"more" + tail):
        with pytest.raises(TruncatedError, match="wrong length"):
            TableReader(meta_of(built), other)


@pytest.mark.parametrize("index", ["bisect", "learned"])
@pytest.mark.parametrize("falsify", ["key without a block", "longer block", "empty block"])
def test_an_index_that_does_not_fit_the_blocks_is_corruption(falsify: str, index: str) -> None:
    builder = new_builder(block_size=500, index=index)
    add(builder, puts(100))
    if falsify != "longer block":
        builder._separators.append(b"key9")
        builder._last = b"key9"
    if falsify == "longer block":
        builder._lengths[0] += 1
    elif falsify == "empty block":
        builder._lengths.append(0)
    built = builder.finish(1_000, 2_000)
    with pytest.raises(CorruptionError, match="index is malformed"):
        TableReader(meta_of(built), built.tail)


def test_properties_that_are_no_text_are_corruption() -> None:
    builder = new_builder()
    add(builder, puts(10))
    built = builder.finish(1_000, 2_000, created_by="seerdb")
    start = decode_footer(built.tail, name="", tail_offset=built.tail_offset).properties_offset
    begin = start - built.tail_offset
    properties = unseal(built.tail[begin:-FOOTER_SIZE], name="", offset=start)
    sealed = seal(properties.replace(b"seerdb", b"seer\xff\xff"), None)
    tail = built.tail[:begin] + sealed + built.tail[-FOOTER_SIZE:]
    meta = msgspec.structs.replace(meta_of(built), size=built.tail_offset + len(tail))
    with pytest.raises(CorruptionError, match="no TableProperties is there"):
        TableReader(meta, tail)


def test_memory_covers_filter_and_index() -> None:
    built = build(puts(3000), block_size=500)
    reader = OpenTable(built).reader
    filter_bytes = 3000 * 10 // 8
    separators = [reader.separator(number) for number in range(reader.block_count)]
    assert reader.memory > filter_bytes + sum(len(separator) + 33 for separator in separators)
    assert OpenTable(build(puts(3000), block_size=500, filter_bits_per_key=0)).reader.memory < (
        reader.memory - filter_bytes
    )


def test_memory_covers_range_tombstones() -> None:
    ranges = [RangeTombstone(b"%05d" % n, b"%05d\0" % n, n + 1) for n in range(1000)]
    builder = new_builder()
    builder.add_range_tombstones(ranges)
    built = builder.finish(1_000, 2_000)
    tracemalloc.start()
    try:
        reader = TableReader(meta_of(built), built.tail)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 * taken < reader.memory < 1.2 * taken
