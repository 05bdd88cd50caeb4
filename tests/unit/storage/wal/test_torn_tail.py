"""A torn tail is not corruption, and corruption is not a torn tail."""

from __future__ import annotations

import random

import pytest

from seerdb.storage.wal.format import FRAME_HEADER_SIZE, HEADER_SIZE
from seerdb.storage.wal.reader import Condition, SegmentScan, classify
from tests.unit.storage.wal.samples import flipped, frame, put, read, seal, segment, seqs

RECORD = put(1)
FRAME = frame(RECORD)
SECOND, THIRD = (HEADER_SIZE + n * len(FRAME) for n in (1, 2))
"""Offsets of frames in a segment of frames like FRAME."""


def last(scan: SegmentScan) -> Condition:
    return classify(scan, is_last=True)


def test_damage_with_nothing_after_it_is_a_torn_tail() -> None:
    data = segment(frame(put(1)), frame(put(2)))
    for offset in range(SECOND, THIRD):
        scan = read(flipped(data, offset))
        assert (seqs(scan), last(scan)) == ([1], Condition.TORN)
        assert (scan.end, scan.damages[0].proven) == (SECOND, False)


def test_damage_before_frames_that_knew_of_no_sync_is_a_torn_tail() -> None:
    data = segment(frame(put(1)), frame(put(2)), frame(put(3)), frame(put(4)))
    scan = read(flipped(data, SECOND + 40))
    assert (seqs(scan), last(scan)) == ([1], Condition.TORN)
    assert scan.torn_bytes == len(data) - scan.damages[0].offset


def test_damage_that_a_later_frame_knew_to_be_synced_is_corruption() -> None:
    data = segment(frame(put(1)), frame(put(2)), frame(put(3)), frame(put(4), synced=THIRD))
    for offset in range(HEADER_SIZE, THIRD):
        scan = read(flipped(data, offset))
        assert last(scan) is Condition.CORRUPT, offset
        assert scan.torn_bytes == 0
    for offset in range(THIRD, len(data)):
        assert last(read(flipped(data, offset))) is Condition.TORN, offset


@pytest.mark.parametrize("synced", [HEADER_SIZE, SECOND])
def test_what_was_synced_up_to_the_damage_says_nothing_about_it(synced: int) -> None:
    data = segment(frame(put(1)), frame(put(2)), frame(put(3), synced=synced))
    assert last(read(flipped(data, SECOND + 5))) is Condition.TORN


def test_a_hole_where_a_frame_was_is_judged_like_damage() -> None:
    for synced, condition in ((HEADER_SIZE, Condition.TORN), (THIRD, Condition.CORRUPT)):
        data = segment(frame(put(1)), bytes(len(FRAME)), frame(put(3), synced=synced))
        scan = read(data)
        assert (seqs(scan), last(scan)) == ([1], condition)
        assert (scan.damages[0].offset, scan.damages[0].end) == (SECOND, THIRD)


def test_a_later_frame_proves_corruption_even_behind_more_damage() -> None:
    data = segment(
        frame(put(1)),
        bytes(len(FRAME)),
        flipped(frame(put(3)), 3),
        flipped(frame(put(4)), FRAME_HEADER_SIZE + 8),
        frame(put(5), synced=THIRD),
    )
    assert last(read(data)) is Condition.CORRUPT


def test_a_frame_that_knew_of_less_takes_no_proof_back() -> None:
    data = segment(frame(put(1)), frame(put(2)), frame(put(3), synced=THIRD), frame(put(4)))
    assert last(read(flipped(data, SECOND + 40))) is Condition.CORRUPT


def test_a_later_frame_with_a_broken_header_proves_nothing() -> None:
    data = segment(frame(put(1)), frame(put(2)), frame(put(3), synced=THIRD))
    for byte in range(FRAME_HEADER_SIZE):
        twice = flipped(flipped(data, SECOND + 40), THIRD + byte)
        assert last(read(twice)) is Condition.TORN


def test_a_later_frame_with_a_broken_body_still_proves_corruption() -> None:
    data = segment(frame(put(1)), frame(put(2)), frame(put(3), synced=THIRD))
    assert last(read(flipped(flipped(data, SECOND + 40), len(data) - 1))) is Condition.CORRUPT


def test_frames_of_another_salt_prove_nothing() -> None:
    stale = frame(put(9, salt=7), salt=7, synced=1 << 30)
    data = segment(frame(put(1)), frame(put(2)), stale)
    assert last(read(flipped(data, SECOND + 40))) is Condition.TORN


def test_damage_in_a_sealed_segment_is_corruption() -> None:
    length = THIRD
    data = segment(frame(put(1)), frame(put(2)), frame(seal(2, 2), synced=length))
    for offset in range(HEADER_SIZE, length):
        scan = read(flipped(data, offset))
        assert last(scan) is Condition.CORRUPT, offset
        assert classify(read(flipped(data, offset), salvage=True), is_last=True) is (
            Condition.CORRUPT
        )


def test_a_damaged_seal_is_a_torn_tail_only_in_the_last_segment() -> None:
    data = segment(frame(put(1)), frame(put(2)), frame(seal(2, 2), synced=THIRD))
    for offset in range(THIRD, len(data)):
        scan = read(flipped(data, offset))
        assert seqs(scan) == [1, 2]
        assert last(scan) is Condition.TORN
        assert classify(scan, is_last=False) is Condition.CORRUPT
        assert scan.error().offset is not None


def test_a_header_whose_only_damage_is_its_salt_is_still_seen() -> None:
    data = segment(frame(put(1)), frame(put(2)), padding=50)
    for byte in range(4):
        scan = read(flipped(data, SECOND + byte))
        assert (seqs(scan), last(scan)) == ([1], Condition.TORN)


def test_the_error_of_a_corrupt_scan_is_about_what_is_proven() -> None:
    data = segment(frame(put(1)), flipped(frame(put(2)), 40), frame(put(1)))
    scan = read(data, salvage=True)
    assert [damage.proven for damage in scan.damages] == [False, True]
    assert scan.error().offset == THIRD + FRAME_HEADER_SIZE


def test_whatever_a_power_loss_leaves_of_unsynced_frames_is_a_torn_tail() -> None:
    synced = segment(frame(put(1)), frame(put(2)))
    frames = [
        frame(*(put(seq, b"v" * 200) for seq in range(first, first + 3)), synced=len(synced))
        for first in range(3, 30, 3)
    ]
    tail = b"".join(frames)
    whole = read(synced + tail).records
    torn = 0
    for seed in range(300):
        chance = random.Random(seed)
        holes = bytearray(tail)
        for start in range(0, len(tail), 512):
            if chance.random() < 0.3:
                holes[start : start + 512] = bytes(len(holes[start : start + 512]))
        scan = read(synced + bytes(holes) + bytes(2000))
        assert scan.records == whole[: len(scan.records)]
        assert seqs(scan)[:2] == [1, 2]
        assert last(scan) is not Condition.CORRUPT
        torn += last(scan) is Condition.TORN
    assert torn > 200


def test_an_attack_of_salts_is_read_in_linear_time() -> None:
    salts = FRAME[:4] * 100_000
    scan = read(segment(frame(put(1))) + salts)
    assert (seqs(scan), last(scan)) == ([1], Condition.TORN)
