"""Many blocks at once are what each of them is."""

from __future__ import annotations

import numpy as np
import pytest

from seerdb.errors import CorruptionError, UnsupportedFormatError
from seerdb.storage.entry import DELETE, PUT
from seerdb.storage.sstable.block import HEADER_SIZE, Block
from seerdb.storage.sstable.blocks import (
    BlockEncoder,
    _packed_alike,
    _packed_blocks,
    counts_in,
    packed_blocks,
)
from seerdb.storage.sstable.filter import key_hash
from seerdb.storage.sstable.packed import Hashes, Packed, join
from tests.unit.storage.sstable.samples import Entry, packed


def alike(count: int, *, seq: int = 1, value: bytes = b"value", kind: int = PUT) -> Packed:
    """Entries of one shape, whose seqs need as many planes as ``seq`` does."""
    return packed([Entry(b"key%05d" % n, seq + n, kind, value) for n in range(count)])


def hashes_of(entries: Packed) -> Hashes:
    return np.array(list(map(key_hash, entries.keys())), np.uint64)


def one_by_one(entries: Packed, borders: list[int]) -> list[bytes]:
    """The payloads, made block by block."""
    is_new = np.ones(len(entries), np.bool_)
    return list(map(bytes, BlockEncoder().encode(entries, hashes_of(entries), is_new, borders)))


def together(entries: Packed, borders: list[int]) -> list[bytes]:
    """The payloads, made a column at a time."""
    payloads = BlockEncoder()._encode_alike(entries, hashes_of(entries), borders)
    assert payloads is not None
    return list(map(bytes, payloads))


@pytest.mark.parametrize("seq", [0, 1, 1 << 20, 1 << 55])
@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("value", [b"", b"v" * 100])
def test_blocks_that_look_the_same_are_made_together(seq: int, count: int, value: bytes) -> None:
    entries = alike(6 * count, seq=seq, value=value)
    borders = list(range(0, 6 * count + 1, count))
    assert together(entries, borders) == one_by_one(entries, borders)


@pytest.mark.parametrize(
    ("entries", "borders"),
    [
        (alike(10), [0, 4, 8, 10]),
        (join([alike(5, value=b"short"), alike(5, value=b"longer")]), [0, 5, 10]),
        (alike(10, seq=250), [0, 5, 10]),
        (alike(5000), [0, 5000]),
    ],
    ids=["a shorter one", "several shapes", "more planes for some", "a long one"],
)
def test_blocks_that_differ_are_made_one_by_one(entries: Packed, borders: list[int]) -> None:
    assert BlockEncoder()._encode_alike(entries, hashes_of(entries), borders) is None
    payloads = list(map(bytes, BlockEncoder().encode(entries, hashes_of(entries), None, borders)))
    assert payloads == one_by_one(entries, borders)
    keys = [key for each in payloads for key in Block(each, name="", offset=0).columns().keys]
    assert keys == entries.keys()


def test_memory_that_is_used_again_shows_nothing_of_what_it_held() -> None:
    encoder, borders = BlockEncoder(), [0, 40, 80]
    for entries in (alike(80, value=b"x" * 100), alike(80, value=b""), alike(80, value=b"y" * 99)):
        payloads = encoder.encode(entries, hashes_of(entries), None, borders)
        assert list(map(bytes, payloads)) == one_by_one(entries, borders)


def test_blocks_with_room_have_memory_of_their_own() -> None:
    encoder, borders, made = BlockEncoder(room=9), [0, 40, 80], []
    several = [alike(80, value=b"x" * 100), alike(80, value=b"y" * 100)]
    for entries in several:
        rows = encoder.encode(entries, hashes_of(entries), None, borders)
        assert isinstance(rows, np.ndarray)
        rows[:, -9:] = 0xEE
        made.append(rows)
    for entries, rows in zip(several, made, strict=True):
        assert list(map(bytes, rows[:, :-9])) == one_by_one(entries, borders)


def same(one: Packed, other: Packed) -> bool:
    return (
        np.array_equal(one.parts, other.parts)
        and np.array_equal(one.seqs, other.seqs)
        and np.array_equal(one.kinds, other.kinds)
        and one.shape == other.shape
    )


@pytest.mark.parametrize("seq", [0, 1 << 20, 1 << 55])
@pytest.mark.parametrize("kind", [PUT, DELETE])
def test_blocks_that_look_the_same_are_taken_apart_together(seq: int, kind: int) -> None:
    entries = alike(60, seq=seq, kind=kind)
    payloads = one_by_one(entries, [0, 20, 40, 60])
    found = _packed_alike(payloads)
    assert found is not None
    assert same(found, entries)
    assert same(found, _packed_blocks(payloads, name="", offset=0))
    rows = np.frombuffer(b"".join(each + b"after" for each in payloads), np.uint8).reshape(3, -1)
    for each in (payloads, rows[:, :-5]):
        assert same(packed_blocks(each, name="", offset=0), entries)
        assert counts_in(each).tolist() == [20, 20, 20]


@pytest.mark.parametrize("at", range(HEADER_SIZE))
def test_blocks_of_one_length_with_different_heads_are_not_taken_apart_together(at: int) -> None:
    payloads = one_by_one(alike(60), [0, 20, 40, 60])
    other = bytearray(payloads[1])
    other[at] ^= 1
    payloads[1] = bytes(other)
    rows = np.frombuffer(b"".join(payloads), np.uint8).reshape(3, -1)
    assert _packed_alike(payloads) is None
    assert _packed_alike(rows) is None


def test_blocks_that_differ_are_taken_apart_one_by_one() -> None:
    entries = alike(50)
    payloads = one_by_one(entries, [0, 20, 40, 50])
    assert _packed_alike(payloads) is None
    assert same(packed_blocks(payloads, name="", offset=0), entries)


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_malformed_block_among_others_is_found(damaged: int) -> None:
    payloads = one_by_one(alike(60), [0, 20, 40, 60])
    payloads[damaged] = payloads[damaged][:-1] + b"\xff"
    with pytest.raises(CorruptionError, match="malformed"):
        packed_blocks(payloads, name="tables/t.sst", offset=7)


def test_an_unknown_kind_among_blocks_that_look_the_same_is_found() -> None:
    payloads = one_by_one(alike(60), [0, 20, 40, 60])
    at = HEADER_SIZE + 20 * (8 + 5) + 20
    payloads[1] = payloads[1][:at] + b"\x7f" + payloads[1][at + 1 :]
    with pytest.raises(UnsupportedFormatError, match="unknown kind"):
        packed_blocks(payloads, name="tables/t.sst", offset=7)
