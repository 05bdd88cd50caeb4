from __future__ import annotations

import random

import pytest

from seerdb.errors import DiskFullError
from seerdb.storage.wal.format import HEADER_SIZE, encode_put
from seerdb.storage.wal.reader import Condition, classify, scan_segment
from seerdb.storage.wal.repair import frame_bodies, seal_recovered
from seerdb.storage.wal.segments import segment_path
from seerdb.testing.crash import CrashError
from seerdb.testing.files import CrashableFileSystem
from tests.unit.storage.wal.samples import HEADER, SALT, flipped, frame, put, read, segment, seqs

PATH = segment_path("wal", 3)


def disk_with(data: bytes) -> CrashableFileSystem:
    files = CrashableFileSystem()
    files.make_directory("wal")
    file = files.open(PATH, create=True)
    file.write_at(0, data)
    file.sync(metadata=True)
    files.sync_directory("wal")
    return files


def repair(files: CrashableFileSystem) -> None:
    seal_recovered(files, "wal", scan_segment(files, "wal", 3))


def test_a_sound_segment_is_sealed_where_it_ends_and_keeps_its_size() -> None:
    data = segment(frame(put(1)), frame(put(2)), padding=5000)
    files = disk_with(data)
    repair(files)
    scan = scan_segment(files.crash(random.Random(1)), "wal", 3)
    assert (seqs(scan), scan.sealed) == ([1, 2], True)
    assert classify(scan, is_last=False) is Condition.SOUND
    assert files.open_read(PATH).size() == len(data)


def test_a_torn_tail_is_cut_off_before_the_seal() -> None:
    data = segment(frame(put(1)), frame(put(2)), frame(put(3)), frame(put(4)))
    files = disk_with(flipped(data, HEADER_SIZE + 2 * len(frame(put(1))) + 5))
    repair(files)
    scan = scan_segment(files, "wal", 3)
    assert (seqs(scan), scan.sealed, scan.damages) == ([1, 2], True, ())
    assert files.open_read(PATH).size() == scan.end


@pytest.mark.parametrize("alignment", [1, 4096])
def test_records_in_a_torn_frame_stay(alignment: int) -> None:
    group = frame(*(put(seq, b"v" * 2000) for seq in range(2, 8)), alignment=alignment)
    header = HEADER._replace(alignment=alignment)
    data = segment(frame(put(1), alignment=alignment), group, header=header)
    for cut in range(len(data) - len(group), len(data), 97):
        files = disk_with(data[:cut])
        before = scan_segment(files, "wal", 3)
        repair(files)
        after = scan_segment(files.crash(random.Random(1)), "wal", 3)
        assert (after.records, after.sealed) == (before.records, True)
        assert files.list("wal") == [PATH.removeprefix("wal/")]


def test_many_records_around_a_damaged_one_are_cut_into_frames_again() -> None:
    records = [put(seq, b"v" * 300_000) for seq in range(1, 12)]
    data = segment(frame(*records))
    files = disk_with(data[:-5])
    repair(files)
    assert seqs(scan_segment(files, "wal", 3)) == list(range(1, 11))


@pytest.mark.parametrize("size", [1, 100, 10_000, 3 << 20])
def test_records_of_any_size_fit_into_frames(size: int) -> None:
    """A thousand records made a frame, which has no room for a thousand large ones."""
    records = [(seq, seq * 10, encode_put(b"key", bytes(size))) for seq in range(1, 301)]
    if size > 1 << 20:
        records = records[:5]
    bodies = list(frame_bodies(SALT, iter(records)))
    assert all(len(body) < (2 << 20) + size for body in bodies)
    assert all(len(body) >= 1 << 20 for body in bodies[:-1]), "and headers are not wasted"
    assert read(segment(*map(frame, bodies))).records == records


def test_corruption_is_cut_off_with_all_that_follows() -> None:
    third = HEADER_SIZE + 2 * len(frame(put(1)))
    data = segment(frame(put(1)), frame(put(2)), frame(put(3), synced=third))
    files = disk_with(flipped(data, third - 1))
    repair(files)
    scan = scan_segment(files, "wal", 3)
    assert (seqs(scan), scan.sealed) == ([1], True)


def test_repair_can_crash_at_any_operation_and_loses_nothing() -> None:
    group = frame(*(put(seq, b"v" * 400) for seq in range(2, 8)))
    group_end = HEADER_SIZE + len(frame(put(1))) + len(group)
    torn, lost = segment(frame(put(1)), group)[:-50], segment(frame(put(1)), flipped(group, 0))
    proven = segment(frame(put(1)), group, frame(put(8), synced=group_end))
    damaged = flipped(proven, group_end - 10)
    for data, kept in ((torn, 6), (lost, 1), (damaged, 6), (segment(group), 6)):
        operations = disk_with(data).operations
        files = disk_with(data)
        repair(files)
        for operation in range(operations + 1, files.operations + 1):
            for halfway in (False, True):
                trial = disk_with(data)
                trial.crash_at, trial.crash_halfway = operation, halfway
                with pytest.raises(CrashError):
                    repair(trial)
                for seed in range(5):
                    after = trial.crash(random.Random(seed)) if seed else trial.kill()
                    if not scan_segment(after, "wal", 3).sealed:
                        repair(after)
                    scan = scan_segment(after, "wal", 3)
                    assert len(scan.records) == kept
                    assert classify(scan, is_last=False) is Condition.SOUND


def test_damage_in_a_repaired_segment_is_corruption() -> None:
    whole = segment(frame(put(1)), frame(put(2), put(3)))
    for data in (whole, whole[:-3]):
        files = disk_with(data)
        repair(files)
        file = files.open(PATH)
        file.write_at(0, flipped(file.read_at(0, len(data)), HEADER_SIZE + 30))
        assert classify(scan_segment(files, "wal", 3), is_last=True) is Condition.CORRUPT


def test_an_empty_segment_is_sealed_as_such() -> None:
    files = disk_with(segment(padding=100))
    repair(files)
    scan = scan_segment(files, "wal", 3)
    assert (scan.sealed, scan.count, scan.damages) == (True, 0, ())


def test_a_cut_off_padding_of_a_direct_segment_is_filled() -> None:
    header = HEADER._replace(alignment=4096)
    data = segment(frame(put(1), alignment=4096), header=header)
    files = disk_with(data[:-1000])
    repair(files)
    scan = scan_segment(files, "wal", 3)
    assert (scan.end, scan.sealed) == (len(data) + 4096, True)


def test_on_a_full_disk_the_segment_stays_as_it_was() -> None:
    data = segment(frame(put(1), put(2)))[:-3]
    files = disk_with(data)
    files.no_space = True
    for _ in range(2):
        with pytest.raises(DiskFullError):
            repair(files)
    assert seqs(scan_segment(files, "wal", 3)) == [1]
    files.no_space = False
    repair(files)
    assert scan_segment(files, "wal", 3).sealed
