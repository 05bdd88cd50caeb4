"""Backup and restore between places that are named: any fsspec URL, or a directory.

A directory is a data directory, whose bucket is in ``bucket/``, or a bucket or repository itself.
What is read is never locked, so a server may be writing there.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from seerdb.clock import SystemClock
from seerdb.errors import AlreadyExistsError, InvalidRequestError, NotFoundError
from seerdb.storage.backup.archive import open_archive
from seerdb.storage.backup.check import BackupCheck, check_backups
from seerdb.storage.backup.copying import Carrier, Progress, nothing
from seerdb.storage.backup.points import RecoveryPoints
from seerdb.storage.backup.points import recovery_points as points_of
from seerdb.storage.backup.prune import PruneReport, plan_prune, prune
from seerdb.storage.backup.restore import RestoreReport, Wanted, restore_archive
from seerdb.storage.backup.retention import Retention
from seerdb.storage.backup.take import BackupReport, Wish, back_up
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.manifest.loans import read_debt
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.object_store.names import BACKUP_PREFIX, MANIFEST_PREFIX
from seerdb.storage.object_store.stores import Stores
from seerdb.storage.retention.loans import borrow
from seerdb.storage.retention.timeline import instant_us
from seerdb.storage.wal.segments import list_segments, segment_path
from seerdb.storage.wal.verify import verify_segments
from seerdb.storage.workers.threads import unless_interrupted, watched_threads

MOST_JOBS = 64

_clock = SystemClock()


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How to copy: ``jobs`` objects at once, at most ``rate`` bytes a second (0: as fast as it
    goes), with what fsspec needs to know of either side. ``watch`` is told how far it is; what it
    raises ends the copy."""

    jobs: int = 8
    rate: int = 0
    source_options: Mapping[str, Any] = field(default_factory=dict)
    target_options: Mapping[str, Any] = field(default_factory=dict)
    watch: Callable[[Progress], None] = nothing

    def __post_init__(self) -> None:
        if not 1 <= self.jobs <= MOST_JOBS:
            raise InvalidRequestError(f"jobs must be 1 to {MOST_JOBS}, not {self.jobs}")
        if self.rate < 0:
            raise InvalidRequestError(f"the rate must be 0 or more bytes a second: {self.rate}")

    @contextmanager
    def carrier(self) -> Iterator[Carrier]:
        """What copies like that."""
        with unless_interrupted(watched_threads(self.jobs)) as threads:
            yield Carrier(
                threads=threads, clock=_clock, jobs=self.jobs, rate=self.rate, watch=self.watch
            )


PLAIN = Transfer()


def backup(
    source: str,
    to: str,
    *,
    label: str = "",
    keep: bool = False,
    full: bool = False,
    transfer: Transfer = PLAIN,
) -> BackupReport:
    """Back up the database whose bucket is ``source`` into the repository ``to``: what its tables
    and its shipped log hold. Copies what the repository lacks; durable when it returns.

    ``label`` is for people; what is made to ``keep`` no prune deletes; ``full`` reads also what is
    there already, and replaces it where it is damaged. Raises: ``NotFoundError``,
    ``InvalidRequestError``, ``BusyError`` while a prune runs, ``CorruptionError``,
    ``UnavailableError``.
    """
    with (
        open_database_store(bucket_of(source), transfer.source_options) as store,
        open_store(to, transfer.target_options) as target,
        transfer.carrier() as carrier,
    ):
        wish = Wish(label=label, keep=keep, full=full)
        report = back_up(store, target, wish, carrier, os.urandom)
    notes = [*report.notes, *_left_behind(source, report.seq)]
    return msgspec.structs.replace(report, notes=notes)


def restore(
    source: str,
    to: str,
    *,
    at: float | None = None,
    seq: int | None = None,
    backup: str | None = None,
    prefix: bytes | None = None,
    dry_run: bool = False,
    transfer: Transfer = PLAIN,
) -> RestoreReport:
    """Make a database in ``to``, a URL or a data directory, where there is nothing yet, of what
    ``source`` holds: a repository of backups, or the bucket of a database.

    Restores the newest commit; or the last one made by the time ``at``, in seconds since 1970; or
    that of ``seq``, or of a ``backup``; of all keys, or those with a ``prefix``. Raises:
    ``AlreadyExistsError`` when there is something in ``to``, ``HistoryError`` for what cannot be
    restored, ``NotFoundError``, ``InvalidRequestError``, ``CorruptionError`` when nothing sound
    leads there, ``UnavailableError``.
    """
    time_us = None if at is None else instant_us(at, "at")
    wanted = Wanted(backup=backup, seq=seq, time_us=time_us, prefix=prefix)
    with (
        open_database_store(bucket_of(source), transfer.source_options) as store,
        open_store(new_bucket_of(to), transfer.target_options) as target,
        transfer.carrier() as carrier,
    ):
        return restore_archive(
            open_archive(store), target, wanted, carrier, os.urandom, dry_run=dry_run
        )


def recovery_points(source: str, *, transfer: Transfer = PLAIN) -> RecoveryPoints:
    """What can be restored from a repository, or from the bucket of a database.

    Raises: ``NotFoundError`` when it is neither, ``UnavailableError``."""
    with open_database_store(bucket_of(source), transfer.source_options) as store:
        return points_of(open_archive(store))


def verify_backups(
    repository: str, *, backup: str | None = None, transfer: Transfer = PLAIN
) -> BackupCheck:
    """Read every byte that the backups in a repository need, or one of them.

    Damage is in the report. Raises: ``NotFoundError``, ``UnavailableError``."""
    with open_store(repository, transfer.source_options) as store, transfer.carrier() as carrier:
        return check_backups(store, carrier, backup)


def prune_backups(
    repository: str,
    *,
    count: int | None = None,
    seconds: float | None = None,
    dry_run: bool = True,
    transfer: Transfer = PLAIN,
) -> PruneReport:
    """Delete the backups that are neither among the newest ``count`` nor made less than ``seconds``
    before the newest nor to be kept, and what only they need; or, as a ``dry_run``, say which these
    are. The newest from which nothing is missing stays in any case.

    Raises: ``InvalidRequestError``, ``NotFoundError``, ``BusyError`` while a backup runs,
    ``CorruptionError`` for a backup that cannot be read, ``UnavailableError``."""
    retention = Retention(count=count, seconds=seconds)
    with open_store(repository, transfer.source_options) as store:
        if dry_run:
            return plan_prune(store, retention, _clock)
        return prune(store, retention, _clock, os.urandom)


@contextmanager
def open_store(url: str, options: Mapping[str, Any]) -> Iterator[ObjectStore]:
    """The store at a URL or in a directory. Raises: ``InvalidRequestError``."""
    with open_stores(url, options) as stores:
        yield stores.of(Purpose.BACKUP)


@contextmanager
def open_database_store(url: str, options: Mapping[str, Any]) -> Iterator[ObjectStore]:
    """The same, of a database, with what that borrows. Raises: ``InvalidRequestError``,
    ``UnavailableError``."""
    with open_stores(url, options) as stores:
        borrow(stores, read_debt(stores.own(Purpose.BACKUP)))
        yield stores.of(Purpose.BACKUP)


@contextmanager
def open_stores(url: str, options: Mapping[str, Any]) -> Iterator[Stores]:
    """All stores of a place. Raises: ``InvalidRequestError``."""
    location = StoreLocation(url, options)
    stores = Stores(location.open(), location, clock=_clock, random=random.SystemRandom())
    try:
        yield stores
    finally:
        stores.close()


def bucket_of(place: str) -> str:
    """The bucket or repository that ``place`` names."""
    if StoreLocation(place).directory is None:
        return place
    for directory in (place, f"{place}/bucket"):
        with open_store(directory, {}) as store:
            if store.list(MANIFEST_PREFIX) or store.list(BACKUP_PREFIX):
                return directory
    raise NotFoundError(
        f"there is neither a database nor a backup in {place}; where the bucket of a data "
        "directory is elsewhere, name that"
    )


def _left_behind(place: str, seq: int) -> list[str]:
    """A note if the log of a data directory has commits after ``seq``, which no bucket has."""
    files, log = OsFileSystem(), f"{place}/wal"
    if "://" in place or not files.exists(log):
        return []
    paths = [segment_path(log, each) for each in list_segments(files, log)]
    newest = max((report.last_seq for report in verify_segments(files, paths)), default=0)
    if newest <= seq:
        return []
    note = (
        f"commits up to seq {newest:,} are in the log in {log} only, and not in the backup; back "
        "up through the server, or open and close the database first"
    )
    return [note]


def new_bucket_of(place: str) -> str:
    """The bucket of the database that is to be made in ``place``."""
    if "://" in place:
        return place
    with open_store(place, {}) as store:
        other = [info.name for info in store.list("") if not info.name.startswith("bucket/")]
    if other:
        raise AlreadyExistsError(
            f"the target is not empty: there is {other[0]} in {place}; name another place, or "
            "empty it"
        )
    return f"{place}/bucket"
