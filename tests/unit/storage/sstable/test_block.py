"""One block: what goes in comes out, one by one and in bulk."""

from __future__ import annotations

import struct
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import CorruptionError, InternalError
from seerdb.ids import MAX_SEQ
from seerdb.storage.entry import DELETE, PUT
from seerdb.storage.sstable.block import (
    FINGERPRINT_SHIFT,
    HEADER_SIZE,
    Block,
    Columns,
)
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.sstable.blocks import BlockEncoder, packed_blocks
from seerdb.storage.sstable.filter import key_hash
from seerdb.storage.sstable.packed import Packed
from seerdb.storage.value import Version
from tests.unit.storage.sstable.samples import Entry, in_order, packed, puts


def encode(entries: list[Entry]) -> bytes:
    """The payload of a block of rows."""
    hashes = np.array([key_hash(entry.key) for entry in entries], np.uint64)
    is_new = np.array([True, *(a.key != b.key for a, b in pairwise(entries))])
    [payload] = BlockEncoder().encode(packed(entries), hashes, is_new, [0, len(entries)])
    return bytes(payload)


def decode(payload: bytes) -> Block:
    """The block of a payload."""
    return Block(payload, name="tables/t.sst", offset=40)


def find(block: Block, key: bytes, seq_limit: int = MAX_SEQ) -> Version | None:
    """As a point read asks."""
    return block.find(key, key_hash(key) >> FINGERPRINT_SHIFT, seq_limit)


def version(entry: Entry) -> tuple[int, bytes | None]:
    """What a point read shows of an entry."""
    return entry.seq, None if entry.kind == DELETE else entry.value


class Opened:
    """A table's slots, as the block cache knows them."""

    def __init__(self, count: int) -> None:
        self.slots: list[Block | None] = [None] * count


def rows(columns: Columns) -> list[Entry]:
    """Columns as rows."""
    return [Entry(*row) for row in zip(*columns, strict=True)]


seqs = st.one_of(st.integers(1, 300), st.integers(1, MAX_SEQ))
short_keys = st.binary(min_size=1, max_size=3)
keys = st.one_of(
    short_keys,
    st.builds(lambda end: b"a long shared prefix\xff\x00" * 3 + end, st.binary(max_size=2)),
    st.binary(min_size=1, max_size=400),
)
blocks_of_entries = st.lists(
    st.builds(Entry, keys, seqs, st.sampled_from([PUT, DELETE]), st.binary(max_size=50)),
    min_size=1,
    max_size=60,
    unique_by=lambda entry: (entry.key, entry.seq),
).map(in_order)


@given(blocks_of_entries)
def test_columns_return_what_was_encoded(entries: list[Entry]) -> None:
    block = decode(encode(entries))
    assert rows(block.columns()) == entries
    assert block.first_key == entries[0].key


@given(blocks_of_entries, seqs, keys)
def test_find_returns_the_newest_version_up_to_the_limit(
    entries: list[Entry], limit: int, absent: bytes
) -> None:
    block = decode(encode(entries))
    for key in {entry.key for entry in entries} | {absent}:
        visible = [entry for entry in entries if entry.key == key and entry.seq <= limit]
        assert find(block, key, limit) == (version(visible[0]) if visible else None)


def test_keys_with_one_fingerprint_are_told_apart() -> None:
    by_fingerprint: dict[int, list[bytes]] = {}
    for number in range(2_000):
        key = b"%d" % number
        by_fingerprint.setdefault(key_hash(key) >> FINGERPRINT_SHIFT, []).append(key)
    *alike, absent = sorted(by_fingerprint[0])
    assert len(alike) >= 3
    block = decode(encode([Entry(key, 5, PUT, key * 2) for key in alike]))
    assert [find(block, key) for key in alike] == [(5, key * 2) for key in alike]
    assert find(block, absent) is None


def test_bytes_that_look_like_a_fingerprint_elsewhere_do_not_mislead() -> None:
    """Only the fingerprint column is searched, not kinds, keys or values."""
    key = next(b"%d" % n for n in range(9999) if key_hash(b"%d" % n) >> FINGERPRINT_SHIFT == PUT)
    block = decode(encode([Entry(b"\x01" * 20, 1, PUT, b"\x01" * 500)]))
    assert find(block, key) is None


def test_a_block_beyond_64_kib_has_wider_offsets() -> None:
    entries = [Entry(b"a", 1, PUT, b"x" * 70_000), Entry(b"b", 2), Entry(b"c", 3, PUT, b"y")]
    block = decode(encode(entries))
    assert rows(block.columns()) == entries
    assert find(block, b"c") == (3, b"y")


@pytest.mark.parametrize("size", [255, 256, 65_535, 65_536, 1 << 24])
def test_planes_suffice_at_their_borders(size: int) -> None:
    entries = [Entry(b"k", size, PUT, bytes(size - HEADER_SIZE - 1)), Entry(b"l", 1)]
    assert rows(decode(encode(entries)).columns()) == entries


def test_versions_beyond_4_gib_are_refused_before_they_are_joined() -> None:
    """The lengths are those of four values of a GiB, which no test need have in memory."""
    seqs, kinds = np.array([5, 4, 3, 2], np.uint64), np.full(4, PUT, np.uint8)
    parts, lengths = np.frombuffer(b"k", np.uint8), np.array([[1, 1 << 30]] * 4)
    entries, hashes = Packed(parts, seqs, kinds, lengths=lengths), np.zeros(4, np.uint64)
    with pytest.raises(InternalError, match="b'k' exceed 4 GiB"):
        BlockEncoder().encode(entries, hashes, None, [0, 4])


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_payload_cut_short_is_malformed(cut: int) -> None:
    payload = encode(puts(3))
    with pytest.raises(CorruptionError) as raised:
        decode(payload[:cut])
    assert (raised.value.name, raised.value.offset) == ("tables/t.sst", 40)


def assembled(
    *,
    count: int = 2,
    seq_planes: int = 1,
    offset_planes: int = 1,
    first: int = 8,
    middle: int = 10,
    last: int = 12,
) -> bytes:
    """The payload of a=1, b=2 byte by byte, with fields to falsify."""
    offsets = bytes((first, 9, middle, 11, last)).ljust(5 * offset_planes, b"\0")
    header = struct.pack("<IBBBx", count, 0, seq_planes, offset_planes)
    fingerprints = bytes(key_hash(key) >> FINGERPRINT_SHIFT for key in (b"a", b"b"))
    seqs = b"\x05\x06".ljust(2 * seq_planes, b"\0")[: 2 * seq_planes]
    return header + b"a1b2" + fingerprints + bytes((PUT, PUT)) + seqs + offsets


@pytest.mark.parametrize(("seq_planes", "offset_planes"), [(1, 1), (8, 4)])
def test_a_payload_is_laid_out_as_documented(seq_planes: int, offset_planes: int) -> None:
    block = decode(assembled(seq_planes=seq_planes, offset_planes=offset_planes))
    entries = [Entry(b"a", 5, PUT, b"1"), Entry(b"b", 6, PUT, b"2")]
    assert rows(block.columns()) == entries
    assert encode(entries) == assembled()


@pytest.mark.parametrize(
    "falsified",
    [
        {"count": 0},
        {"count": 3},
        {"count": 1 << 31},
        {"seq_planes": 0},
        {"seq_planes": 9},
        {"offset_planes": 5},
        {"first": 7},
        {"last": 13},
        {"middle": 8},
        {"middle": 200},
    ],
    ids=str,
)
def test_a_field_that_does_not_fit_the_payload_is_malformed(falsified: dict[str, int]) -> None:
    payload = assembled(**falsified)
    with pytest.raises(CorruptionError):
        decode(payload)
    with pytest.raises(CorruptionError):
        packed_blocks([payload], name="tables/t.sst", offset=40)


@pytest.mark.parametrize("sizes", [(2, 2, 2, 2), (2, 1, 3, 2), (0, 0, 0, 0), (2, 2, 2, 1)], ids=str)
def test_rows_of_one_size_and_rows_that_only_add_up_to_it_come_apart(sizes: list[int]) -> None:
    entries = [Entry(b"%d" % n, n + 1, PUT, b"v" * size) for n, size in enumerate(sizes)]
    assert rows(decode(encode(entries)).columns()) == entries


@pytest.mark.parametrize("count", [4096, 4097])
def test_a_block_of_very_many_rows_comes_apart(count: int) -> None:
    entries = [Entry(b"%05d" % n, n + 1, PUT, b"") for n in range(count)]
    assert rows(decode(encode(entries)).columns()) == entries


def test_a_delete_among_puts_is_told_from_an_empty_value() -> None:
    entries = [Entry(b"a", 1, PUT, b""), Entry(b"b", 2, DELETE, b""), Entry(b"c", 3, PUT, b"v")]
    block = decode(encode(entries))
    assert [find(block, entry.key) for entry in entries] == [(1, b""), (2, None), (3, b"v")]
    assert rows(block.columns()) == entries


@pytest.mark.parametrize("alike", [True, False], ids=["one shape", "several shapes"])
@pytest.mark.parametrize("value_size", [8, 100, 2_000])
def test_memory_is_what_a_block_costs(value_size: int, alike: bool) -> None:
    entries = [
        entry._replace(seq=entry.seq + 1_000_000) for entry in puts(120, value_size=value_size)
    ]
    entries[0] = entries[0]._replace(value=entries[0].value[alike - 1 :])
    payload = encode(entries)
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        cache, opened = BlockCache(1 << 30), Opened(50)
        for index in range(50):
            cache.admit(opened, index, decode(bytes(bytearray(payload))))
        end = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.97 <= cache.statistics().bytes / (end - start) <= 1.05
