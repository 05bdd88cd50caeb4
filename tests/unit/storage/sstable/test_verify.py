"""Tables whose checksums are right and whose content is not: only a full check finds them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from seerdb.errors import ChecksumError, CorruptionError, TruncatedError
from seerdb.storage.entry import DELETE, RangeTombstone
from seerdb.storage.sstable.builder import BuiltTable, TableBuilder
from seerdb.storage.sstable.packed import Packed
from seerdb.storage.sstable.verify import verify_table
from tests.unit.storage.sstable.samples import Entry, add, build, in_order, meta_of, puts


class Careless(TableBuilder):
    """Takes entries in any order."""

    def _check(self, entries: Packed, *, ascends: bool) -> None:
        self._seq_bounds |= set(entries.seqs.tolist())


def careless(
    entries: list[Entry], lie: Callable[[Careless], object] = id, *, filter_bits: int = 10
) -> BuiltTable:
    builder = Careless(block_size=1000, compression="zstd", filter_bits_per_key=filter_bits)
    add(builder, entries)
    lie(builder)
    return builder.finish(1, 2)


def verify(built: BuiltTable) -> None:
    verify_table(meta_of(built), bytes(built.data))


def test_a_table_with_everything_in_it_is_sound() -> None:
    versions = [Entry(b"key0003", seq, DELETE if seq % 2 else 1) for seq in range(200, 260)]
    built = build(
        in_order([*puts(300), *versions]), [RangeTombstone(b"a", b"z", 7)], block_size=1000
    )
    verify(built)
    verify(build([], [RangeTombstone(b"a", b"z", 7)]))


def test_keys_out_of_order_within_a_block_are_found() -> None:
    one, two, three = puts(3)
    with pytest.raises(CorruptionError, match="out of order") as caught:
        verify(careless([one, three, two]))
    assert caught.value.offset == 0
    assert "key0002" in str(caught.value.expected)
    assert "key0001" in str(caught.value.found)


def test_keys_out_of_order_between_blocks_are_found() -> None:
    entries = puts(40)
    with pytest.raises(CorruptionError, match="the index is malformed") as caught:
        verify(careless([*entries[:10], *entries[20:30], *entries[10:20], *entries[30:]]))
    assert caught.value.offset


def test_versions_in_the_wrong_order_are_found() -> None:
    with pytest.raises(CorruptionError, match="out of order"):
        verify(careless([Entry(b"a", 1), Entry(b"a", 2)]))


def test_a_wrong_count_is_found() -> None:
    with pytest.raises(CorruptionError, match="wrong number") as caught:
        verify(careless(puts(5), lambda builder: setattr(builder, "_deletes", 3)))
    assert (caught.value.expected, caught.value.found) == ((5, 3, 0, 0), (5, 0, 0, 0))


def test_seqs_out_of_bounds_are_found() -> None:
    with pytest.raises(CorruptionError, match="out of the table's bounds"):
        verify(careless(puts(5), lambda builder: builder._seq_bounds.discard(5)))


@pytest.mark.parametrize("filter_bits", [0, 10])
def test_a_key_that_lookups_miss_is_found(filter_bits: int) -> None:
    def forget(builder: Careless) -> None:
        builder._hashes[0][3] ^= np.uint64(-1 % (1 << 64))

    with pytest.raises(CorruptionError, match=r"key0003.* a lookup does not find it"):
        verify(careless(puts(5), forget, filter_bits=filter_bits))


def test_a_key_that_scans_miss_is_found() -> None:
    def forget(builder: Careless) -> None:
        builder._filter_prefix = 4

    with pytest.raises(CorruptionError, match=r"key0000.* a lookup does not find it"):
        verify(careless(puts(5), forget))


def test_bytes_that_are_not_those_of_the_manifest_are_found() -> None:
    built = build(puts(5))
    with pytest.raises(ChecksumError) as caught:
        verify_table(replace(meta_of(built), checksum=1), bytes(built.data))
    assert (caught.value.expected, caught.value.found) == (1, built.checksum)


def test_a_table_that_was_cut_is_found() -> None:
    built = build(puts(5))
    with pytest.raises(TruncatedError):
        verify_table(meta_of(built), bytes(built.data)[:-1])


def test_entries_that_are_not_those_of_the_manifest_are_found() -> None:
    built = build(puts(30))
    meta = replace(meta_of(built), digest=built.digest)
    verify_table(meta, bytes(built.data))
    other = build([*puts(29), Entry(b"key0029", 99_999)])
    with pytest.raises(CorruptionError, match="not those that the manifest says") as caught:
        verify_table(replace(meta, digest=other.digest), bytes(built.data))
    assert (caught.value.expected, caught.value.found) == (other.digest, built.digest)


def test_a_key_above_the_largest_is_found() -> None:
    def lower(builder: Careless) -> None:
        builder._last = b"key0001"

    with pytest.raises(CorruptionError, match="out of the table's bounds"):
        verify(careless(puts(3), lower))
