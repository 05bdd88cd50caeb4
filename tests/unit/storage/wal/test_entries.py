"""The operations of a segment, found in bulk, are those that the careful reader finds."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
import zstandard

from seerdb.errors import CorruptionError
from seerdb.storage.digest import NONE, Digest, digest, summed
from seerdb.storage.entry import DELETE, PUT
from seerdb.storage.sstable.packed import pack
from seerdb.storage.wal import entries
from seerdb.storage.wal.entries import READ_BYTES, operations_in
from seerdb.storage.wal.format import (
    DIRECT_ALIGNMENT,
    SegmentHeader,
    decode_columns,
    encode_frame,
    encode_header,
    encode_operations,
    encode_record,
    encode_seal,
)
from seerdb.storage.wal.reader import read_segment

Operation = tuple[int, bytes, bytes]
Batch = list[Operation]
SALT = 0x5EEDB0A7


def even(random: Random, count: int) -> list[Batch]:
    return [[(PUT, b"key%05d" % n, random.randbytes(50))] for n in range(count)]


def uneven(random: Random, count: int) -> list[Batch]:
    return [
        [(PUT, random.randbytes(random.randrange(1, 20)), random.randbytes(random.randrange(90)))]
        for _ in range(count)
    ]


def with_the_salt(random: Random, count: int) -> list[Batch]:
    return [[(PUT, b"key%d" % n, SALT.to_bytes(4, "little") * 5)] for n in range(count)]


def deletes(random: Random, count: int) -> list[Batch]:
    return [[random.choice([(DELETE, b"k1", b""), (PUT, b"k1", b"")])] for _ in range(count)]


def batches(random: Random, count: int) -> list[Batch]:
    return [[(PUT, b"%08d" % n, b"value%03d" % n) for n in range(80)] for _ in range(count // 50)]


def batches_of_some_shapes(random: Random, count: int) -> list[Batch]:
    shapes = [(random.choice((4, 9)), random.choice((0, 5))) for _ in range(count // 20)]
    return [
        [(PUT, n.to_bytes(key, "big"), random.randbytes(value)) for n in range(40)]
        for key, value in shapes
    ]


def mixed(random: Random, count: int) -> list[Batch]:
    found = even(random, 200)
    while len(found) < count:
        few = [row for batch in uneven(random, random.choice((1, 2, 50))) for row in batch]
        found.append(few)
    return found


def larger_than_a_read(random: Random, count: int) -> list[Batch]:
    return [[(PUT, b"small", b"1")], [(PUT, b"large", bytes(2 * READ_BYTES))], *even(random, 9)]


CONTENTS = [
    even,
    uneven,
    with_the_salt,
    deletes,
    batches,
    batches_of_some_shapes,
    mixed,
    larger_than_a_read,
]


def segment_of(
    batches: list[Batch], *, alignment: int = 1, group: int = 1, compressed: bool = False
) -> bytes:
    header = SegmentHeader(bytes(16), 1, 1, 1, 1, SALT, alignment)
    records = []
    for seq, batch in enumerate(batches, 1):
        kinds, keys, values = zip(*batch, strict=True)
        payload = encode_operations(bytes(kinds), keys, values)
        records.append(encode_record(seq, seq, payload, SALT))
    compress = zstandard.ZstdCompressor().compress if compressed else None
    frames = [b"".join(records[at : at + group]) for at in range(0, len(records), group)]
    frames.append(encode_seal(len(batches), 1, len(batches), SALT))
    body = b"".join(
        encode_frame(each, salt=SALT, synced=0, alignment=alignment, compress=compress)
        for each in frames
    )
    return encode_header(header) + body + bytes(5000)


def digest_of(data: bytes) -> Digest:
    total = NONE
    for found in operations_in(lambda at, size: data[at : at + size], "segment"):
        total += summed(found.hashes(), found.seqs)
    return total


def by_reader(data: bytes) -> Digest:
    total = NONE
    for seq, _, payload in read_segment(data, "segment", None).records:
        kinds, keys, values = decode_columns(payload)
        total += digest(pack(keys, [seq] * len(keys), kinds, values))
    return total


@pytest.mark.parametrize("contents", CONTENTS)
@pytest.mark.parametrize(
    "form",
    [{}, {"alignment": DIRECT_ALIGNMENT}, {"group": 7}, {"compressed": True, "group": 3}],
    ids=str,
)
def test_it_finds_what_the_reader_finds(contents, form) -> None:  # type: ignore[no-untyped-def]
    data = segment_of(contents(Random(3), 500), **form)
    expected = by_reader(data)
    assert expected.entries
    assert digest_of(data) == expected


@pytest.fixture
def short_reads(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(entries, "READ_BYTES", 1 << 18)
    return 1 << 18


def test_frames_go_on_over_many_reads(short_reads: int) -> None:
    data = segment_of(even(Random(1), 10_000))
    assert len(data) > 3 * short_reads
    assert digest_of(data) == by_reader(data)


@pytest.mark.parametrize("compressed", [True, False])
def test_frames_of_many_records_are_taken_together_and_not_all_at_once(
    compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "READ_BYTES", 4000)
    data = segment_of([[(PUT, b"%08d" % n, bytes(300))] for n in range(200)], group=5)
    packed = segment_of(
        [[(PUT, b"%08d" % n, bytes(300))] for n in range(200)], group=5, compressed=compressed
    )
    assert digest_of(packed) == by_reader(data)
    found = operations_in(lambda at, size: packed[at : at + size], "segment")
    counts = [len(each.kinds) for each in found]
    assert sum(counts) == 200
    assert max(counts) <= 15
    assert len(counts) < 30


def test_a_segment_without_records_has_no_operations() -> None:
    assert digest_of(segment_of([])) == NONE


def test_what_is_read_is_looked_at_again_from_each_frame_on(short_reads: int) -> None:
    data = segment_of(uneven(Random(2), 10_000))
    assert len(data) > 2 * short_reads
    assert digest_of(data) == by_reader(data)


def key_hashes(data: bytes) -> list[int]:
    found = operations_in(lambda at, size: data[at : at + size], "segment")
    return [number for each in found for number in each.key_hashes().tolist()]


def test_keys_hash_alike_in_frames_of_all_forms() -> None:
    alone = segment_of([[(PUT, b"key", b"1")], [(PUT, b"key", b"22")], [(DELETE, b"key", b"")]])
    together = segment_of([[(PUT, b"key", b"1"), (PUT, b"other", b"1" * 60)]])
    hashes = [hash_of for data in (alone, together) for hash_of in key_hashes(data)]
    assert len(set(hashes[:3])) == 1
    assert hashes[0] == hashes[3] != hashes[4]


def test_operations_are_listed_and_chosen() -> None:
    data = segment_of([[(PUT, b"a", b"1")], [(DELETE, b"b", b"")], [(PUT, b"c", b"333")]])
    [found] = operations_in(lambda at, size: data[at : at + size], "segment")
    assert found.listed() == [(b"a", b"1", 1), (b"b", b"", 2), (b"c", b"333", 3)]
    assert found.chosen(found.kinds == PUT).listed() == [(b"a", b"1", 1), (b"c", b"333", 3)]


def test_a_frame_that_says_it_is_longer_ends_the_operations() -> None:
    data = segment_of(even(Random(1), 3))
    for cut in range(4097, len(data) - 5000, 17):
        assert digest_of(data[:cut]).entries <= 3


def test_a_record_that_claims_too_much_is_no_crash() -> None:
    data = bytearray(segment_of(mixed(Random(5), 300), group=3))
    random = Random(9)
    for _ in range(300):
        at = random.randrange(4096, len(data) - 5000)
        before, data[at] = data[at], random.randrange(256)
        with suppress(CorruptionError):
            digest_of(bytes(data))
        data[at] = before
