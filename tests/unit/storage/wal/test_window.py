"""A segment is read through a small window, and nobody can tell from what is found."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import FRAME_HEADER_SIZE, HEADER_SIZE, encode_frame_header
from seerdb.storage.wal.frames import FrameReader
from seerdb.storage.wal.reader import Condition, classify, scan_segment
from seerdb.storage.wal.segments import segment_path
from seerdb.storage.wal.window import WINDOW, Window
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

NOISE = random.Random(1).randbytes(3 * WINDOW + 5)


class Source:
    """Bytes, and what was asked of them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def read_at(self, offset: int, length: int) -> bytes:
        self.asked.append((offset, length))
        return self.data[offset : offset + length]

    def window(self) -> Window:
        return Window(self.read_at, len(self.data))


@given(st.lists(st.tuples(st.integers(0, len(NOISE) + 9), st.integers(1, 2 * WINDOW)), max_size=20))
def test_whatever_was_asked_before_the_bytes_are_those_of_the_segment(
    places: list[tuple[int, int]],
) -> None:
    window = Source(NOISE).window()
    for offset, length in places:
        data, position = window.at(offset, length)
        assert data[position : position + length] == NOISE[offset : offset + length]
        for start in (offset, offset // 2, offset + WINDOW):
            assert window.read(start, length) == NOISE[start : start + length]


def test_the_window_moves_only_when_too_little_is_ahead() -> None:
    source = Source(NOISE)
    window = source.window()
    for offset in (4096, 5000, 4096 + WINDOW - 49, 4096 + WINDOW - 48):
        window.at(offset, 49)
    assert source.asked == [(4096, WINDOW), (4096 + WINDOW - 48, WINDOW)]


def test_a_length_that_lies_reads_no_more_than_there_is() -> None:
    source = Source(NOISE)
    window = source.window()
    window.at(100, 1 << 32)
    window.read(200, 1 << 32)
    window.read(len(NOISE) + 7, 1 << 32)
    assert all(offset + length <= len(NOISE) or not length for offset, length in source.asked)
    assert sum(length for _, length in source.asked) <= 2 * len(NOISE)


def test_a_pattern_is_found_also_across_the_borders_of_windows() -> None:
    for start in (0, 1, 4096):
        for border in (WINDOW, 2 * WINDOW, start + WINDOW, start + 2 * WINDOW):
            for at in range(border - 9, border + 9):
                data = bytes(at) + b"salt" + bytes(WINDOW)
                assert Source(data).window().find(b"salt", start) == at
                assert Source(data).window().find(b"salt", at + 1) == -1


def test_a_pattern_cut_off_by_the_end_is_not_found() -> None:
    for size in (0, 3, WINDOW - 1, WINDOW, 2 * WINDOW - 3):
        assert Source(bytes(size) + b"sal").window().find(b"salt", 0) == -1
        assert Source(bytes(size) + b"salt").window().find(b"salt", 0) == size


def test_a_file_that_is_shorter_than_it_was_ends_the_search() -> None:
    window = Window(Source(bytes(10)).read_at, 5 * WINDOW)
    assert window.find(b"salt", 0) == -1
    assert window.at(WINDOW, 49) == (b"", 0)


def test_frames_are_read_wherever_a_window_ends() -> None:
    """The first frame moves the end of the window over every byte of the frames there."""
    following = [frame(put(seq, b"v" * 20)) for seq in range(2, 6)]
    span = sum(map(len, following))
    for length in range(WINDOW - 3 * span, WINDOW + span, 3):
        filling = frame(put(1, b"f" * (length - len(frame(put(1, b""))))))
        data = segment(filling, *following, padding=100)
        scan = read(data)
        assert (seqs(scan), scan.damages) == ([1, 2, 3, 4, 5], ())
        assert scan.end == len(data) - 100


@pytest.mark.parametrize("compressed", [False, True])
def test_frames_larger_than_a_window_are_read(compressed: bool) -> None:
    sizes = (WINDOW - 100, WINDOW, 3 * WINDOW, 10)
    values = [random.Random(size).randbytes(size) + bytes(500) for size in sizes]
    records = [put(seq, value) for seq, value in enumerate(values, 1)]
    for blocks in ([frame(*records, compressed=compressed)], [*map(frame, records)]):
        scan = read(segment(*blocks, frame(seal(4, 4)), padding=10))
        assert (seqs(scan), scan.sealed, scan.damages) == ([1, 2, 3, 4], True, ())
        payloads = [payload for _, _, payload in scan.records]
        assert all(map(bytes.endswith, payloads, values))


def test_damage_in_any_window_is_found_where_it_is() -> None:
    blocks = [frame(put(seq, b"v" * 100)) for seq in range(1, 1500)]
    data = segment(*blocks, frame(seal(1499, 1499)), padding=WINDOW + 1000)
    starts = [HEADER_SIZE]
    for block in blocks:
        starts.append(starts[-1] + len(block))
    assert starts[-1] > 3 * WINDOW
    for number in (0, 370, 371, 372, 400, 800, 1498):
        scan = read(flipped(data, starts[number] + 90))
        assert (seqs(scan), scan.end) == (list(range(1, number + 1)), starts[number])
        assert scan.damages[0].offset == starts[number] + FRAME_HEADER_SIZE
        assert classify(scan, is_last=False) is Condition.CORRUPT
        salvaged = read(flipped(data, starts[number] + 90), salvage=True)
        assert seqs(salvaged) == [seq for seq in range(1, 1500) if seq != number + 1]
        assert salvaged.sealed


def test_the_trace_of_a_frame_is_found_far_behind_the_end() -> None:
    data = segment(frame(put(1)))
    later = frame(put(3), synced=len(data) + 1)
    for distance in (1, WINDOW - 3, WINDOW, 3 * WINDOW + 1):
        scan = read(data + bytes(distance) + later)
        assert classify(scan, is_last=True) is Condition.CORRUPT
        assert (scan.end, scan.damages[0].end) == (len(data), len(data) + distance)


def test_the_checksum_of_a_header_is_not_taken_from_another() -> None:
    """A header that was found sound is known by all its bytes, CRC included."""
    first, second = frame(put(1)), frame(put(2))
    for byte in range(FRAME_HEADER_SIZE):
        scan = read(segment(first, flipped(second, byte), frame(put(3))))
        assert seqs(scan) == [1]
        assert scan.damages[0].offset == HEADER_SIZE + len(first)


def test_headers_that_never_repeat_are_forgotten() -> None:
    blocks, synced = [], HEADER_SIZE
    for seq in range(1, 5000):
        blocks.append(frame(put(seq), synced=synced))
        synced += len(blocks[-1])
    taken: list[Record] = []
    reader = FrameReader(Source(segment(*blocks)).window(), HEADER, taken.extend, salvage=False)
    reader.run()
    assert (len(taken), reader.damages) == (4999, [])
    assert len(reader._lengths) < 2500


def disk_with(data: bytes) -> CrashableFileSystem:
    files = CrashableFileSystem()
    files.make_directory("wal")
    files.open(segment_path("wal", 3), create=True).write_at(0, data)
    return files


@pytest.mark.parametrize("salvage", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_records_that_are_taken_on_the_way_are_the_same(salvage: bool, compressed: bool) -> None:
    blocks = [
        frame(put(seq, b"a" * 90), put(seq + 1, b"b" * 800), compressed=compressed)
        for seq in range(1, 400, 2)
    ]
    whole = segment(*blocks, frame(seal(400, 400)), padding=10)
    middle = HEADER_SIZE + sum(map(len, blocks[:150])) + FRAME_HEADER_SIZE + 60
    for data in (whole, flipped(whole, middle), whole[:middle], segment(padding=9)):
        files = disk_with(data)
        taken: list[Record] = []
        scan = scan_segment(files, "wal", 3, salvage=salvage, take=taken.extend)
        kept = scan_segment(files, "wal", 3, salvage=salvage)
        assert (taken, scan.records) == (kept.records, [])
        assert scan.count == kept.count == len(taken)
        assert scan.first == (taken[0][:2] if taken else None)
        assert scan.last == (taken[-1][:2] if taken else None)
        assert (scan.end, scan.partial, scan.sealed) == (kept.end, kept.partial, kept.sealed)
        assert (scan.damages, scan.torn_bytes) == (kept.damages, kept.torn_bytes)


@pytest.mark.parametrize("compressed", [False, True])
def test_records_are_taken_some_at_a_time(compressed: bool) -> None:
    values = (NOISE[seq : seq + 1000] for seq in range(1, 3000))
    frames = (frame(put(seq, value), compressed=compressed) for seq, value in enumerate(values, 1))
    sizes: list[int] = []
    files = disk_with(segment(*frames))
    scan_segment(files, "wal", 3, take=lambda records: sizes.append(len(records)))
    assert sum(sizes) == 2999
    assert max(sizes) <= 1024


def test_what_goes_wrong_with_taking_is_told() -> None:
    def refuse(records: Sequence[Record]) -> None:
        raise ValueError(f"{len(records)} records")

    with pytest.raises(ValueError, match="1 records"):
        scan_segment(disk_with(segment(frame(put(1)))), "wal", 3, take=refuse)


def test_a_frame_that_claims_the_rest_of_the_segment_and_more_is_cut_short() -> None:
    header = encode_frame_header((1 << 32) - 1, salt=SALT, synced=0)
    record = put(1)
    for padding in (0, 10, 5 * WINDOW):
        scan = read(segment(header + record, padding=padding, header=HEADER))
        assert seqs(scan) == [1]
        assert scan.damages[0].offset == HEADER_SIZE + FRAME_HEADER_SIZE + len(record)
