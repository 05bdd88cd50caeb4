"""Sound segments, cut ones and those with a flipped bit: what is recovered, and what is said."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
import zstandard
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import (
    ChecksumError,
    CorruptionError,
    TruncatedError,
    UnsupportedFormatError,
)
from seerdb.ids import STORED_END
from seerdb.storage.wal.format import (
    FRAME_HEADER_SIZE,
    HEADER_SIZE,
    MAX_COMPRESSED_BODY,
    encode_header,
    encode_put,
    encode_record,
)
from seerdb.storage.wal.reader import (
    Condition,
    classify,
    first_seq_of,
    read_segment,
    scan_segment,
)
from seerdb.storage.wal.sound import FEWEST
from seerdb.testing.files import CrashableFileSystem
from tests.unit.storage.wal.samples import (
    HEADER,
    SALT,
    flipped,
    frame,
    put,
    read,
    seal,
    segment,
    seqs,
)

GROUPS = [[1], [2, 3], [4, 5, 6, 7, 8], [9]]
ALL = [seq for group in GROUPS for seq in group]


def frames(**how: bool) -> list[bytes]:
    """Frames with GROUPS; nothing ever synced."""
    return [frame(*(put(seq, b"v" * 50) for seq in group), **how) for group in GROUPS]


def record_ends(*, compressed: bool) -> list[tuple[int, int]]:
    """For every record, the segment length from which on it is whole, and its seq."""
    ends = []
    offset = HEADER_SIZE
    for group, data in zip(GROUPS, frames(compressed=compressed), strict=True):
        end = offset + FRAME_HEADER_SIZE
        for seq in group:
            end += len(put(seq, b"v" * 50))
            ends.append((offset + len(data) if compressed else end, seq))
        offset += len(data)
    return ends


def test_all_records_of_sound_frames_are_read() -> None:
    scan = read(segment(*frames(), padding=1000))
    assert scan.records == [(seq, seq * 10, encode_put(b"key%d" % seq, b"v" * 50)) for seq in ALL]
    assert scan.header == HEADER
    assert scan.end == HEADER_SIZE + sum(map(len, frames()))
    assert (scan.damages, scan.sealed, scan.partial, scan.torn_bytes) == ((), False, 0, 0)
    assert classify(scan, is_last=True) is Condition.SOUND


@pytest.mark.parametrize("compressed", [False, True])
def test_frames_from_anywhere_tell_their_first_seq(*, compressed: bool) -> None:
    header = segment()
    whole = frames(compressed=compressed)

    def first(*parts: bytes) -> int | None:
        return first_seq_of(header, b"".join(parts), "name", HEADER.segment)

    assert [first(*whole[at:]) for at in range(len(whole))] == [group[0] for group in GROUPS]
    assert first(frame(seal(9, 9))) is None
    assert first(b"") is None
    assert first(b"\0" * 100) is None
    assert first(frame(put(HEADER.first_seq - 1, b"v" * 50), compressed=compressed)) is None
    record = whole[0]
    for at in (0, FRAME_HEADER_SIZE, FRAME_HEADER_SIZE + 30, len(record) - 1):
        assert first(flipped(record, at)) is None
    for end in range(len(record)):
        assert first(record[:end]) is None
    with pytest.raises(CorruptionError, match="another segment"):
        first_seq_of(header, record, "name", HEADER.segment + 1)


def test_the_first_seq_of_a_large_batch_costs_no_copy_of_it() -> None:
    header, large = segment(), frame(put(7, b"v" * (16 << 20)))
    tracemalloc.start()
    try:
        assert first_seq_of(header, large, "name", HEADER.segment) == 7
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_a_segment_without_a_frame_is_empty() -> None:
    for padding in (0, 1, 23, 24, 5000):
        scan = read(segment(padding=padding))
        assert (scan.records, scan.end, scan.damages) == ([], HEADER_SIZE, ())


def test_reading_ends_at_the_seal() -> None:
    sealed = segment(*frames(), frame(seal(9, 9)))
    scan = read(sealed + frame(put(10)) + b"whatever")
    assert (scan.sealed, seqs(scan), scan.end) == (True, ALL, len(sealed))
    assert classify(scan, is_last=False) is Condition.SOUND


def test_an_empty_segment_can_be_sealed() -> None:
    scan = read(segment(frame(seal(0, 0)), padding=100))
    assert (scan.sealed, scan.records, scan.damages) == (True, [], ())


def test_a_segment_with_a_successor_must_be_sealed() -> None:
    scan = read(segment(*frames(), padding=100))
    assert classify(scan, is_last=False) is Condition.CORRUPT
    error = scan.error()
    assert isinstance(error, TruncatedError)
    assert error.offset == scan.end


def test_stale_frames_of_a_recycled_file_are_not_read() -> None:
    stale = b"".join(frame(put(seq, salt=7), salt=7, synced=1 << 40) for seq in range(1, 200))
    fresh = segment(frame(put(1)), frame(put(2)))
    scan = read(fresh + stale[len(fresh) - HEADER_SIZE :])
    assert (seqs(scan), scan.end, scan.damages) == ([1, 2], len(fresh), ())
    assert read(segment() + stale).records == []


def test_compressed_and_plain_frames_mix() -> None:
    one, two = frame(put(1, b"a" * 900), put(2, b"b" * 900), compressed=True), frame(put(3))
    scan = read(segment(one, two, frame(put(4, b"c" * 900), compressed=True), padding=50))
    assert (seqs(scan), scan.damages) == ([1, 2, 3, 4], ())
    assert scan.records[1] == (2, 20, encode_put(b"key2", b"b" * 900))


def test_frames_of_direct_segments_are_found_behind_their_padding() -> None:
    header = HEADER._replace(alignment=4096)
    blocks = [frame(put(seq, b"v" * 3000 * seq), alignment=4096) for seq in (1, 2, 3)]
    data = segment(*blocks, header=header)
    for cut in (len(data), len(data) - 100):
        scan = read(data[:cut])
        assert (seqs(scan), scan.end, scan.damages) == ([1, 2, 3], cut, ())
    assert seqs(read(data + frame(seal(3, 3), alignment=4096))) == [1, 2, 3]


def test_ten_records_cut_after_the_fifth_are_five_in_many_frames_or_in_one() -> None:
    records = [put(seq) for seq in range(1, 11)]
    many = segment(*(frame(record) for record in records))
    one = segment(frame(*records))
    for cut in range(1, len(records[0])):
        scan = read(many[: HEADER_SIZE + 5 * len(frame(records[0])) + cut])
        assert (seqs(scan), scan.partial) == ([1, 2, 3, 4, 5], 0)
        scan = read(one[: HEADER_SIZE + FRAME_HEADER_SIZE + 5 * len(records[0]) + cut])
        assert (seqs(scan), scan.partial, scan.end) == ([1, 2, 3, 4, 5], 5, HEADER_SIZE)


@pytest.mark.parametrize("compressed", [False, True])
def test_cut_at_any_byte_the_whole_records_before_the_cut_are_read(compressed: bool) -> None:
    data = segment(*frames(compressed=compressed))
    ends = record_ends(compressed=compressed)
    for cut in range(HEADER_SIZE, len(data) + 1):
        scan = read(data[:cut])
        assert seqs(scan) == [seq for end, seq in ends if end <= cut]
        assert scan.records == read(data).records[: len(scan.records)]
        at_frame_end = cut in {HEADER_SIZE, *(end for end, seq in ends if seq in {1, 3, 8, 9})}
        assert classify(scan, is_last=True) is (Condition.SOUND if at_frame_end else Condition.TORN)
        assert scan.end <= cut
        assert scan.torn_bytes == (0 if at_frame_end else cut - scan.damages[0].offset)


def test_cut_inside_the_header_nothing_is_read() -> None:
    data = segment(*frames())
    for cut in range(HEADER_SIZE):
        with pytest.raises(TruncatedError):
            read(data[:cut])


@pytest.mark.parametrize("compressed", [False, True])
def test_a_flipped_bit_loses_only_what_follows_it(compressed: bool) -> None:
    blocks = frames(compressed=compressed)
    data = segment(*blocks, frame(seal(9, 9)), padding=30)
    sound = read(data)
    for offset in range(HEADER_SIZE, len(data) - 30):
        scan = read(flipped(data, offset, offset % 8))
        assert scan.records == sound.records[: len(scan.records)]
        if compressed and scan == sound:
            continue  # zstd has bits without a meaning; the records are what was written
        kept = sum(end <= offset for end, _ in record_ends(compressed=compressed))
        if not compressed:
            assert len(scan.records) == kept
        assert HEADER_SIZE <= scan.damages[0].offset <= offset
        assert scan.damages[0].offset < scan.damages[0].end
        assert not scan.sealed


def test_a_flipped_bit_in_the_header_is_an_error_or_harmless() -> None:
    data = segment(*frames())
    for offset in range(HEADER_SIZE):
        if offset < 72:
            with pytest.raises((ChecksumError, UnsupportedFormatError)):
                read(flipped(data, offset, offset % 8))
        else:
            assert read(flipped(data, offset)).records == read(data).records


def test_salvaging_skips_just_the_damaged_record() -> None:
    data = segment(*frames(), frame(seal(9, 9)))
    ends = record_ends(compressed=False)
    (end_of_five,) = (end for end, seq in ends if seq == 5)
    broken = flipped(data, end_of_five - 1)
    scan = read(broken, salvage=True)
    assert seqs(scan) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert [(damage.offset, damage.end) for damage in scan.damages] == [
        (end_of_five - len(put(5, b"v" * 50)), end_of_five)
    ]
    assert scan.sealed
    assert seqs(read(broken)) == [1, 2, 3, 4]


def test_salvaging_finds_the_frames_after_a_lost_frame_header() -> None:
    blocks = frames()
    data = segment(*blocks, frame(seal(9, 9)))
    lost = HEADER_SIZE + len(blocks[0])
    scan = read(flipped(data, lost), salvage=True)
    assert seqs(scan) == [1, 4, 5, 6, 7, 8, 9]
    assert [(each.offset, each.end) for each in scan.damages] == [(lost, lost + len(blocks[1]))]


def test_salvaging_never_invents_a_record() -> None:
    data = segment(*frames(), frame(seal(9, 9)), padding=30)
    sound = read(data).records
    for offset in range(HEADER_SIZE, len(data)):
        scan = read(flipped(data, offset, offset % 8), salvage=True)
        assert set(scan.records) <= set(sound)
        assert seqs(scan) == sorted(seqs(scan))
        assert len(scan.records) >= len(read(flipped(data, offset, offset % 8)).records)


def test_a_record_after_a_wrong_length_is_not_believed() -> None:
    body = bytearray(put(1) + put(2))
    body[4] += 7
    scan = read(segment(frame(bytes(body)), frame(put(3))), salvage=True)
    assert seqs(scan) == [3]


def test_damage_says_what_differs() -> None:
    data = segment(frame(put(1)), frame(put(2)))
    at = HEADER_SIZE + FRAME_HEADER_SIZE
    (damage, *_) = read(flipped(data, at + 30)).damages
    assert damage.offset == at
    assert damage.expected == struct.unpack_from("<I", data, at)[0] != damage.found
    error = read(flipped(data, at + 30)).error()
    assert isinstance(error, ChecksumError)
    assert (error.name, error.offset) == ("wal/3", at)
    assert (error.expected, error.found) == (damage.expected, damage.found)


def test_another_segment_under_this_name_is_corruption() -> None:
    with pytest.raises(CorruptionError) as caught:
        read_segment(segment(*frames()), "wal/4", 4)
    assert (caught.value.name, caught.value.expected, caught.value.found) == ("wal/4", 4, 3)
    assert seqs(read_segment(segment(*frames()), "anything", None)) == ALL


def test_wrong_magic_and_version_are_unsupported() -> None:
    data = segment(*frames())
    for strange in (b"not ours" + data[8:], data[:8] + b"\x09" + data[9:]):
        with pytest.raises(UnsupportedFormatError):
            read(strange)


def test_seqs_that_do_not_rise_are_corruption() -> None:
    for following in (1, 2):
        scan = read(segment(frame(put(2)), frame(put(following)), frame(put(3))))
        assert (seqs(scan), scan.damages[0].found) == ([2], following)
        assert classify(scan, is_last=True) is Condition.CORRUPT
    scan = read(segment(frame(put(4)), header=HEADER._replace(first_seq=5)))
    assert classify(scan, is_last=True) is Condition.CORRUPT


def test_gaps_between_seqs_are_allowed() -> None:
    assert seqs(read(segment(frame(put(2), put(7)), frame(put(1 << 56))))) == [2, 7, 1 << 56]


def test_a_record_of_unknown_type_is_corruption() -> None:
    record = bytearray(put(1))
    record[8] = 9
    strange = _with_checksum(bytes(record))
    scan = read(segment(frame(strange), frame(put(2))))
    assert (scan.records, scan.damages[0].found) == ([], 9)
    assert classify(scan, is_last=True) is Condition.CORRUPT


def _with_checksum(record: bytes) -> bytes:
    return struct.pack("<I", crc32c(record[4:], SALT)) + record[4:]


def test_a_seal_that_counts_or_names_something_else_is_corruption() -> None:
    for wrong in (seal(2, 1), seal(2, 3), seal(1, 2), seal(3, 2)):
        scan = read(segment(frame(put(1), put(2)), frame(wrong)))
        assert (seqs(scan), scan.sealed) == ([1, 2], False)
        assert classify(scan, is_last=True) is Condition.CORRUPT
    assert not read(segment(frame(seal(0, 5)))).sealed


def test_the_later_part_of_a_segment_can_be_read_behind_its_header() -> None:
    first, *rest = frames()
    scan = read(segment(*rest, frame(seal(9, 9), synced=HEADER_SIZE + len(first))))
    assert (seqs(scan), scan.sealed, scan.damages) == (ALL[1:], True, ())


def test_compressed_frames_that_lie_about_their_length_are_damage() -> None:
    squeezed = zstandard.ZstdCompressor().compress(put(1, b"a" * 500))
    bomb = zstandard.ZstdCompressor().compress(bytes(MAX_COMPRESSED_BODY + 1))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(put(1, b"a" * 500))
    raw = len(put(1, b"a" * 500))
    for body, claimed in (
        (squeezed, raw - 1),
        (squeezed, raw + 1),
        (squeezed + b"more", raw),
        (squeezed[:-3], raw),
        (unsized, raw),
        (bomb, MAX_COMPRESSED_BODY + 1),
        (b"garbage", 100),
    ):
        scan = read(segment(_claiming(body, claimed), frame(put(2))))
        assert scan.records == []
        assert scan.damages[0].offset == HEADER_SIZE
    assert seqs(read(segment(_claiming(squeezed, raw), frame(put(2))))) == [1, 2]
    refused = read(segment(_claiming(bomb, MAX_COMPRESSED_BODY + 1))).damages[0]
    assert (refused.expected, refused.found) == (MAX_COMPRESSED_BODY, MAX_COMPRESSED_BODY + 1)


def _claiming(body: bytes, raw: int) -> bytes:
    fields = struct.pack("<IIIQ", SALT, len(body), raw, HEADER_SIZE)
    return fields + struct.pack("<I", crc32c(fields)) + body


def test_hostile_lengths_allocate_nothing() -> None:
    fields = struct.pack("<IIIQ", SALT, (1 << 32) - 1, 0, HEADER_SIZE)
    huge_frame = fields + struct.pack("<I", crc32c(fields)) + put(1)
    assert seqs(read(segment(huge_frame))) == [1]
    record = _with_checksum(b"\0\0\0\0\xff\xff\xff\xff" + put(1)[8:])
    scan = read(segment(frame(record), frame(put(2))))
    assert (scan.records, scan.damages[0].expected) == ([], (1 << 32) - 1)


def test_a_segment_is_read_from_its_file() -> None:
    files = CrashableFileSystem()
    files.make_directory("wal")
    data = segment(*frames())
    files.open("wal/00000000000000000003.wal", create=True).write_at(0, data)
    scan = scan_segment(files, "wal", 3)
    assert (scan.name, seqs(scan)) == ("wal/00000000000000000003.wal", ALL)


@given(st.binary(max_size=600))
def test_any_bytes_after_the_header_are_read_without_an_exception(noise: bytes) -> None:
    for start in (segment(), segment(frame(put(1)))):
        for salvage in (False, True):
            scan = read(start + noise, salvage=salvage)
            assert set(scan.records) <= {(1, 10, encode_put(b"key1", b"value"))}
            classify(scan, is_last=True)


@given(st.binary(max_size=200), st.integers(0, 80))
def test_any_bytes_for_a_header_raise_corruption_or_are_one(noise: bytes, offset: int) -> None:
    data = encode_header(HEADER)
    mangled = (data[:offset] + noise + data[offset + len(noise) :])[: len(data)]
    try:
        scan = read(mangled + frame(put(1)))
    except CorruptionError:
        return
    assert seqs(scan) == [1]


@given(
    st.lists(st.lists(st.binary(max_size=50), min_size=1, max_size=5), max_size=8),
    st.booleans(),
    st.sampled_from([1, 4096]),
    st.integers(0, 200),
)
def test_what_is_written_is_read(
    groups: list[list[bytes]], compressed: bool, alignment: int, padding: int
) -> None:
    seq = 0
    written, blocks = [], []
    for group in groups:
        records = []
        for payload in group:
            seq += 1
            written.append((seq, seq, payload))
            records.append(encode_record(seq, seq, payload, SALT))
        blocks.append(frame(*records, compressed=compressed, alignment=alignment))
    header = HEADER._replace(alignment=alignment)
    scan = read(segment(*blocks, padding=padding, header=header))
    assert (scan.records, scan.damages) == (written, ())


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("before", [1, 2 * FEWEST])
@pytest.mark.parametrize(
    ("stamp", "name"), [((STORED_END, 7), "seq"), ((1 << 20, (1 << 64) - 1), "time")]
)
def test_a_number_that_no_writer_reaches_is_corruption_under_right_checksums(
    stamp: tuple[int, int], name: str, before: int, *, compressed: bool
) -> None:
    """It was read, and the flush failed at it with an ``InternalError`` for ever."""
    seq, time_us = stamp
    sound = [frame(put(seq), compressed=compressed) for seq in range(1, before + 1)]
    bad = frame(encode_record(seq, time_us, encode_put(b"key", b"value"), SALT))
    scan = read(segment(*sound, bad, frame(put(STORED_END - 1))))
    assert scan.count == before
    assert classify(scan, is_last=True) is Condition.CORRUPT
    number = max(stamp)
    assert scan.damage is not None
    assert scan.damage.reason == f"a {name} is later than any writer gets"
    assert (scan.damage.expected, scan.damage.found) == (STORED_END - 1, number)


def test_the_last_numbers_that_are_taken_are_sound() -> None:
    last = STORED_END - 1
    scan = read(segment(frame(encode_record(last, last, encode_put(b"key", b"value"), SALT))))
    assert (scan.damages, scan.last) == ((), (last, last))
