"""A disk in memory that forgets what was not synced and can be told to fail.

::

    files = CrashableFileSystem()
    …                                       # run the code under test
    files.kill()                            # the disk after the process died
    files.crash(random.Random(1))           # the disk after the power failed

``kill`` and ``crash`` return a new disk and leave this one as it is, so that many outcomes can
be drawn from one moment. After a power loss a file holds what was synced; of each write since
then, everything, nothing, or some of its 512-byte sectors. Of the creations, renames and
removals in a directory since its last sync, the first few have happened.

The switches for faults are those of :class:`~seerdb.testing.machine.Machine`.
"""

from __future__ import annotations

import copy
import errno
import os
import posixpath
import random
from functools import partial
from typing import NamedTuple

from seerdb.errors import LockedError
from seerdb.storage.local.files import File, FileLock
from seerdb.testing.disk import Content, Directory
from seerdb.testing.machine import Machine, disk_error

_DIRECT_BLOCK = 4096


class _Move(NamedTuple):
    """A file that was renamed into another directory, ``parent``, under ``name``."""

    parent: Directory
    name: str
    content: Content


class CrashableFileSystem(Machine):
    """A ``FileSystem`` in memory. Thread-safe."""

    def __init__(
        self, directories: dict[str, Directory] | None = None, moves: list[_Move] | None = None
    ) -> None:
        super().__init__()
        # Guarded by mutex:
        self._directories = directories or {root: Directory() for root in (".", "/")}
        self._moves = moves or []
        self._locked: set[str] = set()

    def kill(self) -> CrashableFileSystem:
        """The disk after the death of this process: all there, locks free, unsynced still
        unsynced."""
        with self.mutex:
            return CrashableFileSystem(*copy.deepcopy((self._directories, self._moves)))

    def crash(self, random: random.Random) -> CrashableFileSystem:
        """A disk as a power loss could leave it, drawn with ``random``."""
        with self.mutex:
            after, moves = copy.deepcopy((self._directories, self._moves))
        directories = [after[path] for path in sorted(after)]
        contents = {id(each): each for home in directories for each in home.contents()}
        for content in contents.values():
            content.lose_power(random)
        still_there = [move for move in moves if move.parent.holds(move.content)]
        for directory in directories:
            directory.lose_power(random)
        # A file moved to another directory may be found in either or both, never in neither.
        for parent, name, content in still_there:
            if not any(directory.holds(content) for directory in directories):
                parent.add_durable(name, content)
        return CrashableFileSystem(after)

    def open(self, path: str, *, create: bool = False, direct: bool = False) -> File:
        """See ``FileSystem.open``."""
        with self.mutex:
            if create:
                directory, name = self._place(path)
                if self.exists(path):
                    raise disk_error(errno.EEXIST, path)
                self.check_space(path)
                self.step(f"create {path}", lambda: directory.change({name: Content()}))
            return _MemoryFile(self, self._content(path), path, writable=True, direct=direct)

    def open_read(self, path: str) -> File:
        """See ``FileSystem.open_read``."""
        with self.mutex:
            return _MemoryFile(self, self._content(path), path, writable=False, direct=False)

    def absolute(self, path: str) -> str:
        """See ``FileSystem.absolute``: no directory is ever current."""
        return path

    def exists(self, path: str) -> bool:
        """See ``FileSystem.exists``."""
        with self.mutex:
            self.check_alive()
            normal = posixpath.normpath(path)
            parent = self._directories.get(posixpath.dirname(normal) or ".")
            return normal in self._directories or (
                parent is not None and posixpath.basename(normal) in parent.entries
            )

    def list(self, directory: str) -> list[str]:
        """See ``FileSystem.list``."""
        with self.mutex:
            names = set(self._directory(directory).entries)
            home = posixpath.normpath(directory)
            for path in self._directories:
                if path not in (".", "/") and (posixpath.dirname(path) or ".") == home:
                    names.add(posixpath.basename(path))
            return sorted(names)

    def make_directory(self, path: str) -> None:
        """See ``FileSystem.make_directory``."""
        with self.mutex:
            self.check_alive()
            missing = []
            current = posixpath.normpath(path)
            while current not in self._directories:
                missing.append(current)
                current = posixpath.dirname(current) or "."
            if not missing:
                return
            if posixpath.basename(missing[-1]) in self._directories[current].entries:
                raise disk_error(errno.EEXIST, path)
            self.check_space(path)
            made = {each: Directory() for each in missing}
            self.step(f"make directory {path}", lambda: self._directories.update(made))

    def rename(self, source: str, target: str) -> None:
        """See ``FileSystem.rename``."""
        with self.mutex:
            content = self._content(source)
            directory, old = self._place(source)
            other, new = self._place(target)

            def effect() -> None:
                if directory is other:
                    directory.change({old: None, new: content})
                else:
                    other.change({new: content})
                    directory.change({old: None})
                    self._moves.append(_Move(other, new, content))

            self.step(f"rename {source} {target}", effect)

    def remove(self, path: str) -> None:
        """See ``FileSystem.remove``."""
        with self.mutex:
            directory, name = self._place(path)
            if posixpath.normpath(path) in self._directories:
                raise disk_error(errno.EISDIR, path)
            if name in directory.entries:
                self.step(f"remove {path}", lambda: directory.change({name: None}))

    def sync_directory(self, path: str) -> None:
        """See ``FileSystem.sync_directory``."""
        with self.mutex:
            self.step(f"sync directory {path}", self._directory(path).sync)

    def lock(self, path: str) -> FileLock:
        """See ``FileSystem.lock``. The file is durable at once and counts as no operation."""
        with self.mutex:
            directory, name = self._place(path)
            if path in self._locked:
                raise LockedError(f"{path} is locked by process {os.getpid()}; stop it")
            directory.add_durable(name, Content(b"%d\n" % os.getpid()))
            self._locked.add(path)
            return _MemoryLock(self._locked, path)

    def free_bytes(self, path: str) -> int:
        """See ``FileSystem.free_bytes``."""
        with self.mutex:
            if not self.exists(path):
                raise disk_error(errno.ENOENT, path)
            return 0 if self.no_space else self.free_space

    def _directory(self, path: str) -> Directory:
        self.check_alive()
        directory = self._directories.get(posixpath.normpath(path))
        if directory is None:
            raise disk_error(errno.ENOENT, path)
        return directory

    def _place(self, path: str) -> tuple[Directory, str]:
        parent, name = posixpath.split(posixpath.normpath(path))
        return self._directory(parent or "."), name

    def _content(self, path: str) -> Content:
        directory, name = self._place(path)
        if name not in directory.entries:
            raise disk_error(errno.ENOENT, path)
        return directory.entries[name]


class _MemoryFile:
    def __init__(
        self, machine: Machine, content: Content, path: str, *, writable: bool, direct: bool
    ) -> None:
        self._machine = machine
        self._content = content
        self._path = path
        self._writable = writable
        self._direct = direct
        self._closed = False

    def write_at(self, offset: int, data: bytes) -> None:
        with self._machine.mutex:
            self._check_writable()
            if self._direct and (offset % _DIRECT_BLOCK or len(data) % _DIRECT_BLOCK):
                raise disk_error(errno.EINVAL, self._path)
            self._machine.check_space(self._path)
            self._machine.step(
                f"write {self._path} {offset}+{len(data)}",
                partial(self._content.write, offset, data),
                partial(self._content.write, offset, data[: len(data) // 2]),
            )

    def map(self) -> None:
        return None

    def read_at(self, offset: int, length: int) -> bytes:
        with self._machine.mutex:
            self._check_open()
            return bytes(memoryview(self._content.current)[offset : offset + length])

    def size(self) -> int:
        with self._machine.mutex:
            self._check_open()
            return len(self._content.current)

    def truncate(self, size: int) -> None:
        with self._machine.mutex:
            self._check_writable()
            effect = partial(self._content.truncate, size)
            self._machine.step(f"truncate {self._path} {size}", effect)

    def allocate(self, size: int) -> None:
        with self._machine.mutex:
            self._check_writable()
            missing = size - len(self._content.current)
            if missing > 0:
                self.write_at(len(self._content.current), bytes(missing))

    def reserve(self, size: int) -> None:
        self.allocate(size)

    def sync(self, *, metadata: bool) -> None:
        with self._machine.mutex:
            self._check_open()
            self._machine.sync_content(self._content, self._path, metadata=metadata)

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        self._machine.check_alive()
        if self._closed:
            raise disk_error(errno.EBADF, self._path)

    def _check_writable(self) -> None:
        self._check_open()
        if not self._writable:
            raise disk_error(errno.EBADF, self._path)


class _MemoryLock:
    def __init__(self, locked: set[str], path: str) -> None:
        self._locked = locked
        self._path = path
        self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            self._locked.discard(self._path)
