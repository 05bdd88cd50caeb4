"""The local disk as a port: what the WAL, the lock and the disk tier need from files.

Implementations: ``storage/local/os_files.py`` (the real one) and
``testing/files.py`` (a disk that forgets what was not synced).
Paths are strings; directories are joined with ``/``. All methods raise
:class:`~seerdb.errors.DiskError` (or ``DiskFullError``) with the OS error as cause.
"""

from __future__ import annotations

from contextlib import closing
from mmap import mmap
from typing import Protocol


class File(Protocol):
    """An open file. Writes to disjoint ranges from several threads are safe."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of ``data`` at ``offset``, growing the file when needed.

        Durable: not before :meth:`sync` returns.
        """

    def map(self) -> mmap | None:
        """The bytes of the file, as long as it is now, to be written in place; ``None`` where that
        cannot be done. Good until the file is truncated or closed.

        Such a write costs no system call, which is most of the time of a small one. Like
        :meth:`write_at` it is safe from the death of the process at once, and durable after
        :meth:`sync`, which is slower after such writes: for those that no sync follows. Requires:
        the room was allocated or reserved, for where a page has none on disk, the kernel ends the
        process instead of failing a call.
        """

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only at the end of the file."""

    def size(self) -> int:
        """Length in bytes."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes. Durable after ``sync(metadata=True)``."""

    def allocate(self, size: int) -> None:
        """Make the first ``size`` bytes exist as written zeros, so that overwriting them
        needs no new blocks. Bytes already there are kept.

        Done in pieces that the disk takes one by one, for the sake of who syncs meanwhile.
        """

    def reserve(self, size: int) -> None:
        """Make sure that the first ``size`` bytes have room; unwritten ones read as zeros.

        At once, unlike :meth:`allocate`, but the first sync after writing such a block costs
        more.
        """

    def sync(self, *, metadata: bool) -> None:
        """Force what was written to the disk: fdatasync, or fsync when ``metadata``.

        A failure says nothing about what reached the disk, and must not be retried on
        this file.
        """

    def close(self) -> None:
        """Release the descriptor. Idempotent. Does not sync."""


class FileLock(Protocol):
    """An exclusive lock held by this process until released or until it dies."""

    def release(self) -> None:
        """Give the lock up. Idempotent."""


class FileSystem(Protocol):
    """A local file system. Thread-safe."""

    def open(self, path: str, *, create: bool = False, direct: bool = False) -> File:
        """Open for reading and writing. ``create``: the file must not exist yet.

        ``direct``: bypass the page cache (O_DIRECT) where the platform can; offsets and
        lengths of writes must then be multiples of 4096.
        """

    def open_read(self, path: str) -> File:
        """Open for reading only; writing methods raise ``DiskError``."""

    def absolute(self, path: str) -> str:
        """A name for ``path`` that means the same whatever directory is current later."""

    def exists(self, path: str) -> bool:
        """Whether a file or directory is at ``path``."""

    def list(self, directory: str) -> list[str]:
        """Names (not paths) in ``directory``, sorted."""

    def make_directory(self, path: str) -> None:
        """Create ``path`` and its parents; durable when it returns. No error if present."""

    def rename(self, source: str, target: str) -> None:
        """Atomically give ``source`` the name ``target``, replacing it.

        Durable: after :meth:`sync_directory` of the directory.
        """

    def remove(self, path: str) -> None:
        """Remove a file. Durable after :meth:`sync_directory`. No error if absent."""

    def sync_directory(self, path: str) -> None:
        """Make creations, renames and removals inside ``path`` durable."""

    def lock(self, path: str) -> FileLock:
        """Take the exclusive lock at ``path`` at once, creating the file.

        Raises: ``LockedError`` when another holder lives.
        """

    def free_bytes(self, path: str) -> int:
        """Bytes an ordinary user may still write where ``path`` is."""


def size_of(files: FileSystem, path: str) -> int:
    """The length of a file. Raises: ``DiskError``."""
    with closing(files.open_read(path)) as file:
        return file.size()


def read_whole(files: FileSystem, path: str) -> bytes:
    """All bytes of a file. Raises: ``DiskError``."""
    with closing(files.open_read(path)) as file:
        return file.read_at(0, file.size())
