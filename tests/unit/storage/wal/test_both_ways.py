"""Frames of all kinds, sound and damaged: many at once or one by one, what is found is the same, in
the order of the log."""

from __future__ import annotations

from random import Random

import pytest

from seerdb.storage.wal import frames, sound
from seerdb.storage.wal.format import (
    FRAME_HEADER_SIZE,
    HEADER_SIZE,
    encode_operations,
    encode_put,
    encode_record,
)
from seerdb.storage.wal.reader import Condition, SegmentScan, classify
from tests.unit.storage.wal.samples import SALT, flipped, frame, put, read, seal, segment, seqs

SMALL = 300
"""Frames, more than are looked at together at least."""
OTHER_SALT = 0x0DDBA115


@pytest.fixture(scope="module", autouse=True)
def fewest() -> int:
    """As it is, but where a test says otherwise."""
    return sound.FEWEST


def small_frames(first: int) -> list[bytes]:
    return [frame(put(seq, b"small")) for seq in range(first, first + SMALL)]


def large(seq: int, size: int = 2000) -> bytes:
    return put(seq, Random(seq).randbytes(size))


@pytest.mark.parametrize("salvage", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_large_frame_comes_before_the_small_ones_behind_it(
    compressed: bool, salvage: bool
) -> None:
    """It was found one by one and had not been handed over when those behind it were: a log of
    zstd was read out of order, so older values won, and seqs were given out again."""
    first = frame(*(large(seq) for seq in range(1, 10)), compressed=compressed)
    data = segment(first, *small_frames(10))
    for behind in (b"", frame(seal(9 + SMALL, 9 + SMALL))):
        scan = read(data + behind, salvage=salvage)
        assert seqs(scan) == list(range(1, 10 + SMALL))
        assert (scan.first, scan.last) == ((1, 10), (9 + SMALL, 10 * (9 + SMALL)))
        assert (classify(scan, is_last=False) is Condition.SOUND) == bool(behind)


def test_what_is_sound_of_a_damaged_frame_comes_before_the_small_ones_behind_it() -> None:
    group = frame(*(large(seq) for seq in (1, 2, 3)))
    data = segment(group, *small_frames(4))
    damaged = flipped(data, HEADER_SIZE + FRAME_HEADER_SIZE + len(large(1)) + 500)
    scan = read(damaged, salvage=True)
    assert seqs(scan) == [1, 3, *range(4, 4 + SMALL)]
    assert len(scan.damages) == 1


def random_record(random: Random, seq: int) -> bytes:
    kind, key = random.random(), b"key%d" % random.randrange(50)
    if kind < 0.1:
        count = random.choice([2, 33])
        rows = [random.randbytes(4) for _ in range(count)]
        payload = encode_operations(bytes([1]) * count, rows, [b"v"] * count)
    elif kind < 0.2:  # a value that is a frame
        fake = frame(put(seq + random.choice([0, 1, 5]), b"fake"))
        payload = encode_put(key, random.choice([fake, SALT.to_bytes(4, "little") * 5 + fake]))
    elif kind < 0.25:
        payload = random.randbytes(random.choice([0, 1, 30]))
    else:
        payload = encode_put(key, random.randbytes(random.choice([0, 5, 5, 5, 100, 3000])))
    return encode_record(seq, seq * 10, payload, SALT)


def random_log(random: Random) -> tuple[bytes, list[int]]:
    """A segment of frames of all kinds, with what may stand behind the last; and where frames
    begin."""
    data, starts, seq, synced = bytearray(segment()), [], 0, HEADER_SIZE
    alike, compresses = random.random() < 0.5, random.random() < 0.4
    for _ in range(random.choice([1, 3, 30, 90])):
        records = []
        lone = alike and random.random() < 0.95
        for _ in range(1 if lone else random.choice([1, 2, 10, 65])):
            seq += 1
            records.append(put(seq, b"alike") if lone else random_record(random, seq))
        starts.append(len(data))
        compressed = compresses and random.random() < 0.3
        data += frame(*records, synced=synced, compressed=compressed)
        if random.random() < 0.1:
            synced = len(data)
    if random.random() < 0.5:
        starts.append(len(data))
        data += frame(seal(seq, seq), synced=synced)
    behind = random.choice([b"", bytes(5000), b"".join(small_frames(seq + 1)[:3])])
    if random.random() < 0.3:
        behind = frame(put(seq + 1, b"of before", OTHER_SALT), salt=OTHER_SALT) * 3
    return bytes(data + behind), starts


def damaged(random: Random, data: bytes, starts: list[int]) -> bytes:
    at, size = random.randrange(HEADER_SIZE, len(data)), random.choice([1, 4, 24, 512, 4096])
    one, other = random.choice(starts), random.choice(starts)
    return random.choice(
        [
            flipped(data, at, random.randrange(8)),
            data[:at] + bytes(len(data[at : at + size])) + data[at + size :],
            data[:at],
            data[:at] + data[at + size :],
            data[:at] + random.randbytes(size) + data[at:],
            data[:one] + data[other:],  # frames are left out, or come twice
            data[:one] + OTHER_SALT.to_bytes(4, "little") + data[one + 4 :],
        ]
    )


def scanned(
    patch: pytest.MonkeyPatch, data: bytes, fewest: int, many: int, *, salvage: bool
) -> SegmentScan:
    patch.setattr(sound, "FEWEST", fewest)
    patch.setattr(frames, "_MANY", many)
    scan = read(data, salvage=salvage)
    rising = [record[0] for record in scan.records]
    assert rising == sorted(rising)
    return scan


@pytest.mark.parametrize("seed", range(150))
def test_both_ways_find_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(seed)
    data, starts = random_log(random)
    logs = [data]
    for _ in range(6):
        logs.append(damaged(random, random.choice(logs), starts))
    for log in logs:
        for salvage in (False, True):
            one_by_one = scanned(monkeypatch, log, 1 << 60, 1 << 20, salvage=salvage)
            fewest, many = random.choice([1, 2, 8]), random.choice([300, 1000, 4096, 1 << 16])
            at_once = scanned(monkeypatch, log, fewest, many, salvage=salvage)
            assert at_once == one_by_one
