"""The local disk: the only module that opens, writes, syncs, renames or locks real files.

Every ``OSError`` becomes a ``DiskError`` (``DiskFullError`` when the disk or the quota is full)
that names the operation and the path, with the ``OSError`` as cause.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seerdb.errors import DiskError, DiskFullError, LockedError
from seerdb.forked import keep_from_children
from seerdb.storage.local.files import File, FileLock

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CHUNK = 1 << 20
"""Bytes written by one call; a multiple of 4096. For more, Linux caches them in larger stretches of
free memory, and such the host of a virtual machine has often taken back: to allocate 64 MiB by
4 MiB took 160 ms of a processor, and takes 20 ms so."""
_PIECE = 4 << 20
"""Bytes that are allocated between two syncs."""
_DIRECT_BLOCK = 4096
_STANDARD_STREAMS = range(3)
_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700


class OsFileSystem:
    """Files of the machine this process runs on. Thread-safe, without state of its own."""

    def open(self, path: str, *, create: bool = False, direct: bool = False) -> File:
        """See ``FileSystem.open``. Where O_DIRECT is not to be had, the page cache is used."""
        with _translated("open", path):
            flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
            descriptor = os.open(path, flags, _FILE_MODE)
        if direct and _bypass_page_cache(descriptor):
            return _DirectFile(descriptor, path)
        return _OsFile(descriptor, path)

    def open_read(self, path: str) -> File:
        """See ``FileSystem.open_read``."""
        with _translated("open", path):
            # A pipe that nobody writes to would be waited for; to read it fails.
            return _OsFile(os.open(path, os.O_RDONLY | os.O_NONBLOCK), path)

    def absolute(self, path: str) -> str:
        """See ``FileSystem.absolute``."""
        with _translated("look at", path):
            return str(Path(path).absolute())

    def exists(self, path: str) -> bool:
        """See ``FileSystem.exists``."""
        with _translated("look at", path):
            return Path(path).exists()

    def list(self, directory: str) -> list[str]:
        """See ``FileSystem.list``."""
        with _translated("list", directory), os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries)

    def make_directory(self, path: str) -> None:
        """See ``FileSystem.make_directory``."""
        directory = Path(path)
        with _translated("create directory", path):
            missing = [each for each in (directory, *directory.parents) if not each.is_dir()]
            for each in reversed(missing):
                each.mkdir(_DIRECTORY_MODE, exist_ok=True)
                _sync_directory(each.parent)
            # It may be there and yet not be durable: another process may have just made it.
            _sync_directory(directory.parent)

    def rename(self, source: str, target: str) -> None:
        """See ``FileSystem.rename``."""
        with _translated(f"rename to {target}", source):
            Path(source).replace(target)

    def remove(self, path: str) -> None:
        """See ``FileSystem.remove``."""
        with _translated("remove", path):
            Path(path).unlink(missing_ok=True)

    def sync_directory(self, path: str) -> None:
        """See ``FileSystem.sync_directory``."""
        with _translated("sync directory", path):
            _sync_directory(Path(path))

    def lock(self, path: str) -> FileLock:
        """See ``FileSystem.lock``. The file holds the process id of the owner.

        A forked child lets go of it, or it would outlive its parent with it.
        """
        with _translated("lock", path):
            _occupy_standard_streams()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, _FILE_MODE)
            try:
                _lock(descriptor, path)
            except BaseException:
                os.close(descriptor)
                raise
        return _OsFileLock(descriptor)

    def free_bytes(self, path: str) -> int:
        """See ``FileSystem.free_bytes``."""
        with _translated("measure", path):
            usage = os.statvfs(path)
            return usage.f_bavail * usage.f_frsize


class _OsFile:
    """An open file. After ``close`` the descriptor is -1, which is refused with EBADF."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._map: mmap.mmap | None = None

    def write_at(self, offset: int, data: bytes) -> None:
        # Without the context manager: this is called for every commit.
        try:
            size = len(data)
            if size > _CHUNK or os.pwrite(self._descriptor, data, offset) != size:
                _write_all(self._descriptor, memoryview(data), offset)
        except OSError as error:
            raise _disk_error("write", self._path, error) from error

    def map(self) -> mmap.mmap | None:
        if self._map is None and (size := self.size()):
            with suppress(OSError):  # some file systems have none, nor has who has too many
                self._map = mmap.mmap(self._descriptor, size)
        return self._map

    def _unmap(self) -> None:
        mapping, self._map = self._map, None
        if mapping is not None:
            mapping.close()

    def read_at(self, offset: int, length: int) -> bytes:
        # Without the context manager: this is called for every block of the disk tier.
        try:
            data = os.pread(self._descriptor, length, offset)
            if len(data) == length:
                return data
            return data + _read_all(self._descriptor, offset + len(data), length - len(data))
        except OSError as error:
            raise _disk_error("read", self._path, error) from error

    def size(self) -> int:
        with _translated("look at", self._path):
            return os.fstat(self._descriptor).st_size

    def truncate(self, size: int) -> None:
        self._unmap()
        with _translated("truncate", self._path):
            os.ftruncate(self._descriptor, size)

    def allocate(self, size: int) -> None:
        with _translated("allocate", self._path):
            start = os.fstat(self._descriptor).st_size
            if start >= size:
                return
            # Fails at once where there is no room, and keeps the file in one piece; but such
            # blocks count as unwritten, and only real zeros spare the first sync the change.
            os.posix_fallocate(self._descriptor, 0, size)
            with mmap.mmap(-1, _PIECE) as zeros, memoryview(zeros) as view:
                for offset in range(start, size, _PIECE):
                    with view[: min(_PIECE, size - offset)] as piece:
                        _write_all(self._descriptor, piece, offset)
                    # A sync of another file waits behind what the disk has been given at once.
                    os.fdatasync(self._descriptor)

    def reserve(self, size: int) -> None:
        with _translated("reserve", self._path):
            os.posix_fallocate(self._descriptor, 0, size)

    def sync(self, *, metadata: bool) -> None:
        try:
            if self._descriptor < 0:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if metadata:
                os.fsync(self._descriptor)
            else:
                os.fdatasync(self._descriptor)
        except OSError as error:
            raise _disk_error("sync", self._path, error) from error

    def close(self) -> None:
        self._unmap()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with _translated("close", self._path):
                os.close(descriptor)


class _DirectFile(_OsFile):
    """An open file past the page cache; data goes through a buffer aligned to pages."""

    def __init__(self, descriptor: int, path: str) -> None:
        super().__init__(descriptor, path)
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._buffer = mmap.mmap(-1, _CHUNK)

    def write_at(self, offset: int, data: bytes) -> None:
        with _translated("write", self._path), self._lock, memoryview(self._buffer) as view:
            for start in range(0, len(data), _CHUNK):
                piece = data[start : start + _CHUNK]
                view[: len(piece)] = piece
                with view[: len(piece)] as block:
                    _write_all(self._descriptor, block, offset + start)

    def map(self) -> None:
        return None

    def read_at(self, offset: int, length: int) -> bytes:
        first = offset - offset % _DIRECT_BLOCK
        pieces = []
        with _translated("read", self._path), self._lock, memoryview(self._buffer) as view:
            for start in range(first, offset + length, _CHUNK):
                count = os.preadv(self._descriptor, [view], start)
                pieces.append(view[:count].tobytes())
                if count < _CHUNK:
                    break
        return b"".join(pieces)[offset - first : offset - first + length]


class _OsFileLock:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        keep_from_children(self, _OsFileLock.release)  # closes a copy: the parent has it still

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _occupy_standard_streams() -> None:
    """Have those that this process has not go nowhere.

    Else what is opened next, as the log, gets their numbers, and an interpreter or a library that
    crashes writes over it what it has to say.
    """
    for number in _STANDARD_STREAMS:
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            if descriptor in _STANDARD_STREAMS:
                os.set_inheritable(descriptor, True)  # noqa: FBT003 - it has no name
            else:  # another thread was faster
                os.close(descriptor)


def _bypass_page_cache(descriptor: int) -> bool:
    try:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError:
        return False
    return True


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written : written + _CHUNK], offset + written)


def _read_all(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    if len(data) in (0, length):
        return data
    pieces = [data]
    have = len(data)
    while have < length and (data := os.pread(descriptor, length - have, offset + have)):
        pieces.append(data)
        have += len(data)
    return b"".join(pieces)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        what_to_do = "stop it or use another directory"
        if owner == str(os.getpid()):
            what_to_do = "that is this one: close what has it open"
        raise LockedError(
            f"{path} is locked by process {owner or 'unknown'}; {what_to_do}"
        ) from error
    # In this order a full disk is no obstacle: the old file's block is written over.
    owner_line = b"%d\n" % os.getpid()
    os.pwrite(descriptor, owner_line, 0)
    os.ftruncate(descriptor, len(owner_line))


@contextmanager
def _translated(action: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _disk_error(action, path, error) from error


def _disk_error(action: str, path: str, error: OSError) -> DiskError:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return DiskFullError(f"cannot {action} {path}: {reason}; free some space")
    return DiskError(f"cannot {action} {path}: {reason}")
