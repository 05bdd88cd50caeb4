"""Recovery: what the local log says, and leaving it in a state that the next recovery accepts.

Nothing is discarded before what it held is durable elsewhere: sound segments stay until they
are flushed; what is saved of damaged ones is written to a new segment first, and only then
are they moved to ``quarantine/``, bytes and all (I4, I9).

Seqs in the log are contiguous, so a missing segment shows: each one begins where the one before
ended, and the first no later than where the tables end. If the bucket has all that is missing, it
is written anew with what follows, and nothing is lost. What it has of commits that a ``salvage``
would skip is taken, too, and what follows all that can be read (``log.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from operator import itemgetter

from seerdb.errors import CorruptionError
from seerdb.storage.local.files import FileSystem
from seerdb.storage.memtable import Memtable
from seerdb.storage.operators import MergeOperator
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import decode_batch
from seerdb.storage.wal.frames import Take
from seerdb.storage.wal.reader import Condition, SegmentScan, classify, scan_segment
from seerdb.storage.wal.repair import seal_recovered
from seerdb.storage.wal.replay import Replay, check_database
from seerdb.storage.wal.segments import list_segments, segment_path

Missing = Callable[[int, int], list[Record]]
"""What the bucket has of the log after one seq and up to another, without a gap from there on."""


@dataclass
class Recovery:
    """What was found in the log, and what is left to do."""

    memtables: list[Memtable] = field(default_factory=list)
    """Sealed, oldest first; their segments are sound."""
    relog: list[Record] = field(default_factory=list)
    """Records to be written to a new segment before ``quarantine`` and ``release`` happen."""
    quarantine: list[int] = field(default_factory=list)
    release: list[int] = field(default_factory=list)
    """Segments that are not needed any more."""
    branch_seq: int | None = None
    """Where the log goes on otherwise than before, because of damage or another owner. ``None``
    with ``damages``: after all that the bucket has."""
    hole_seq: int = 0
    """The last seq, where commits before it that the tables do not hold are lost, whether in this
    opening or an earlier one; else 0."""
    last_seq: int = 0
    last_timestamp_us: int = 0
    last_segment: int = 0
    segments: int = 0
    records: int = 0
    filled: int = 0
    """Of the records those that came from the bucket, for what is missing or damaged."""
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
        operator: MergeOperator | None,
        missing: Missing,
    ) -> None:
        self._files = files
        self._directory = directory
        self._database_id = database_id
        self._mode = mode
        self._capacity = capacity
        self._operator = operator
        self._missing = missing
        self._stopped = False
        self._flushed_seq = flushed_seq
        self.found = Recovery(last_seq=flushed_seq)

    def run(self, log_start: int) -> Recovery:
        segments = list_segments(self._files, self._directory)
        self.found.last_segment = max(segments, default=0)
        self.found.release += [segment for segment in segments if segment < log_start]
        needed = [segment for segment in segments if segment >= log_start]
        for segment in needed:
            self._recover(segment, is_last=segment == needed[-1])
        if self.found.records < self.found.last_seq - self._flushed_seq:
            self.found.hole_seq = self.found.last_seq
        return self.found

    def _recover(self, segment: int, *, is_last: bool) -> None:
        self.found.segments += 1
        if self._stopped:
            self.found.quarantine.append(segment)
            return
        replay = Replay(after=self.found.last_seq, operator=self._operator)
        try:
            scan = self._scan(segment, salvage=False, take=replay.take)
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
        if scan.last is not None:
            self._saw(scan.last[1])
        self._sound(segment, replay)

    def _scan(self, segment: int, *, salvage: bool, take: Take | None = None) -> SegmentScan:
        scan = scan_segment(self._files, self._directory, segment, salvage=salvage, take=take)
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
        if found > expected and not self._fill(found - 1):
            raise CorruptionError(
                "the log has a gap before this segment",
                name=scan.name,
                expected=f"first seq {expected}",
                found=f"first seq {found}",
                hint="a segment file is missing",
            )

    def _fill(self, upto: int) -> bool:
        """Take what is missing up to a seq from the bucket; whether it has all of that."""
        records = self._missing(self.found.last_seq, upto)
        if len(records) != upto - self.found.last_seq or not all(map(_decodes, records)):
            return False
        self._saw(records[-1][1])
        self.found.records += len(records)
        self.found.filled += len(records)
        self.found.relog += records
        self.found.last_seq = upto
        return True

    def _sound(self, segment: int, replay: Replay) -> None:
        if not replay.records:
            self.found.release.append(segment)
        elif self.found.relog:
            self._relog(segment)
            self.found.release.append(segment)
        else:
            self.found.records += replay.records
            self.found.last_seq = replay.last_seq
            self._remember(replay.memtable([segment]))

    def _remember(self, memtable: Memtable) -> None:
        memtables = self.found.memtables
        if memtables and memtables[-1].size < self._capacity:
            memtables[-1].absorb(memtable)
        else:
            memtables.append(memtable)

    def _relog(self, segment: int) -> int:
        """Keep the records of a segment that the tables do not hold yet to be written anew. Returns
        the last seq before the first gap."""
        records = self._records_of(segment)
        if records:
            self._saw(records[-1][1])
        after = self.found.last_seq
        fresh = self._filled([record for record in records if record[0] > after])
        sound = [record for seq, record in enumerate(fresh, after + 1) if record[0] == seq]
        kept = sound if self._mode == "point_in_time" else fresh
        if kept:
            self.found.records += len(kept)
            self.found.last_seq = kept[-1][0]
            self.found.relog += kept
        return after + len(sound)

    def _filled(self, records: list[Record]) -> list[Record]:
        """The records, and what the bucket has of the gaps before and between them."""
        after = self.found.last_seq
        if not records or records[-1][0] - after == len(records):
            return records
        known = {record[0] for record in records}
        shipped = self._missing(after, records[-1][0])
        found = [each for each in shipped if each[0] not in known and _decodes(each)]
        self.found.filled += len(found)
        return sorted(records + found, key=itemgetter(0))

    def _saw(self, timestamp_us: int) -> None:
        self.found.last_timestamp_us = max(self.found.last_timestamp_us, timestamp_us)

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
        self.found.quarantine.append(segment)
        kept = self._relog(segment)
        self._stopped = self._mode == "point_in_time"
        if self.found.branch_seq is None and (self._stopped or kept < self.found.last_seq):
            self.found.branch_seq = kept

    def _records_of(self, segment: int) -> list[Record]:
        salvage = self._mode == "salvage"
        try:
            records = self._scan(segment, salvage=salvage).records
        except CorruptionError:
            return []  # the header is damaged, which self.found.damages tells already
        return list(filter(_decodes, records) if salvage else takewhile(_decodes, records))


def recover(  # noqa: PLR0913 - what differs from database to database
    files: FileSystem,
    directory: str,
    *,
    database_id: str,
    mode: str,
    log_start: int,
    flushed_seq: int,
    memtable_capacity: int,
    operator: MergeOperator | None = None,
    missing: Missing = lambda after, upto: [],
) -> Recovery:
    """Read the log in ``directory``; make the last segment whole. What is ``missing`` is asked for.

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
        operator=operator,
        missing=missing,
    ).run(log_start)


def _decodes(record: Record) -> bool:
    """Whether a record whose checksum is right also makes sense."""
    try:
        decode_batch(record[2], "")
    except CorruptionError:
        return False
    return True


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
