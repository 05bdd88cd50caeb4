"""A directory as a bucket: the default store, with atomic creation and real durability.

Objects are files of the same name below the directory. A write goes to ``.incoming/``
(where :meth:`LocalObjectStore.list` does not look), is synced, and only then gets its name:
by ``rename`` for put, by ``link`` for put-if-absent, which the file system refuses when the
name is taken. Then the directory that holds the name is synced. A crash in between leaves
a file in ``.incoming/`` and nothing else; the first write of a later process sweeps it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crc32c import crc32c

from seerdb.errors import (
    AlreadyExistsError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    TruncatedError,
    UnavailableError,
)
from seerdb.storage.object_store.base import Checksum, DeletionDeniedError, ObjectInfo
from seerdb.storage.object_store.past_cache import write_past_cache
from seerdb.storage.pieces import Body, Piece, Pieces, pieces_of

INCOMING = ".incoming"
ABANDONED_SECONDS = 24 * 3600.0
"""A file in ``.incoming/`` this much older than a new one belongs to a dead writer."""

_CHUNK = 1 << 20
_LARGE = 1 << 20
"""Bytes of an object that is worth a way of its own past the page cache."""
_AT_ONCE = 128 << 10
"""Bytes that are written by one call. For more, Linux caches them in larger stretches of free
memory, and such the host of a virtual machine has often taken back: a merge that writes 240 MiB
spent 0.55 to 0.73 s in the kernel by 1 MiB, and spends 0.28 to 0.32 s so."""
_PIECES_AT_ONCE = 512
"""The system takes 1024."""

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full (quota)",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
}
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""How the file system says that no object has the name."""
_NO_FILE = {errno.ENXIO, errno.ESPIPE}
"""What a socket answers to opening, and a pipe to reading."""
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class LocalObjectStore:
    """The objects below ``directory``, which is created by the first write.

    Thread-safe, and safe against other processes on the same directory. Holds no
    descriptors between calls. Deletions are not synced: after a power loss a deleted object
    may be back, which its collector finds again.
    """

    def __init__(self, directory: str) -> None:
        self._root = Path(directory).absolute()
        _refuse_file(self._root)
        self._swept = False

    def __repr__(self) -> str:
        return f"LocalObjectStore({str(self._root)!r})"

    def get(self, name: str) -> bytes:
        return self._load(name, 0, None)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._load(name, offset, length)

    def checksum(self, name: str) -> Checksum:
        with self._opened(name) as descriptor:
            size = _size(descriptor, name)
            checksum = _checksum(descriptor)
        if checksum.size != size:
            raise TruncatedError(
                "the object ends early", name=name, offset=0, expected=size, found=checksum.size
            )
        return checksum

    def put(self, name: str, data: Body) -> None:
        self._write("put", name, data, os.replace)

    def put_if_absent(self, name: str, data: Body) -> None:
        self._write("create", name, data, self._link)

    def list(self, prefix: str) -> list[ObjectInfo]:
        with self._translated("list", prefix):
            return sorted(self._walk(prefix), key=lambda info: info.name)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            with self._translated("delete", name), suppress(*_ABSENT):
                Path(self._path(name)).unlink()

    def close(self) -> None:
        """Nothing is held between calls."""

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _load(self, name: str, offset: int, length: int | None) -> bytes:
        """``length`` bytes from ``offset``, or the whole object."""
        with self._opened(name) as descriptor:
            wanted = there = length or 0
            if length is None or length > _CHUNK:
                size = _size(descriptor, name)
                wanted = size if length is None else length
                # No more memory than there are bytes, whatever is asked for.
                there = min(wanted, max(0, size - offset))
            data = _read(descriptor, offset, there)
        if len(data) != wanted:
            raise TruncatedError(
                "the object ends early", name=name, offset=offset, expected=wanted, found=len(data)
            )
        return data

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """A descriptor to read the object by."""
        try:
            # A pipe that nobody writes to would be waited for.
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NONBLOCK)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
        except _ABSENT as error:
            raise NotFoundError(f"{self}: no object {name}") from error
        except OSError as error:
            if error.errno in _NO_FILE:
                raise _no_file(name) from error
            raise self._unavailable("read", name, error) from error

    def _write(self, verb: str, name: str, data: Body, publish: Callable[[str, str], None]) -> None:
        target = self._path(name)
        directory = Path(target).parent
        with self._translated(verb, name):
            _make_directory(directory)
            staged = self._stage(data)
            try:
                publish(staged, target)
            except FileExistsError as error:
                # Another's object may have its name but not yet a synced directory:
                # whoever acts on "it exists" must be able to rely on it.
                _sync_directory(directory)
                raise AlreadyExistsError(f"{self}: object {name} already exists") from error
            finally:
                Path(staged).unlink(missing_ok=True)
            _sync_directory(directory)

    def _link(self, staged: str, target: str) -> None:
        try:
            os.link(staged, target)
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise InvalidRequestError(
                    f"{self}: the file system has no hard links, which creating an object only "
                    "if it is absent needs; use another file system or an object store"
                ) from error
            raise

    def _stage(self, data: Body) -> str:
        """Write and sync ``data`` under a name nobody else uses; returns the path."""
        incoming = self._root / INCOMING
        _make_directory(incoming)
        staged = f"{incoming}/{os.urandom(12).hex()}"
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _write(descriptor, data)
            os.fsync(descriptor)
            now = os.fstat(descriptor).st_mtime
        except BaseException:
            Path(staged).unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        if not self._swept:
            self._swept = True
            _sweep(incoming, now - ABANDONED_SECONDS)
        return staged

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        directories = [prefix[: prefix.rfind("/") + 1]]
        while directories:
            above = directories.pop()
            with suppress(*_ABSENT), os.scandir(self._path(above)) as entries:
                for entry in entries:
                    name = above + entry.name
                    if not name.startswith(prefix) or name == INCOMING:
                        continue
                    if entry.is_dir():
                        directories.append(f"{name}/")
                        continue
                    with suppress(FileNotFoundError):  # deleted while we look
                        status = entry.stat()
                        yield ObjectInfo(name, status.st_size, status.st_mtime)

    @contextmanager
    def _translated(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unavailable(verb, name, error) from error

    def _unavailable(self, verb: str, name: str, error: OSError) -> UnavailableError:
        reason = _REASONS.get(error.errno or 0, "the file system failed")
        denied = verb == "delete" and isinstance(error, PermissionError)
        kind = DeletionDeniedError if denied else UnavailableError
        return kind(f"{self}: cannot {verb} {name}: {reason} ({error})")


def _size(descriptor: int, name: str) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise _no_file(name)
    return status.st_size


def _no_file(name: str) -> CorruptionError:
    return CorruptionError(
        "what has its name is no file but a pipe, a socket or a device",
        name=name,
        hint="remove it; restore the object from a backup",
    )


def _write(descriptor: int, data: Body) -> None:
    """All of it, to a new file."""
    pieces = pieces_of(data)
    is_cold = isinstance(data, Pieces) and data.cold and len(data) >= _LARGE
    if is_cold and write_past_cache(descriptor, pieces):
        return
    for portion in _portions(pieces):
        written = os.writev(descriptor, portion)
        if written < sum(map(len, portion)):
            rest = memoryview(b"".join(portion))[written:]
            while rest:
                rest = rest[os.write(descriptor, rest) :]


def _portions(pieces: Iterable[Piece]) -> Iterator[list[memoryview]]:
    """All bytes, in order, as much together as one call is to write."""
    portion: list[memoryview] = []
    room = _AT_ONCE
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            portion.append(rest[:room])
            rest, room = rest[room:], max(0, room - len(rest))
            if not room or len(portion) == _PIECES_AT_ONCE:
                yield portion
                portion, room = [], _AT_ONCE
    if portion:
        yield portion


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """Up to ``length`` bytes; fewer only at the end of the file."""
    data = os.pread(descriptor, length, offset)
    if len(data) == length:
        return data
    parts = [data]
    while data:  # one call returns at most 2 GiB
        offset += len(data)
        length -= len(data)
        data = os.pread(descriptor, length, offset)
        parts.append(data)
    return b"".join(parts)


def _checksum(descriptor: int) -> Checksum:
    """Of all there is, through a buffer that stays in the processor's cache."""
    buffer = memoryview(bytearray(_CHUNK))
    size = checksum = 0
    while count := os.preadv(descriptor, [buffer], size):
        checksum = crc32c(buffer[:count], checksum)
        size += count
    return Checksum(size, checksum)


def _refuse_file(directory: Path) -> None:
    """Raise ``InvalidRequestError`` where ``directory`` is something else, or is below that."""
    for each in (directory, *directory.parents):
        if os.path.isdir(each):  # noqa: PTH112 - where it cannot be told, requests will say so
            return
        if os.path.exists(each):  # noqa: PTH110
            raise InvalidRequestError(
                f"a store must be a URL or a directory, not {str(directory)!r}: {str(each)!r} is "
                "no directory"
            )


def _make_directory(directory: Path) -> None:
    """Create ``directory`` and its parents durably; no error if present."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(incoming: Path, before: float) -> None:
    """Remove what writers that died before ``before`` (file system time) left behind."""
    with os.scandir(incoming) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # its writer, or another sweeper, was faster
                if entry.stat().st_mtime < before:
                    Path(entry.path).unlink()
