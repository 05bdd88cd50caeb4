"""What only the real file system can show: errno, processes, O_DIRECT."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from seerdb.errors import DiskError, DiskFullError, LockedError
from seerdb.storage.local.os_files import OsFileSystem

FILES = OsFileSystem()


def test_a_full_disk_has_an_error_of_its_own() -> None:
    file = FILES.open("/dev/full")
    with pytest.raises(DiskFullError) as caught:
        file.write_at(0, b"x")
    assert "/dev/full" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


def test_no_call_writes_more_than_a_mebibyte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = os.pwrite, []

    def noted(descriptor: int, data: bytes | memoryview, offset: int) -> int:
        written.append(memoryview(data).nbytes)
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", noted)
    file = FILES.open(str(tmp_path / "file"), create=True)
    data = os.urandom(5 << 19)
    file.write_at(0, data)
    file.allocate(9 << 20)
    assert file.read_at(0, 9 << 20) == data + bytes((9 << 20) - len(data))
    assert sum(written) == 9 << 20
    assert max(written) == 1 << 20
    file.close()


def test_a_sync_that_the_kernel_refuses_is_a_disk_error() -> None:
    reading, writing = os.pipe()
    try:
        file = FILES.open_read(f"/dev/fd/{reading}")
        with pytest.raises(DiskError, match="cannot sync /dev/fd"):
            file.sync(metadata=False)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.timeout(20)
def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with closing(FILES.open_read(f"{tmp_path}/pipe")) as file, pytest.raises(DiskError):
        file.read_at(0, 1)


def test_the_lock_names_the_process_that_holds_it(tmp_path: Path) -> None:
    path = str(tmp_path / "LOCK")
    program = (
        "import sys\n"
        "from seerdb.storage.local.os_files import OsFileSystem\n"
        "lock = OsFileSystem().lock(sys.argv[1])\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        with pytest.raises(LockedError, match=rf"process {owner.pid};"):
            FILES.lock(path)
        owner.kill()
        owner.wait()
    FILES.lock(path).release()


def test_an_owner_with_a_shorter_pid_leaves_no_old_digits(tmp_path: Path) -> None:
    path = tmp_path / "LOCK"
    path.write_text("123456789012345\n")
    FILES.lock(str(path)).release()
    assert path.read_text() == f"{os.getpid()}\n"


def test_new_files_and_directories_are_private(tmp_path: Path) -> None:
    FILES.make_directory(str(tmp_path / "d"))
    FILES.open(str(tmp_path / "d" / "f"), create=True)
    assert (tmp_path / "d").stat().st_mode & 0o077 == 0
    assert (tmp_path / "d" / "f").stat().st_mode & 0o077 == 0


def test_directories_are_made_durable_also_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync, home = list[Path](), os.fsync, tmp_path.resolve()

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    FILES.make_directory(str(home / "a" / "b"))
    assert set(synced) == {home, home / "a"}
    synced.clear()
    FILES.make_directory(str(home / "a" / "b"))
    assert synced == [home / "a"], "another process may have made it just now"


def test_allocated_space_is_really_there(tmp_path: Path) -> None:
    path = tmp_path / "f"
    FILES.open(str(path), create=True).allocate(1 << 20)
    assert path.stat().st_blocks * 512 >= 1 << 20


def test_space_is_allocated_in_pieces_that_the_disk_takes_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    file = FILES.open(str(path), create=True)
    really, waits = os.fdatasync, []

    def syncing(descriptor: int) -> None:
        waits.append(descriptor)
        really(descriptor)

    monkeypatch.setattr(os, "fdatasync", syncing)
    file.allocate(10 << 20)
    assert len(waits) == 3


def test_direct_writes_must_be_aligned_where_the_platform_has_them(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    file = FILES.open(path, create=True, direct=True)
    if type(file).__name__ != "_DirectFile":
        pytest.skip("this file system has no O_DIRECT")
    with pytest.raises(DiskError):
        file.write_at(0, b"x" * 100)
    file.write_at(0, b"x" * (3 << 20))
    assert file.size() == 3 << 20


def test_without_direct_io_the_page_cache_is_used() -> None:
    file = FILES.open("/dev/null", direct=True)
    assert type(file).__name__ == "_OsFile"
    file.write_at(0, b"any length")


def test_permission_errors_are_translated(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"")
    for path in (f"{file}/below", "/proc/self/mem/below"):
        with pytest.raises(DiskError):
            FILES.make_directory(path)
        with pytest.raises(DiskError):
            FILES.open(path, create=True)
        assert not FILES.exists(path)


def test_a_file_that_cannot_be_mapped_has_no_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that has none: all writes were refused, from the second on as a bug."""

    def refuse(descriptor: int, length: int) -> NoReturn:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    file = OsFileSystem().open(str(tmp_path / "file"), create=True)
    file.reserve(4096)
    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", refuse)
        assert file.map() is None
    assert file.map() is not None
    file.close()
