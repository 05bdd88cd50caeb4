"""What every FileSystem promises, asked of the real disk and of the simulated one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from seerdb.errors import DiskError, LockedError
from seerdb.storage.local.files import File, FileSystem
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.testing.files import CrashableFileSystem


@pytest.fixture(params=["os", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FileSystem, str]:
    """A file system and an existing, empty directory in it."""
    if request.param == "os":
        return OsFileSystem(), str(tmp_path)
    files = CrashableFileSystem()
    files.make_directory("/data")
    return files, "/data"


@pytest.fixture
def files(place: tuple[FileSystem, str]) -> FileSystem:
    return place[0]


@pytest.fixture
def home(place: tuple[FileSystem, str]) -> str:
    return place[1]


def test_what_was_written_is_read(files: FileSystem, home: str) -> None:
    file = files.open(f"{home}/a", create=True)
    file.write_at(0, b"hello world")
    file.write_at(6, b"there")
    assert file.read_at(0, 100) == b"hello there"
    assert file.read_at(6, 3) == b"the"
    assert file.read_at(11, 5) == b""
    assert file.read_at(50, 5) == b""
    assert file.size() == 11
    file.close()
    assert files.open_read(f"{home}/a").read_at(0, 11) == b"hello there"


def test_a_write_past_the_end_leaves_zeros_between(files: FileSystem, home: str) -> None:
    file = files.open(f"{home}/a", create=True)
    file.write_at(5, b"x")
    assert file.read_at(0, 10) == b"\0\0\0\0\0x"


def write_in_place(file: File, offset: int, data: bytes) -> None:
    """Where that can be done."""
    mapping = file.map()
    if mapping is None:
        file.write_at(offset, data)
    else:
        mapping[offset : offset + len(data)] = data


def test_writes_in_place_and_ordinary_ones_mix(files: FileSystem, home: str) -> None:
    file = files.open(f"{home}/a", create=True)
    assert file.map() is None, "there is nothing yet"
    file.allocate(8192)
    write_in_place(file, 4090, b"across pages")
    file.write_at(4095, b"SS")
    file.write_at(8190, b"past the end")
    write_in_place(file, 0, b"first")
    file.sync(metadata=False)
    assert file.read_at(0, 5) == b"first"
    assert file.read_at(4090, 12) == b"acrosSSpages"
    assert files.open_read(f"{home}/a").read_at(8190, 100) == b"past the end"
    file.truncate(4)
    write_in_place(file, 2, b"xy")
    assert file.read_at(0, 9) == b"fixy"


def test_writes_in_place_are_refused_like_others(files: FileSystem, home: str) -> None:
    file = files.open(f"{home}/a", create=True)
    file.allocate(4096)
    reader = files.open_read(f"{home}/a")
    with pytest.raises(DiskError):
        write_in_place(reader, 0, b"x")
    write_in_place(file, 0, b"x")
    mapping = file.map()
    file.close()
    with pytest.raises(DiskError):
        write_in_place(file, 0, b"y")
    if mapping is not None:
        with pytest.raises(ValueError, match="closed"):
            mapping[0:1] = b"z"
    assert reader.read_at(0, 2) == b"x\0"


def test_syncs_of_both_kinds_succeed(files: FileSystem, home: str) -> None:
    file = files.open(f"{home}/a", create=True)
    file.write_at(0, b"x")
    file.sync(metadata=False)
    file.sync(metadata=True)
    files.sync_directory(home)
    assert file.read_at(0, 1) == b"x"


def test_truncate_cuts_and_extends(files: FileSystem, home: str) -> None:
    file = files.open(f"{home}/a", create=True)
    file.write_at(0, b"abcdef")
    file.truncate(2)
    file.truncate(4)
    assert file.read_at(0, 10) == b"ab\0\0"


def test_allocate_adds_zeros_and_keeps_what_is_there(files: FileSystem, home: str) -> None:
    file = files.open(f"{home}/a", create=True)
    file.write_at(0, b"abc")
    file.allocate(3_000_000)
    assert file.size() == 3_000_000
    assert file.read_at(0, 5) == b"abc\0\0"
    assert file.read_at(0, 3_000_000).count(0) == 2_999_997
    file.allocate(10)
    assert file.size() == 3_000_000


def test_creating_what_exists_fails_and_changes_nothing(files: FileSystem, home: str) -> None:
    files.open(f"{home}/a", create=True).write_at(0, b"x")
    with pytest.raises(DiskError) as caught:
        files.open(f"{home}/a", create=True)
    assert f"{home}/a" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert files.open_read(f"{home}/a").read_at(0, 5) == b"x"


def test_opening_what_is_not_there_fails(files: FileSystem, home: str) -> None:
    for attempt in (files.open, files.open_read, files.list, files.free_bytes):
        with pytest.raises(DiskError) as caught:
            attempt(f"{home}/missing/a")
        assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(DiskError):
        files.open(f"{home}/a")
    with pytest.raises(DiskError):
        files.sync_directory(f"{home}/missing")


def test_a_file_opened_for_reading_refuses_to_write(files: FileSystem, home: str) -> None:
    files.open(f"{home}/a", create=True).write_at(0, b"abc")
    file = files.open_read(f"{home}/a")
    attempts: list[Callable[[], object]] = [
        lambda: file.write_at(0, b"x"),
        lambda: file.truncate(0),
        lambda: file.allocate(10),
    ]
    for attempt in attempts:
        with pytest.raises(DiskError):
            attempt()
    assert file.read_at(0, 5) == b"abc"


def test_a_closed_file_refuses_everything(files: FileSystem, home: str) -> None:
    file = files.open(f"{home}/a", create=True)
    file.close()
    file.close()
    attempts: list[Callable[[], object]] = [
        lambda: file.write_at(0, b"x"),
        lambda: file.read_at(0, 1),
        lambda: file.sync(metadata=False),
        lambda: file.sync(metadata=True),
        file.size,
    ]
    for attempt in attempts:
        with pytest.raises(DiskError):
            attempt()


def test_an_open_file_survives_rename_and_removal(files: FileSystem, home: str) -> None:
    file = files.open(f"{home}/a", create=True)
    file.write_at(0, b"one")
    files.rename(f"{home}/a", f"{home}/b")
    file.write_at(3, b"two")
    assert files.open_read(f"{home}/b").read_at(0, 9) == b"onetwo"
    files.remove(f"{home}/b")
    assert file.read_at(0, 9) == b"onetwo"
    assert not files.exists(f"{home}/b")


def test_rename_replaces_the_target(files: FileSystem, home: str) -> None:
    files.open(f"{home}/a", create=True).write_at(0, b"new")
    files.open(f"{home}/b", create=True).write_at(0, b"former")
    files.rename(f"{home}/a", f"{home}/b")
    assert files.list(home) == ["b"]
    assert files.open_read(f"{home}/b").read_at(0, 9) == b"new"


def test_renaming_a_file_to_itself_changes_nothing(files: FileSystem, home: str) -> None:
    files.open(f"{home}/a", create=True).write_at(0, b"x")
    files.rename(f"{home}/a", f"{home}/a")
    assert files.open_read(f"{home}/a").read_at(0, 5) == b"x"


def test_renaming_what_is_not_there_fails(files: FileSystem, home: str) -> None:
    with pytest.raises(DiskError):
        files.rename(f"{home}/a", f"{home}/b")


def test_removing_what_is_not_there_is_no_error(files: FileSystem, home: str) -> None:
    files.remove(f"{home}/a")


def test_a_directory_is_not_removed_as_a_file(files: FileSystem, home: str) -> None:
    files.make_directory(f"{home}/d")
    with pytest.raises(DiskError):
        files.remove(f"{home}/d")
    assert files.exists(f"{home}/d")


def test_listing_is_sorted_and_holds_files_and_directories(files: FileSystem, home: str) -> None:
    assert files.list(home) == []
    files.make_directory(f"{home}/m/deep")
    for name in ("b", "a", "z"):
        files.open(f"{home}/{name}", create=True)
    assert files.list(home) == ["a", "b", "m", "z"]
    assert files.list(f"{home}/m") == ["deep"]


def test_make_directory_makes_parents_and_may_be_repeated(files: FileSystem, home: str) -> None:
    for _ in range(2):
        files.make_directory(f"{home}/x/y/z")
    assert files.exists(f"{home}/x/y/z")
    assert files.exists(f"{home}/x")
    assert not files.exists(f"{home}/y")


def test_a_file_in_the_way_of_a_directory_is_an_error(files: FileSystem, home: str) -> None:
    files.open(f"{home}/a", create=True)
    with pytest.raises(DiskError):
        files.make_directory(f"{home}/a")


def test_the_lock_excludes_others_until_released(files: FileSystem, home: str) -> None:
    lock = files.lock(f"{home}/LOCK")
    with pytest.raises(LockedError, match=r"locked by process \d+"):
        files.lock(f"{home}/LOCK")
    assert files.exists(f"{home}/LOCK")
    lock.release()
    again = files.lock(f"{home}/LOCK")
    lock.release()
    with pytest.raises(LockedError):
        files.lock(f"{home}/LOCK")
    again.release()


def test_free_bytes_are_counted(files: FileSystem, home: str) -> None:
    assert files.free_bytes(home) > 0


def test_direct_files_take_aligned_writes_and_any_reads(files: FileSystem, home: str) -> None:
    files.open(f"{home}/a", create=True).allocate(3 << 20)
    file = files.open(f"{home}/a", direct=True)
    block = bytes(range(256)) * 16
    file.write_at(4096, block * 300)
    file.write_at(0, block)
    file.sync(metadata=False)
    assert file.read_at(100, 5000) == (block * 2)[100:5100]
    assert file.read_at(4096, 300 * 4096) == block * 300
    assert file.read_at((3 << 20) - 10, 100) == bytes(10)
    assert file.read_at(3 << 20, 100) == b""
    assert file.size() == 3 << 20
    assert files.open_read(f"{home}/a").read_at(0, 301 * 4096) == block * 301


def test_threads_write_disjoint_ranges(files: FileSystem, home: str) -> None:
    for direct in (False, True):
        path = f"{home}/{direct}"
        file = files.open(path, create=True, direct=direct)
        file.allocate(32 * 4096)

        def fill(number: int, file: File = file) -> None:
            for block in range(number, 32, 4):
                file.write_at(block * 4096, bytes([number + 1]) * 4096)

        threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = b"".join(bytes([block % 4 + 1]) * 4096 for block in range(32))
        assert file.read_at(0, 32 * 4096) == expected
