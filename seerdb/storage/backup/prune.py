"""Deleting backups that are not to be kept any more: the only place that deletes from a repository.

Descriptors go first, and then the objects that no other one names. A prune that dies in between has
deleted backups and left objects, which the next one takes, as it takes what a backup that failed
has left. Nothing is deleted while a backup runs (``locks.py``) or while a descriptor cannot be
read, which might name anything.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from seerdb.clock import Clock
from seerdb.errors import InvalidRequestError, NotFoundError
from seerdb.storage.backup.catalogue import read_catalogue
from seerdb.storage.backup.locks import RepositoryLock
from seerdb.storage.backup.retention import Retention, is_whole, unneeded
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import (
    BLOB_PREFIX,
    MANIFEST_PREFIX,
    TABLE_PREFIX,
    WAL_PREFIX,
    backup_name,
)

PORTION = 500
"""Objects that are deleted at once; in between the lock is kept."""


class PruneReport(msgspec.Struct, frozen=True):
    """Ids of the backups that went and of those that stay, and what objects went; if it is a
    ``dry_run``, those that would have gone."""

    pruned: list[str]
    kept: list[str]
    objects: int
    bytes: int
    dry_run: bool


def prune(
    store: ObjectStore,
    retention: Retention,
    clock: Clock,
    random_bytes: Callable[[int], bytes],
) -> PruneReport:
    """Delete what ``retention`` does not keep.

    Raises: ``BusyError`` while a backup or another prune runs, ``CorruptionError`` for a descriptor
    that cannot be read, ``NotFoundError`` where there is no backup, ``InvalidRequestError`` where
    there is a database, ``UnavailableError``, ``ConflictError`` where it was held up for so long
    that a backup may have begun: then it goes no further.
    """
    with RepositoryLock(store, "prune", random_bytes(16).hex(), clock) as lock:
        report, objects = _plan(store, retention, clock)
        for names in ([backup_name(backup) for backup in report.pruned], objects):
            for start in range(0, len(names), PORTION):
                lock.renew()
                lock.check()
                store.delete(names[start : start + PORTION])
    return report


def plan_prune(store: ObjectStore, retention: Retention, clock: Clock) -> PruneReport:
    """What :func:`prune` would do; changes nothing. Raises as that."""
    report, _ = _plan(store, retention, clock)
    return msgspec.structs.replace(report, dry_run=True)


def _plan(store: ObjectStore, retention: Retention, clock: Clock) -> tuple[PruneReport, list[str]]:
    catalogue = read_catalogue(store)
    if store.list(MANIFEST_PREFIX):
        raise InvalidRequestError("this is a database, not a repository of backups")
    for damage in catalogue.damaged:
        damage.add_note(
            "nothing is deleted while it is there, as it may name anything; delete that object if "
            "the backup is to be given up"
        )
        raise damage
    if not catalogue.backups:
        raise NotFoundError("there is no backup here")
    sizes = {
        info.name: info.size
        for prefix in (TABLE_PREFIX, BLOB_PREFIX, WAL_PREFIX)
        for info in store.list(prefix)
    }
    whole = [each for each in catalogue.backups if is_whole(each, sizes)]
    pruned = retention.outdated(catalogue.backups, whole, clock.now_ns() // 1000)
    gone = {each.id for each in pruned}
    left = [each for each in catalogue.backups if each.id not in gone]
    objects = unneeded(sizes, left)
    report = PruneReport(
        pruned=[each.id for each in pruned],
        kept=[each.id for each in left],
        objects=len(objects),
        bytes=sum(sizes[name] for name in objects),
        dry_run=False,
    )
    return report, objects
