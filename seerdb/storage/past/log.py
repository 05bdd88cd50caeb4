"""The log of a database, as far as it can be read: on a disk, in a bucket, or on both.

Beside a writer a segment of the local log may be let go of between being listed and being read.
Tables hold it then, and the bucket has it if it is to be shipped. So that is neither the end of
the log nor a gap in it, but :class:`Released`: look again, at the log first and then at the
timeline, and what was let go of is found in the one or told of by the other. It ends, as no segment
comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import takewhile
from typing import NamedTuple

from seerdb.errors import CorruptionError, DiskError, NotFoundError
from seerdb.storage.local.files import FileSystem
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.shipping.shipped import list_shipped
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import HEADER_SIZE, decode_header
from seerdb.storage.wal.reader import read_segment
from seerdb.storage.wal.replay import check_database
from seerdb.storage.wal.segments import list_segments, segment_path


class Stretch(NamedTuple):
    """A part of the log that can be read: records from ``first`` on, up to ``last`` at most."""

    first: int
    last: int
    read: Callable[[], list[Record]]
    is_near: bool
    """Whether it is on the local disk."""


class Released(Exception):
    """A segment of the local log was let go of since it was listed."""


@dataclass
class Log:
    """The log, as far as it is there: parts that may overlap, in any order."""

    stretches: list[Stretch]
    newest: int | None = None
    """Of an open database, the commit up to which its past is read: where neither log nor tables
    lead there, something is missing."""

    def after(self, seq: int) -> Iterator[list[Record]]:
        """The records after ``seq``, without a gap, until there are no more that follow.

        A part that is damaged or gone counts as missing if another has the same records. Raises:
        ``CorruptionError``, ``DiskError``, ``UnavailableError`` and :class:`Released` where no
        other has.
        """
        left = _Untried(self.stretches)
        released = seq
        failure: CorruptionError | DiskError | None = None
        while stretch := left.take(seq + 1):
            try:
                records = _following(stretch.read(), seq)
            except Released:
                released = max(released, stretch.last)
                continue
            except NotFoundError:
                continue  # collected since it was listed: no instant that is kept needs it
            except (CorruptionError, DiskError) as damage:
                failure = damage
                continue
            if records:
                failure = None
                seq = records[-1][0]
                yield records
        if seq < released:
            raise Released
        if failure is not None:
            raise failure

    def time_of(self, seq: int) -> int | None:
        """When ``seq`` was committed, in microseconds; ``None`` where its record is missing."""
        records = next(self.after(seq - 1), [])
        return records[0][1] if records else None


class _Untried:
    """Stretches that were not asked for what follows yet."""

    def __init__(self, stretches: list[Stretch]) -> None:
        self._ahead = sorted(stretches, key=lambda each: each.first, reverse=True)
        self._begun: list[tuple[bool, int, int, Stretch]] = []
        """A heap of those that begin by the last seq that was asked for: near ones first, then
        those that reach furthest."""

    def take(self, seq: int) -> Stretch | None:
        """Of those that may have ``seq`` one on this disk, or else the one that reaches furthest.
        Requires: no lower ``seq`` than before."""
        while self._ahead and self._ahead[-1].first <= seq:
            each = self._ahead.pop()
            heappush(self._begun, (not each.is_near, -each.last, len(self._ahead), each))
        while self._begun:
            *_, best = heappop(self._begun)
            if best.last >= seq:
                return best
        return None


def _following(records: list[Record], seq: int) -> list[Record]:
    later = [record for record in records if record[0] > seq]
    return [
        record
        for _, record in takewhile(
            lambda numbered: numbered[0] == numbered[1][0], enumerate(later, seq + 1)
        )
    ]


def shipped_log(store: ObjectStore, database_id: str) -> list[Stretch]:
    """What the bucket has of the log: one LIST. See ``shipping/shipped.py`` for what counts of
    it."""
    found: list[Stretch] = []
    for name, first, last, end in list_shipped(store):
        counted = min(last, end - 1)
        read = _shipped_reader(store, database_id, name, first, counted)
        found.append(Stretch(first, counted, read, is_near=False))
    return found


def _shipped_reader(
    store: ObjectStore, database_id: str, name: str, first: int, last: int
) -> Callable[[], list[Record]]:
    def read() -> list[Record]:
        scan = read_segment(store.get(name), name, None)
        check_database(scan, database_id)
        if scan.damages:
            raise scan.error()
        return [record for record in scan.records if first <= record[0] <= last]

    return read


def live_log(
    files: FileSystem,
    directory: str,
    store: ObjectStore,
    database_id: str,
    position: tuple[int, int, int],
) -> Log:
    """All there is of the log of an open database up to a position, on its disk and in the bucket.

    ``position``: the active segment, how much of it is synced, and the last seq in that.
    """
    # In this order: what is let go of on the disk meanwhile is in the bucket.
    near = _local_log(files, directory, database_id, position)
    return Log(near + shipped_log(store, database_id), newest=position[2])


def _local_log(
    files: FileSystem, directory: str, database_id: str, position: tuple[int, int, int]
) -> list[Stretch]:
    """The segments that are not reused yet."""
    active, synced, seq = position
    found: list[Stretch] = []
    for segment in sorted(list_segments(files, directory), reverse=True):
        path = segment_path(directory, segment)
        try:
            first = decode_header(_read_file(files, path, HEADER_SIZE), path).first_seq
        except (DiskError, CorruptionError):
            continue  # reused since it was listed
        if first > seq:
            continue  # begun since then, or empty
        size = synced if segment == active else None
        read = _segment_reader(files, path, segment, size, database_id)
        found.append(Stretch(first, seq, read, is_near=True))
        seq = first - 1
    return found


def _segment_reader(
    files: FileSystem, path: str, segment: int, size: int | None, database_id: str
) -> Callable[[], list[Record]]:
    def read() -> list[Record]:
        try:
            scan = read_segment(_read_file(files, path, size), path, segment)
            check_database(scan, database_id)
        except (DiskError, CorruptionError):
            _check_not_reused(files, path)
            raise
        _check_not_reused(files, path)
        return scan.records

    return read


def _check_not_reused(files: FileSystem, path: str) -> None:
    """Raise :class:`Released` unless what was read is the segment's: a file that is used again
    loses its name first."""
    if not files.exists(path):
        raise Released(path)


def _read_file(files: FileSystem, path: str, size: int | None) -> bytes:
    file = files.open_read(path)
    try:
        return file.read_at(0, file.size() if size is None else size)
    finally:
        file.close()
