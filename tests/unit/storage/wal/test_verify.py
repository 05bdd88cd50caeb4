from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest

from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.wal.format import FRAME_HEADER_SIZE, HEADER_SIZE, encode_record
from seerdb.storage.wal.reader import Condition
from seerdb.storage.wal.segments import segment_path
from seerdb.storage.wal.verify import SegmentReport, verify_segments
from seerdb.testing.files import CrashableFileSystem
from tests.unit.storage.wal.samples import HEADER, SALT, flipped, frame, put, seal, segment

FRAMES = [frame(put(1)), frame(put(2), put(3)), frame(put(4))]
SEALED = segment(*FRAMES, frame(seal(4, 4), synced=HEADER_SIZE + sum(map(len, FRAMES))))


def report(data: bytes, name: str = "", *, others: tuple[int, ...] = ()) -> SegmentReport:
    files = CrashableFileSystem()
    files.make_directory("wal")
    path = f"wal/{name}" if name else segment_path("wal", 3)
    files.open(path, create=True).write_at(0, data)
    for other in others:
        files.open(segment_path("wal", other), create=True)
    before = files.operations
    (found,) = verify_segments(files, [path])
    assert files.operations == before, "verifying changes nothing"
    return found


def test_a_sound_segment_is_described() -> None:
    found = report(SEALED + bytes(100), others=(4,))
    assert found == SegmentReport(
        path=segment_path("wal", 3),
        condition=Condition.SOUND,
        problem="",
        segment=3,
        epoch=2,
        records=4,
        first_seq=1,
        last_seq=4,
        length=len(SEALED),
        size=len(SEALED) + 100,
        sealed=True,
        torn_bytes=0,
        damages=(),
    )


def test_the_last_segment_may_be_open_or_torn() -> None:
    found = report(segment(*FRAMES), others=(1, 2))
    assert (found.condition, found.problem, found.sealed) == (Condition.SOUND, "", False)
    found = report(segment(*FRAMES)[:-1], others=(1, 2))
    assert (found.condition, found.records) == (Condition.TORN, 3)
    assert found.torn_bytes == len(put(4)) - 1
    assert f"{found.torn_bytes:,} bytes are a torn tail" in found.problem


def test_a_segment_with_a_successor_must_be_sealed() -> None:
    found = report(segment(*FRAMES), others=(4,))
    assert found.condition is Condition.CORRUPT
    assert "no SEAL" in found.problem


def test_a_segment_that_is_taken_back_after_it_was_read_is_the_last() -> None:
    files = CrashableFileSystem()
    files.make_directory("wal")
    path = segment_path("wal", 3)
    files.open(path, create=True).write_at(0, segment(*FRAMES))
    with patch("seerdb.storage.wal.verify.list_segments", return_value=[]):
        (found,) = verify_segments(files, [path])
    assert (found.condition, found.records) == (Condition.SOUND, 4)


def test_damage_is_located_and_everything_sound_is_counted() -> None:
    second = HEADER_SIZE + len(FRAMES[0]) + FRAME_HEADER_SIZE
    found = report(flipped(SEALED, second + 3))
    assert (found.condition, found.records, found.last_seq) == (Condition.CORRUPT, 3, 4)
    assert [damage.offset for damage in found.damages] == [second]
    assert f"{segment_path('wal', 3)} at byte {second}" in found.problem


def test_a_header_that_cannot_be_used_is_a_report_too() -> None:
    for data in (b"", SEALED[:100], b"other" + SEALED[5:], flipped(SEALED, 20)):
        found = report(data)
        assert (found.condition, found.segment, found.size) == (Condition.CORRUPT, 3, len(data))
        assert segment_path("wal", 3) in found.problem


def test_a_segment_under_another_name_is_noticed() -> None:
    found = report(SEALED, name="00000000000000000009.wal")
    assert (found.condition, found.segment) == (Condition.CORRUPT, 9)


def test_a_copy_under_any_name_is_checked_too() -> None:
    found = report(segment(*FRAMES), name="copy.bin", others=(4,))
    assert (found.condition, found.segment, found.records) == (Condition.SOUND, 3, 4)


def test_a_missing_file_is_a_report_and_the_others_follow() -> None:
    files = CrashableFileSystem()
    files.open("a.wal", create=True).write_at(0, SEALED)
    found = verify_segments(files, ["missing.wal", "a.wal"])
    assert [each.condition for each in found] == [Condition.CORRUPT, Condition.SOUND]
    assert "missing.wal" in found[0].problem


def test_a_file_in_the_working_directory_knows_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [segment_path("x", number).removeprefix("x/") for number in (3, 4)]
    for name in names:
        Path(name).write_bytes(segment(*FRAMES))
    assert "no SEAL" in verify_segments(OsFileSystem(), names[:1])[0].problem


def test_a_batch_with_a_right_checksum_and_wrong_content_is_corrupt() -> None:
    found = report(segment(frame(put(1), encode_record(2, 20, b"\x01\0\0\0\x09", SALT))))
    assert found.condition is Condition.CORRUPT
    assert "seq 2 cannot be decoded" in found.problem


def test_records_of_an_empty_segment_have_no_seqs() -> None:
    found = report(segment(header=HEADER))
    assert (found.records, found.first_seq, found.last_seq) == (0, 0, 0)
