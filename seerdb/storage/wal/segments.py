"""Segment files: their names, and a pool that has the next one ready before it is needed.

::

    wal/<20 digits segment id>.wal    a segment; it has a valid header from the moment it is named
    wal/spare-<number>                the same length, zeros or a former segment; content is void
    wal/unready-<number>              to be a spare; removed where a crash left one

Overwriting blocks that exist is what makes a sync cheap, so segments keep their preallocated
length for life, and a released one becomes a spare. What it held is no danger to the next
segment in it: a frame counts only with the salt of the header in front (``format.py``).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress

from seerdb.errors import DiskError
from seerdb.storage.local.files import File, FileSystem, size_of
from seerdb.storage.wal.format import SegmentHeader, encode_header

SPARES_KEPT = 3
"""Released segments beyond this many are removed. With one less, when two memtables are sealed
before one is flushed, and then both are, a segment is removed and another filled with zeros."""

_SEGMENT = re.compile(r"([0-9]{20})\.wal\Z")
_SPARE = re.compile(r"(spare|unready)-([0-9]{1,18})\Z")


def segment_path(directory: str, segment: int) -> str:
    """The path of a segment's file."""
    return f"{directory}/{segment:020d}.wal"


def parse_segment_name(name: str) -> int | None:
    """The segment id in a file name (not a path); ``None`` for any other file."""
    match = _SEGMENT.match(name)
    return int(match[1]) if match else None


def list_segments(files: FileSystem, directory: str) -> list[int]:
    """The ids of all segments in ``directory``, ascending. Other files are passed over."""
    found = (parse_segment_name(name) for name in files.list(directory))
    return sorted(segment for segment in found if segment is not None)


class SegmentPool:
    """Makes, hands out and takes back the segment files of one directory.

    Thread-safe: a background worker prepares and recycles while the writer takes.
    Spares that an earlier process left are adopted.
    """

    def __init__(
        self, files: FileSystem, directory: str, size: int, *, direct: bool = False
    ) -> None:
        self._files = files
        self._directory = directory
        self._size = size
        self._direct = direct
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._spares: list[str] = []
        self._next = 1
        self._beyond: dict[int, int] = {}
        self._adopt()

    @property
    def spares(self) -> int:
        """How many files are ready to be taken."""
        with self._lock:
            return len(self._spares)

    def grew(self, segment: int, size: int) -> None:
        """Take note that a segment has so many bytes, more than were preallocated."""
        with self._lock:
            self._beyond[segment] = size - self._size

    def beyond(self, first: int, end: int) -> int:
        """By how many bytes the segments from ``first`` on, ``end`` excluded, are longer than they
        were preallocated: a batch may be larger than that."""
        with self._lock:
            return sum(size for segment, size in self._beyond.items() if first <= segment < end)

    def prepare(self) -> None:
        """Make a spare unless there is one: zeros really written, length durable.

        Raises: ``DiskError``; nothing is left behind then, but where that cannot be removed what
        the next opening removes.
        """
        if not self.spares:
            self._add_spare(self._make(_zeroed))

    def take(self, header: SegmentHeader) -> File:
        """The open file of a new segment that begins with ``header``.

        Durable: the header is on disk before the file has its name, and the name before this
        returns. May be called again after an error, which leaves nothing behind but perhaps the
        name. Raises: ``DiskError``.
        """
        with self._lock:
            spare = self._spares.pop() if self._spares else None
        if spare is None:
            # Its writer waits: room is enough, though syncs cost more where it was not written.
            spare = self._make(_reserved)
        try:
            return self._begin(spare, header)
        except DiskError:
            with suppress(DiskError):
                self._files.remove(spare)
            raise

    def _begin(self, spare: str, header: SegmentHeader) -> File:
        file = self._files.open(spare, direct=self._direct)
        try:
            file.write_at(0, encode_header(header))
            file.sync(metadata=True)
            self._files.rename(spare, segment_path(self._directory, header.segment))
            self._files.sync_directory(self._directory)
        except BaseException:
            file.close()
            raise
        return file

    def recycle(self, segment: int) -> None:
        """Take back a released segment: it becomes a spare, or is removed when there are
        enough or its length is not that of a spare.

        Requires: everything in it is durable elsewhere and nobody reads it any more.
        May be called again after an error. Raises: ``DiskError``.
        """
        path = segment_path(self._directory, segment)
        if not self._files.exists(path):
            self._files.sync_directory(self._directory)
            return
        if self.spares >= SPARES_KEPT or not self._fits(path):
            self._files.remove(path)
            self._files.sync_directory(self._directory)
            with self._lock:
                self._beyond.pop(segment, None)
            return
        self._add_spare(path)

    def _adopt(self) -> None:
        for name in self._files.list(self._directory):
            if (segment := parse_segment_name(name)) is not None:
                self._adopt_length(segment)
            match = _SPARE.match(name)
            if match is None:
                continue
            self._next = max(self._next, int(match[2]) + 1)
            path = f"{self._directory}/{name}"
            is_ready = match[1] == "spare" and self._fits(path)
            if is_ready and len(self._spares) < SPARES_KEPT:
                self._spares.append(path)
            else:
                self._files.remove(path)
        if self._spares:
            self._forget_former_names()

    def _adopt_length(self, segment: int) -> None:
        size = size_of(self._files, segment_path(self._directory, segment))
        if size > self._size:
            self.grew(segment, size)

    def _forget_former_names(self) -> None:
        """Make renames to spares durable, before another header goes into such a file: its
        former name could come back after a power loss, with a segment not its own."""
        self._files.sync_directory(self._directory)

    def _fits(self, path: str) -> bool:
        return size_of(self._files, path) == self._size

    def _make(self, fill: Callable[[File, int], None]) -> str:
        """A new file, whole and durable, that has no name of a spare yet."""
        path = f"{self._directory}/unready-{self._new_number()}"
        try:
            file = self._files.open(path, create=True)
            try:
                fill(file, self._size)
                file.sync(metadata=True)
            finally:
                file.close()
        except DiskError:
            with suppress(DiskError):
                self._files.remove(path)
            raise
        return path

    def _add_spare(self, former: str) -> None:
        """Make a spare of the file that had the path ``former``."""
        spare = f"{self._directory}/spare-{self._new_number()}"
        self._files.rename(former, spare)
        self._forget_former_names()
        with self._lock:
            self._spares.append(spare)

    def _new_number(self) -> int:
        with self._lock:
            number = self._next
            self._next += 1
        return number


def _zeroed(file: File, size: int) -> None:
    file.allocate(size)


def _reserved(file: File, size: int) -> None:
    file.reserve(size)
