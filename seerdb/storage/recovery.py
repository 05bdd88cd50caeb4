"""Recovery: what the local log says, and leaving it in a state that the next recovery accepts.

Nothing is discarded before what it held is durable elsewhere: sound segments stay until they
are flushed; what is saved of damaged ones is written to a new segment first, and only then
are they moved to ``quarantine/``, bytes and all (I4, I9).

Seqs in the log are contiguous, so a missing segment shows: each one begins where the one before
ended, and the first no later than where the tables end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from seerdb.errors import CorruptionError
from seerdb.storage.files import FileSystem
from seerdb.storage.memtable import Memtable
from seerdb.storage.replay import WalRecord, check_database, many_objects, replay
from seerdb.storage.wal.reader import Condition, SegmentScan, classify, scan_segment
from seerdb.storage.wal.repair import seal_recovered
from seerdb.storage.wal.segments import list_segments, segment_path


@dataclass
class Recovery:
    """What was found in the log, and what is left to do."""

    memtables: list[Memtable] = field(default_factory=list)
    """Sealed, oldest first; their segments are sound."""
    relog: list[WalRecord] = field(default_factory=list)
    """Records to be written to a new segment before ``quarantine`` and ``release`` happen."""
    quarantine: list[int] = field(default_factory=list)
    release: list[int] = field(default_factory=list)
    """Segments that are not needed any more."""
    branch_seq: int | None = None
    """Where the log goes on otherwise than before, because of damage or another owner."""
    last_seq: int = 0
    last_timestamp_us: int = 0
    last_segment: int = 0
    segments: int = 0
    records: int = 0
    torn_bytes: int = 0
    damages: list[str] = field(default_factory=list)


class _Recoverer:
    def __init__(
        self,
        files: FileSystem,
        directory: str,
        *,
        database_id: str,
        mode: str,
        flushed_seq: int,
        capacity: int,
    ) -> None:
        self._files = files
        self._directory = directory
        self._database_id = database_id
        self._mode = mode
        self._capacity = capacity
        self._stopped = False
        self.found = Recovery(last_seq=flushed_seq)

    def run(self, log_start: int) -> Recovery:
        segments = list_segments(self._files, self._directory)
        self.found.last_segment = max(segments, default=0)
        self.found.release += [segment for segment in segments if segment < log_start]
        needed = [segment for segment in segments if segment >= log_start]
        with many_objects():
            for segment in needed:
                self._recover(segment, is_last=segment == needed[-1])
        return self.found

    def _recover(self, segment: int, *, is_last: bool) -> None:
        self.found.segments += 1
        if self._stopped:
            self.found.quarantine.append(segment)
            return
        try:
            scan = self._scan(segment, salvage=False)
            condition = classify(scan, is_last=is_last)
            if condition is Condition.CORRUPT:
                raise scan.error()
            self._check_continuous(scan)
        except CorruptionError as error:
            self._damaged(segment, error)
            return
        if condition is Condition.TORN:
            self.found.torn_bytes += scan.torn_bytes
        if not scan.sealed:
            seal_recovered(self._files, self._directory, scan)
        elif is_last:
            self._make_durable(segment)
        self._sound(segment, scan.records)

    def _scan(self, segment: int, *, salvage: bool) -> SegmentScan:
        scan = scan_segment(self._files, self._directory, segment, salvage=salvage)
        check_database(scan, self._database_id)
        return scan

    def _make_durable(self, segment: int) -> None:
        """SEAL may be in the page cache only; a successor must not be created before it is
        durable."""
        file = self._files.open(segment_path(self._directory, segment))
        try:
            file.sync(metadata=True)
        finally:
            file.close()

    def _check_continuous(self, scan: SegmentScan) -> None:
        expected = self.found.last_seq + 1
        found = scan.header.first_seq
        if found > expected:
            raise CorruptionError(
                "the log has a gap before this segment",
                name=scan.name,
                expected=f"first seq {expected}",
                found=f"first seq {found}",
                hint="a segment file is missing",
            )

    def _sound(self, segment: int, records: list[WalRecord]) -> None:
        records = self._take(records)
        if not records:
            self.found.release.append(segment)
        elif self.found.relog:
            self.found.relog += records
            self.found.release.append(segment)
        else:
            self._remember(segment, records)

    def _take(self, records: list[WalRecord]) -> list[WalRecord]:
        """The records that the tables do not hold yet."""
        if records:
            self.found.last_timestamp_us = max(self.found.last_timestamp_us, records[-1][1])
        if records and records[0][0] <= self.found.last_seq:
            records = [record for record in records if record[0] > self.found.last_seq]
        if records:
            self.found.records += len(records)
            self.found.last_seq = records[-1][0]
        return records

    def _remember(self, segment: int, records: list[WalRecord]) -> None:
        memtables = self.found.memtables
        if not memtables or memtables[-1].size >= self._capacity:
            memtables.append(Memtable([]))
        memtables[-1].segments.append(segment)
        replay(memtables[-1], records)

    def _damaged(self, segment: int, error: CorruptionError) -> None:
        if self._mode == "strict":
            raise type(error)(
                error.reason,
                name=error.name,
                offset=error.offset,
                expected=error.expected,
                found=error.found,
                hint=(error.hint + "; " if error.hint else "")
                + "open with recovery='point_in_time' to stop before the damage, or 'salvage' "
                "to skip it; the damaged bytes are kept in quarantine/",
            ) from error
        self.found.damages.append(str(error))
        if self.found.branch_seq is None:
            self.found.branch_seq = self.found.last_seq
        self.found.quarantine.append(segment)
        self.found.relog += self._take(self._records_of(segment))
        self._stopped = self._mode == "point_in_time"

    def _records_of(self, segment: int) -> list[WalRecord]:
        try:
            return self._scan(segment, salvage=self._mode == "salvage").records
        except CorruptionError:
            return []  # the header is damaged, which self.found.damages tells already


def recover(
    files: FileSystem,
    directory: str,
    *,
    database_id: str,
    mode: str,
    log_start: int,
    flushed_seq: int,
    memtable_capacity: int,
) -> Recovery:
    """Read the log in ``directory``; make the last segment whole.

    ``mode`` is the setting ``recovery``. Raises: ``CorruptionError`` in mode ``strict`` when
    anything but a torn tail is damaged. Idempotent: a crash in it loses nothing.
    """
    return _Recoverer(
        files,
        directory,
        database_id=database_id,
        mode=mode,
        flushed_seq=flushed_seq,
        capacity=memtable_capacity,
    ).run(log_start)


def quarantine(files: FileSystem, directory: str, target: str, segments: list[int]) -> list[str]:
    """Move damaged segments out of the log, as they are; returns where to."""
    moved = []
    for segment in segments:
        source = segment_path(directory, segment)
        place = segment_path(target, segment)
        attempt = 0
        while files.exists(place):
            attempt += 1
            place = f"{segment_path(target, segment)}.{attempt}"
        files.rename(source, place)
        moved.append(place)
    if moved:
        files.sync_directory(target)
        files.sync_directory(directory)
    return moved
