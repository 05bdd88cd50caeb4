"""What came after the newest record of a manifest that looks whole: the very last ones may be gone,
and nothing in those that are left tells of them. Tables and log do.

A flush of the owner's epoch, whose table no record names, holds commits that were made, and no
others that come before them are missing: it counts, above all there is. Anything else that goes on
where the manifest does not is a sign that this is not the newest state. A table of an ingest is
none: whether it was ever shown, nothing but a record tells. It is left out, and told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.ids import TableId, epoch_of
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.repair.evidence import Evidence
from seerdb.storage.repair.shipped import ShippedLog
from seerdb.storage.repair.survey import Glimpse, glimpse
from seerdb.storage.verify import LocalLog
from seerdb.storage.wal.home import load_home
from seerdb.storage.wal.reader import header_of
from seerdb.storage.wal.segments import list_segments, segment_path
from seerdb.storage.wal.verify import verify_segments

Part = tuple[int, int]
"""First and last seq of a part of the log that has no gap; one that is empty ends before."""


def look_beyond(
    store: ObjectStore,
    tables: Sequence[TableId],
    evidence: Evidence,
    shipped: ShippedLog,
    local: LocalLog | None,
) -> list[TableId]:
    """The flushes that no record names, and that count; oldest first. Where other things tell that
    the newest state is not known, that is noted in ``evidence``, and there are none.

    Requires: the evidence is that this is the newest state. Raises: ``DiskError``,
    ``UnavailableError``.
    """
    assert evidence.state is not None, "the newest state is known"
    unnamed = list(_unnamed(store, tables, evidence))
    made = [each for each in unnamed if not each.is_flushed]
    named = {table.id for table in evidence.state.version.tables}
    after = int(evidence.state.last_seq)
    flushes = []
    for each in sorted((each for each in unnamed if each.is_flushed), key=lambda one: one.min_seq):
        if each.min_seq > after:  # else what was tried again, or is in tables that are named
            flushes.append(each.table)
            after = each.max_seq
    goes_on = [*_begins(shipped, after), *(first for first, _ in local_parts(local, evidence)[-1:])]
    if (
        any(each.max_seq > evidence.state.last_seq for each in made)
        or (made and not named <= set(tables))
        or any(first > after + 1 for first in goes_on)
    ):
        evidence.is_newest = False
        return []
    return flushes


def adopt(evidence: Evidence, flushes: Sequence[TableMeta]) -> None:
    """Have these count, each above those before it."""
    assert evidence.state is not None, "the newest state is known"
    tables = evidence.state.version.tables
    for run, table in enumerate(flushes, 1 + max((each.run for each in tables), default=0)):
        placed = replace(table, run=run)
        tables = [*tables, placed]
        evidence.named[table.id] = placed
        evidence.last_seq = max(evidence.last_seq, table.max_seq)
    evidence.state = replace(evidence.state, version=Version.of(tables))


def _unnamed(
    store: ObjectStore, tables: Sequence[TableId], evidence: Evidence
) -> Iterator[Glimpse]:
    """Tables of the owner's epoch of which no record tells, and which have seqs of their own; the
    others are noted in ``evidence``."""
    told = evidence.removed.union(evidence.named)
    for table in tables:
        if table in told or epoch_of(table) != evidence.epoch:
            continue
        try:
            found = glimpse(store, table)
        except (CorruptionError, NotFoundError):
            continue  # nothing tells that it ever counted
        if found is not None:
            yield found
        else:
            evidence.unshown.append(table)


def _begins(shipped: ShippedLog, after: int) -> list[int]:
    """Where the shipped log goes on, unless what is damaged of it may have gone before that."""
    first = None if shipped.damaged else shipped.begins_after(after)
    return [] if first is None else [first]


def local_parts(log: LocalLog | None, evidence: Evidence | None = None) -> list[Part]:
    """The parts of a local log, ascending; a seq that an ingest or a restore in place took is in
    none. With ``evidence`` only of the log that continues what that tells. Raises: ``DiskError``.
    """
    if log is None or (evidence is not None and not _continues(log, evidence)):
        return []
    parts: list[Part] = []
    for first, last in sorted(_segments(log)):
        if parts and first <= parts[-1][1] + 1:
            parts[-1] = parts[-1][0], max(parts[-1][1], last)
        else:
            parts.append((first, last))
    return parts


def local_epoch(log: LocalLog) -> int:
    """The newest epoch that a local log was written in, whose owner its data directory was; 0: none
    is known. Raises: ``DiskError``."""
    paths = [segment_path(log.directory, each) for each in list_segments(log.files, log.directory)]
    headers = (header_of(log.files, path) for path in paths)
    return max((header.epoch for header in headers if header), default=0)


def _segments(log: LocalLog) -> Iterator[Part]:
    """What each segment holds; one that is empty ends before it begins."""
    segments = list_segments(log.files, log.directory)
    paths = [segment_path(log.directory, each) for each in segments]
    for report in verify_segments(log.files, paths):
        if report.records:
            yield report.first_seq, report.last_seq
        elif header := header_of(log.files, report.path):
            yield header.first_seq, header.first_seq - 1


def _continues(log: LocalLog, evidence: Evidence) -> bool:
    try:
        home = load_home(log.files, log.directory)
    except CorruptionError:
        return False
    return home is not None and home.complete and home.home == evidence.home
