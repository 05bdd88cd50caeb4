from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from seerdb.errors import DiskError, DiskFullError
from seerdb.storage.local.files import FileSystem, read_whole
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.wal.format import HEADER_SIZE, decode_header
from seerdb.storage.wal.reader import scan_segment
from seerdb.storage.wal.segments import (
    SPARES_KEPT,
    SegmentPool,
    list_segments,
    parse_segment_name,
    segment_path,
)
from seerdb.testing.crash import CrashError
from seerdb.testing.files import CrashableFileSystem
from tests.unit.storage.wal.samples import HEADER, disk, frame, put, seqs

SIZE = 16_384


def take(pool: SegmentPool, segment: int) -> None:
    pool.take(HEADER._replace(segment=segment, salt=segment * 1000)).close()


def spares(files: FileSystem) -> list[str]:
    return [name for name in files.list("wal") if name.startswith("spare-")]


def test_names_and_ids_belong_together() -> None:
    assert segment_path("data/wal", 42) == "data/wal/00000000000000000042.wal"
    assert parse_segment_name("00000000000000000042.wal") == 42
    for other in (
        "42.wal",
        "00000000000000000042.wal.rewrite",
        "spare-1",
        "x00000000000000000042.wal",
        "00000000000000000042.wal\n",
        "０0000000000000000042.wal",
    ):
        assert parse_segment_name(other) is None


def test_segments_are_listed_by_number_and_others_passed_over() -> None:
    files = disk()
    for name in ("00000000000000000010.wal", "00000000000000000009.wal", "spare-1", "HOME"):
        files.open(f"wal/{name}", create=True)
    assert list_segments(files, "wal") == [9, 10]


def test_a_taken_segment_has_its_header_its_name_and_its_size() -> None:
    files = disk()
    pool = SegmentPool(files, "wal", SIZE)
    header = HEADER._replace(segment=7)
    file = pool.take(header)
    assert file.size() == SIZE
    assert files.list("wal") == ["00000000000000000007.wal"]
    assert decode_header(read_whole(files, segment_path("wal", 7)), "x") == header


def test_a_spare_is_prepared_once_and_taken() -> None:
    files = disk()
    pool = SegmentPool(files, "wal", SIZE)
    pool.prepare()
    pool.prepare()
    assert (pool.spares, files.list("wal")) == (1, ["spare-2"])
    assert read_whole(files, "wal/spare-2") == bytes(SIZE)
    before = files.operations
    take(pool, 1)
    assert files.trace[before:] == [
        f"write wal/spare-2 0+{HEADER_SIZE}",
        "sync wal/spare-2",
        "rename wal/spare-2 wal/00000000000000000001.wal",
        "sync directory wal",
    ]
    assert (pool.spares, spares(files)) == (0, [])


def test_a_released_segment_becomes_a_spare_and_is_used_again() -> None:
    files = disk()
    pool = SegmentPool(files, "wal", SIZE)
    file = pool.take(HEADER._replace(segment=1, salt=1))
    file.write_at(HEADER_SIZE, frame(put(1, salt=1), put(2, salt=1), salt=1))
    pool.recycle(1)
    assert (pool.spares, list_segments(files, "wal")) == (1, [])
    again = pool.take(HEADER._replace(segment=2, salt=2))
    assert scan_segment(files, "wal", 2).records == []
    again.write_at(HEADER_SIZE, frame(put(5, salt=2), salt=2))
    assert seqs(scan_segment(files, "wal", 2)) == [5]
    assert again.size() == SIZE


def test_only_a_few_spares_are_kept() -> None:
    files = disk()
    pool = SegmentPool(files, "wal", SIZE)
    for segment in range(1, 6):
        take(pool, segment)
    for segment in range(1, 6):
        pool.recycle(segment)
    assert pool.spares == len(spares(files)) == SPARES_KEPT
    assert list_segments(files, "wal") == []


def test_two_flushes_at_a_time_make_no_segments_anew() -> None:
    """At every second one a segment was removed, and another filled with zeros."""
    files = disk()
    pool = SegmentPool(files, "wal", SIZE)
    for first in range(1, 9, 2):
        before = files.operations
        for segment in (first, first + 1):
            take(pool, segment)
            pool.prepare()
        for segment in (first, first + 1):
            pool.recycle(segment)
    assert not any("unready" in step or "remove" in step for step in files.trace[before:])


def test_a_segment_of_another_size_is_removed() -> None:
    files = disk()
    pool = SegmentPool(files, "wal", SIZE)
    for segment, size in ((1, SIZE + 1), (2, SIZE - 1)):
        take(pool, segment)
        files.open(segment_path("wal", segment)).truncate(size)
        pool.recycle(segment)
    assert (files.list("wal"), pool.spares) == ([], 0)


def test_recycling_what_is_gone_is_no_error() -> None:
    pool = SegmentPool(disk(), "wal", SIZE)
    pool.recycle(99)
    assert pool.spares == 0


def test_spares_of_an_earlier_process_are_adopted_or_removed() -> None:
    files = disk()
    for number, size in ((3, SIZE), (4, 100), (5, SIZE), (6, SIZE), (7, SIZE)):
        files.open(f"wal/spare-{number}", create=True).allocate(size)
    pool = SegmentPool(files, "wal", SIZE)
    assert (pool.spares, spares(files)) == (SPARES_KEPT, ["spare-3", "spare-5", "spare-6"])
    for segment in (1, 2, 3, 4):
        take(pool, segment)
    pool.prepare()
    assert len(spares(files)) == 1


def test_what_was_not_ready_to_be_a_spare_is_removed_by_the_next_process() -> None:
    """Its length says nothing: room for all of it is made before the zeros are written."""
    clean = disk()
    SegmentPool(clean, "wal", SIZE).prepare()
    made = next(n for n, step in enumerate(clean.trace, 1) if step.startswith("rename"))
    for operation in range(2, made + 1):
        files = disk()
        files.crash_at = operation
        with pytest.raises(CrashError):
            SegmentPool(files, "wal", SIZE).prepare()
        for after in (files.kill(), files.crash(random.Random(operation))):
            pool = SegmentPool(after, "wal", SIZE)
            assert (pool.spares, after.list("wal")) == (0, [])
            pool.prepare()
            assert len(spares(after)) == len(after.list("wal")) == 1


def test_a_full_disk_leaves_nothing_behind_and_can_be_tried_again() -> None:
    files = disk()
    pool = SegmentPool(files, "wal", SIZE)
    files.no_space = True
    for attempt in (pool.prepare, lambda: take(pool, 1)):
        with pytest.raises(DiskFullError):
            attempt()
    assert files.list("wal") == []
    files.no_space = False
    take(pool, 1)
    assert list_segments(files, "wal") == [1]


def test_a_spare_that_could_not_be_made_durable_is_removed() -> None:
    files = disk()
    pool = SegmentPool(files, "wal", SIZE)
    files.fail_sync()
    with pytest.raises(DiskError):
        pool.prepare()
    assert (files.list("wal"), pool.spares) == ([], 0)


def test_what_failed_is_told_though_what_it_left_cannot_be_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full disk that was made read-only told of the removal, not that it was full."""
    files = disk()
    pool = SegmentPool(files, "wal", SIZE)

    def refuse(path: str) -> None:
        raise DiskError(f"{path}: read-only")

    monkeypatch.setattr(files, "remove", refuse)
    files.no_space = True
    for attempt in (pool.prepare, lambda: take(pool, 1)):
        with pytest.raises(DiskFullError):
            attempt()
    monkeypatch.undo()
    files.no_space = False
    take(SegmentPool(files, "wal", SIZE), 1)
    assert files.list("wal") == ["00000000000000000001.wal"]


def test_taking_can_be_tried_again_after_any_failed_sync() -> None:
    files = disk()
    pool = SegmentPool(files, "wal", SIZE)
    pool.prepare()
    files.fail_sync()
    with pytest.raises(DiskError):
        take(pool, 1)
    assert list_segments(files, "wal") == []
    take(pool, 1)
    assert list_segments(files, "wal") == [1]


@pytest.mark.parametrize("verb", ["open", "rename", "sync_directory"])
def test_a_segment_that_cannot_be_begun_leaves_no_files_however_often(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write that was refused left a file as large as a segment, until the next opening."""
    files = disk()
    pool = SegmentPool(files, "wal", SIZE)
    pool.prepare()
    real = getattr(files, verb)

    def fail(path: str, *args: Any, create: bool = False, **settings: Any) -> Any:
        if create:
            return real(path, *args, create=create, **settings)
        raise DiskError("by plan")

    monkeypatch.setattr(files, verb, fail)
    for _ in range(5):
        with pytest.raises(DiskError, match="by plan"):
            take(pool, 1)
    monkeypatch.undo()
    assert files.list("wal") == ([] if verb != "sync_directory" else ["00000000000000000001.wal"])
    take(pool, 1)
    assert list_segments(files, "wal") == [1]


def _churn(files: CrashableFileSystem) -> None:
    """Segments 1 to 5 come and go through one or two files."""
    pool = SegmentPool(files, "wal", SIZE)
    for segment in range(1, 6):
        file = pool.take(HEADER._replace(segment=segment, salt=segment))
        file.write_at(HEADER_SIZE, frame(put(segment, salt=segment), salt=segment))
        file.sync(metadata=False)
        file.close()
        if segment > 1:
            pool.recycle(segment - 1)
        pool.prepare()


@pytest.mark.parametrize("halfway", [False, True])
def test_at_every_crash_point_each_named_segment_is_its_own(halfway: bool) -> None:
    clean = disk()
    _churn(clean)
    for operation in range(2, clean.operations + 1):
        files = disk()
        files.crash_at, files.crash_halfway = operation, halfway
        with pytest.raises(CrashError):
            _churn(files)
        for seed in range(6):
            after = files.crash(random.Random(seed)) if seed else files.kill()
            for segment in list_segments(after, "wal"):
                scan = scan_segment(after, "wal", segment)
                assert scan.header.segment == segment
                assert set(seqs(scan)) <= {segment}
            pool = SegmentPool(after, "wal", SIZE)
            take(pool, 9)
            assert pool.spares <= SPARES_KEPT


@pytest.mark.parametrize("halfway", [False, True])
def test_a_second_crash_right_after_the_first_finds_each_segment_its_own(halfway: bool) -> None:
    clean = disk()
    _churn(clean)
    for operation in range(2, clean.operations + 1):
        files = disk()
        files.crash_at, files.crash_halfway = operation, halfway
        with pytest.raises(CrashError):
            _churn(files)
        for step in range(1, 8):
            second = files.kill()
            second.crash_at, second.crash_halfway = step, halfway
            with suppress(CrashError):
                take(SegmentPool(second, "wal", SIZE), 9)
            for seed in range(6):
                after = second.crash(random.Random(seed))
                for segment in list_segments(after, "wal"):
                    assert scan_segment(after, "wal", segment).header.segment == segment


def test_the_pool_works_on_the_real_disk_with_direct_io(tmp_path: Path) -> None:
    files = OsFileSystem()
    pool = SegmentPool(files, str(tmp_path), SIZE, direct=True)
    pool.prepare()
    file = pool.take(HEADER._replace(segment=1, alignment=4096))
    file.write_at(HEADER_SIZE, frame(put(1), alignment=4096))
    file.sync(metadata=False)
    assert seqs(scan_segment(files, str(tmp_path), 1)) == [1]
    file.close()
    pool.recycle(1)
    assert files.list(str(tmp_path)) == ["spare-3"]


def test_what_segments_have_beyond_their_length_is_known_until_they_are_gone() -> None:
    files = disk()
    pool = SegmentPool(files, "wal", SIZE)
    for segment, size in ((1, SIZE), (2, SIZE + 700), (3, SIZE + 50)):
        take(pool, segment)
        file = files.open(segment_path("wal", segment))
        file.write_at(size - 1, b"x")
        file.close()
        if size > SIZE:
            pool.grew(segment, size)
    for known in (pool, SegmentPool(files, "wal", SIZE)):
        assert (known.beyond(1, 4), known.beyond(3, 4), known.beyond(1, 3)) == (750, 50, 700)
    pool.recycle(2)
    assert pool.beyond(1, 4) == 50
