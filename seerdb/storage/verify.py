"""Checking a whole database: every byte of manifest, tables, blobs and log, and what must hold
among them.

Slow and thorough; it changes nothing and locks nothing. Damage becomes a line of the report, so
that one run finds all of it; only a store or disk that cannot be read at all is raised.

A server may be writing all the while. So what is there is listed first and the manifest read
after that: what a list lacks, that manifest does not need. What is gone when its turn comes is
damage only if the newest manifest still needs it; and a segment that looks wrong gets a second
look, since it may have been sealed or taken back in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple, TypeVar

import msgspec

from seerdb.errors import CorruptionError, InternalError, NotFoundError
from seerdb.ids import BlobId
from seerdb.storage.blob.format import Directory
from seerdb.storage.blob.verify import verify_blob
from seerdb.storage.local.files import FileSystem
from seerdb.storage.manifest.loans import decode_debt
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.verify import newest, verify_manifest
from seerdb.storage.manifest.version import BlobUse, TableMeta, Version, check_version
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.borrowing import lender_of
from seerdb.storage.object_store.lender import Lender
from seerdb.storage.object_store.names import (
    BLOB_PREFIX,
    LOANS_NAME,
    TABLE_PREFIX,
    WAL_PREFIX,
    blob_name,
    parse_blob_name,
    parse_table_name,
    parse_wal_name,
    table_name,
)
from seerdb.storage.opening.overtaken import find_overtaken, in_words
from seerdb.storage.read.state import LiveState
from seerdb.storage.retention.kept import Kept, verify_kept
from seerdb.storage.retention.loans import Holds
from seerdb.storage.shipping.shipped import shipped_of
from seerdb.storage.sstable.verify import verify_table
from seerdb.storage.wal.home import load_home
from seerdb.storage.wal.reader import Condition, header_of, read_segment
from seerdb.storage.wal.segments import list_segments, segment_path
from seerdb.storage.wal.verify import SegmentReport, verify_segments
from seerdb.storage.workers.threads import InlineExecutor, in_order

T = TypeVar("T")
R = TypeVar("R")


class VerifyReport(msgspec.Struct):
    """What was checked, and one line for each thing that is wrong.

    ``manifests`` and ``shipped`` count objects, ``segments`` files; ``records`` are the commits
    in both kinds of log, the ``values`` those in blobs.
    """

    manifests: int = 0
    tables: int = 0
    entries: int = 0
    bytes: int = 0
    blobs: int = 0
    values: int = 0
    blob_bytes: int = 0
    segments: int = 0
    shipped: int = 0
    records: int = 0
    last_seq: int = 0
    problems: list[str] = []
    notes: list[str] = []
    """Worth knowing, and no damage."""
    unreferenced: list[str] = []
    """Tables and blobs in the bucket that neither the manifest nor a checkpoint names: on their way
    into it, kept for the past, or left to the collector. No damage either."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


Progress = Callable[[str, int, int], None]
"""Told what is being checked, and how many of how many are done."""


def no_progress(what: str, done: int, total: int) -> None:
    """The progress of those who do not look."""


class LocalLog(NamedTuple):
    """The ``wal/`` directory of a database."""

    files: FileSystem
    directory: str


def verify_open(store: ObjectStore, live: LiveState, log: LocalLog, log_start: int) -> VerifyReport:
    """Check the current version of an open database, and its log."""
    report = VerifyReport(last_seq=live.visible_seq)
    verify_version(store, live.current.layout.version, report)
    with_log = VerifyReport()
    verify_log(log.files, log.directory, with_log, log_start=log_start)
    report.segments, report.records = with_log.segments, with_log.records
    report.problems += with_log.problems
    return report


def verify_database(
    store: ObjectStore,
    report: VerifyReport,
    *,
    log: LocalLog | None = None,
    holds: Holds | None = None,
    progress: Progress = no_progress,
    threads: Executor | None = None,
) -> None:
    """Check a bucket, and the local log that belongs to it; ``threads`` as in
    :func:`verify_version`. ``holds``: by which ``store`` tells what lenders keep.

    Raises: ``NotFoundError`` when there is no database at all, ``UnavailableError``,
    ``DiskError``.
    """
    tables = [info.name for info in store.list(TABLE_PREFIX) if parse_table_name(info.name)]
    blobs = [info.name for info in store.list(BLOB_PREFIX) if parse_blob_name(info.name)]
    shipped = [info.name for info in store.list(WAL_PREFIX)]
    segments = list_segments(log.files, log.directory) if log else []
    manifest = verify_manifest(
        store,
        lambda done, total: progress("manifest", done, total),
        threads or InlineExecutor(),
    )
    report.manifests, report.problems = manifest.objects, manifest.problems
    unsure = holds.damaged if holds else {}
    report.problems += [f"{lender.url}/{error}" for lender, error in unsure.items()]
    state = manifest.state
    if not manifest.objects:
        if not (tables or blobs or shipped or segments):
            raise NotFoundError("there is no database: no manifest, no table, no log")
        report.problems.append(
            "the bucket holds tables, blobs or log but no manifest, or it is another database's "
            "bucket (is the store setting right? else restore the manifest/ objects)"
        )
    if log is not None:
        _verify_own_log(store, log, segments, state, report, progress)
    _verify_shipped(store, shipped, state, report, progress, threads or InlineExecutor())
    if state is not None:
        report.last_seq = max(report.last_seq, state.last_seq)
        known = Blobs(set(), {})
        verify_version(store, state.version, report, progress, threads, known)
        problems, kept = verify_kept(store)
        report.problems += (
            problems + _not_kept(state, {*tables, *blobs}, unsure) + _debt_problems(store, state)
        )
        _verify_kept_tables(store, state.version, kept, report, progress, threads, known)
        named = {name for table in state.version.tables for name in table.objects}
        named = named.union(*(each.objects for each in kept))
        report.unreferenced += [
            name
            for name in (*tables, *blobs)
            if name not in named and lender_of(state.loans, name) not in unsure
        ]


class Blobs(NamedTuple):
    """Those that were checked, and where values lie in those of them that are sound."""

    checked: set[BlobId]
    sound: dict[BlobId, Directory]


def verify_version(
    store: ObjectStore,
    version: Version,
    report: VerifyReport,
    progress: Progress = no_progress,
    threads: Executor | None = None,
    blobs: Blobs | None = None,
) -> None:
    """Check every blob and every table of a version, and what these point at in those.

    ``threads`` read them side by side; without any, one after the other. The report is the same.
    ``blobs`` were checked already, and are not again; those of this version join them.
    """
    try:
        check_version(version)
    except InternalError as error:
        report.problems.append(str(error))
    threads = threads or InlineExecutor()
    blobs = blobs or Blobs(set(), {})
    _verify_blobs(store, version, report, progress, threads, blobs)

    def check(meta: TableMeta) -> _Found:
        return _check_table(store, meta, blobs.sound)

    found = in_order(threads, check, version.tables)
    for meta, (counts, problem) in _counted("tables", version.tables, progress, beside=found):
        if counts:
            report.problems += problem
            report.tables += 1
            report.entries += meta.entries
            report.bytes += meta.size


def _verify_kept_tables(
    store: ObjectStore,
    version: Version,
    kept: Sequence[Kept],
    report: VerifyReport,
    progress: Progress,
    threads: Executor | None,
    blobs: Blobs,
) -> None:
    """Check the tables that checkpoints alone keep, each once, and the blobs that these alone
    need."""
    seen = {table.id for table in version.tables}
    for each in kept:
        own = [table for table in each.record.tables if table.id not in seen]
        seen |= {table.id for table in own}
        verify_version(store, Version.of(own), report, progress, threads, blobs)


def _not_kept(state: ManifestState, listed: set[str], unsure: Collection[Lender]) -> list[str]:
    """What is wrong with lenders: of those that do not keep what a clone borrows nothing is
    listed, though it may be there still. Of the ``unsure`` all is."""
    names = {name for table in state.version.tables for name in table.objects} - listed
    lenders = {
        lender.url
        for name in names
        if (lender := lender_of(state.loans, name)) and lender not in unsure
    }
    return [
        f"{url}: it does not keep what this clone borrows from it, which may go at any moment"
        for url in sorted(lenders)
    ]


def _debt_problems(store: ObjectStore, state: ManifestState) -> list[str]:
    """What is wrong with the object that tells what a clone borrows if its manifest is lost."""
    if not state.loans.lenders:
        return []
    try:
        decode_debt(store.get(LOANS_NAME))
    except NotFoundError:
        return [f"{LOANS_NAME}: it is missing; without it a lost manifest cannot be rebuilt"]
    except CorruptionError as error:
        return [str(error)]
    return []


_Found = tuple[bool, list[str]]
"""Whether an object counts, which one that the collector took meanwhile does not, and what is wrong
with it."""


def _check_table(store: ObjectStore, meta: TableMeta, blobs: Mapping[BlobId, Directory]) -> _Found:
    name = table_name(meta.id)
    try:
        verify_table(meta, store.get(name), blobs)
    except NotFoundError:
        state = newest(store)
        if state is not None and meta not in state.version.tables:
            return False, []  # compacted and collected meanwhile
        return True, [f"{name}: the manifest names it, but it is gone"]
    except CorruptionError as error:
        return True, [str(error)]
    return True, []


def _verify_blobs(
    store: ObjectStore,
    version: Version,
    report: VerifyReport,
    progress: Progress,
    threads: Executor,
    blobs: Blobs,
) -> None:
    """Check every blob of a version that is not among ``blobs``, which it joins."""
    wanted = [blob for blob in version.blobs if blob.id not in blobs.checked]

    def check(blob: BlobUse) -> _Found:
        return _check_blob(store, blob, blobs.sound)

    found = in_order(threads, check, wanted)
    for blob, (counts, problem) in _counted("blobs", wanted, progress, beside=found):
        if counts:
            blobs.checked.add(blob.id)
            report.problems += problem
            report.blobs += 1
            report.values += blob.live_values
            report.blob_bytes += blob.size


def _check_blob(store: ObjectStore, blob: BlobUse, sound: dict[BlobId, Directory]) -> _Found:
    name = blob_name(blob.id)
    try:
        sound[blob.id] = verify_blob(blob, store.get(name))
    except NotFoundError:
        state = newest(store)
        if state is not None and blob.id not in {each.id for each in state.version.blobs}:
            return False, []  # rewritten and collected meanwhile
        return True, [f"{name}: tables point into it, but it is gone"]
    except CorruptionError as error:
        return True, [str(error)]
    return True, []


def _verify_own_log(
    store: ObjectStore,
    log: LocalLog,
    segments: list[int],
    state: ManifestState | None,
    report: VerifyReport,
    progress: Progress,
) -> None:
    """Check the log of a data directory, and that it continues ``state``, or what is lost of it."""
    try:
        home = load_home(log.files, log.directory)
        overtaken = find_overtaken(log.files, log.directory, store, state)
    except CorruptionError as error:
        report.problems.append(str(error))
        home = overtaken = None
    owner = home.database_id if home else None
    continues = state is not None and home is not None and home.home == state.home
    if state is not None and owner not in (None, state.database_id):
        report.problems.append(
            f"{log.directory}: the log belongs to database {owner}, the bucket to "
            f"{state.database_id} (is the store setting right?)"
        )
    elif overtaken is not None:
        report.notes.append(
            f"{log.directory}: another data directory continues this database; "
            + in_words(overtaken)
        )
    verify_log(
        log.files,
        log.directory,
        report,
        segments=segments,
        log_start=state.log_start if state and continues else 0,
        flushed_seq=state.last_seq if state and continues else None,
        database_id=owner,
        progress=progress,
    )


def verify_log(
    files: FileSystem,
    directory: str,
    report: VerifyReport,
    *,
    segments: Sequence[int] | None = None,
    log_start: int = 0,
    flushed_seq: int | None = None,
    database_id: str | None = None,
    progress: Progress = no_progress,
) -> None:
    """Check the ``segments`` of a log (default: all there are) that are still needed.

    ``flushed_seq``: where the tables end, so that the log must begin there. ``database_id``:
    whose log it must be.
    """
    there = list_segments(files, directory) if segments is None else segments
    wanted = [segment for segment in there if segment >= log_start]
    reach = flushed_seq
    paths = [segment_path(directory, segment) for segment in wanted]
    for _, path in _counted("log", wanted, progress, beside=paths):
        found = _verify_segment(files, path, report)
        header = header_of(files, path) if found is not None else None
        if found is None or header is None:
            reach = None
            continue
        if database_id not in (None, header.database_id.hex()):
            report.problems.append(
                f"{path}: a segment of database {header.database_id.hex()}, not of {database_id}"
            )
        if reach is not None and header.first_seq > reach + 1:
            report.problems.append(_gap(path, "log", reach + 1, header.first_seq))
        reach = max(reach or 0, header.first_seq - 1, found.last_seq)
        report.last_seq = max(report.last_seq, found.last_seq)


def _verify_segment(files: FileSystem, path: str, report: VerifyReport) -> SegmentReport | None:
    """Check a segment; ``None`` when it was released meanwhile."""
    [found] = verify_segments(files, [path])
    if found.condition is Condition.CORRUPT:
        [found] = verify_segments(files, [path])
    if not files.exists(path):
        return None
    report.segments += 1
    report.records += found.records
    if found.condition is Condition.CORRUPT:
        report.problems.append(found.problem)
    return found


def _verify_shipped(
    store: ObjectStore,
    names: list[str],
    state: ManifestState | None,
    report: VerifyReport,
    progress: Progress,
    threads: Executor,
) -> None:
    """Check every object of the shipped log, also what is void, and that what is not continues the
    tables without a gap."""
    if state is not None:
        report.problems += _shipped_gaps(names, state.last_seq)
    parsed = sorted((place, name) for name in names if (place := parse_wal_name(name)))
    # Without those that say where a home took the log over; see shipping/shipped.py.
    holding = [(name, first, last) for (_, first, last), name in parsed if first <= last]

    def check(each: tuple[str, int, int]) -> tuple[int, _Found]:
        return _check_shipped(store, *each)

    found = in_order(threads, check, holding)
    for _, (records, (counts, problem)) in _counted("shipped log", holding, progress, beside=found):
        if not counts:
            continue
        report.problems += problem
        report.records += records
        report.shipped += 1


def _shipped_gaps(names: list[str], reach: int) -> list[str]:
    """Where seqs after ``reach`` are missing in what these names say, up to the last that one has.
    What epochs of one home tell is one log."""
    gaps = []
    for each in sorted(shipped_of(names), key=lambda each: (each.first, each.name)):
        if each.first > reach + 1:
            gaps.append(_gap(each.name, "shipped log", reach + 1, each.first))
        reach = max(reach, min(each.last, each.end - 1))
    return gaps


def _check_shipped(store: ObjectStore, name: str, first: int, last: int) -> tuple[int, _Found]:
    """How many records an object holds, and what was found."""
    try:
        return _verify_shipped_object(name, store.get(name), first, last), (True, [])
    except NotFoundError:
        state = newest(store)
        if state is None or last <= state.last_seq:
            return 0, (False, [])  # collected meanwhile
        return 0, (True, [f"{name}: it is listed, but it is gone"])
    except CorruptionError as error:
        return 0, (True, [str(error)])


def _verify_shipped_object(name: str, data: bytes, first: int, last: int) -> int:
    """The number of records in an object that should hold ``first`` to ``last``."""
    scan = read_segment(data, name, None)
    if scan.damages:
        raise scan.error()
    count = sum(first <= seq <= last for seq, _, _ in scan.records)
    if count != last - first + 1:  # which ascend
        raise CorruptionError(
            "a shipped log does not hold what its name says",
            name=name,
            expected=f"seq {first} to {last}",
            found=f"{count} records of those",
        )
    return count


def _gap(name: str, log: str, expected: int, found: int) -> str:
    return f"{name}: the {log} has a gap before this: expected seq {expected}, found {found}"


def _counted(
    what: str, items: Sequence[T], progress: Progress, *, beside: Iterable[R]
) -> Iterator[tuple[T, R]]:
    """The items, each with what is ``beside`` it; ``progress`` is told of each when the next one is
    asked for."""
    for done, pair in enumerate(zip(items, beside, strict=True), 1):
        yield pair
        progress(what, done, len(items))
