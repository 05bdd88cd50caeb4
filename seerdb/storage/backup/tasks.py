"""Backups of a database that is open, made while writes go on; one may run in the background."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Lock
from typing import Literal

import msgspec

from seerdb.errors import BusyError, ClosedError, NotFoundError, SeerDBError
from seerdb.events import WorkFailed
from seerdb.storage.backup.archive import open_archive
from seerdb.storage.backup.copying import Progress
from seerdb.storage.backup.places import Transfer, open_store, open_stores
from seerdb.storage.backup.points import RecoveryPoints, recovery_points
from seerdb.storage.backup.take import BackupReport, Wish, back_up
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.letting_go import LET_GO_SECONDS
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.object_store.stores import Stores
from seerdb.storage.runtime import Components
from seerdb.storage.workers.threads import Thread, Workers

REMEMBERED = 16
"""Backups in the background that are told of, the newest ones."""
RETRY_SECONDS = 10.0
CLOSE_SECONDS = 15.0
"""How long a close waits for what a backup is asking its repository for, before it is cut off from
that and lets go of its lock there."""
CANCEL_SECONDS = 5.0
"""The same for a backup that is cancelled."""
_CANCELLED = "the backup was cancelled; what it has copied stays for the next one"


class BackupStatus(msgspec.Struct, frozen=True):
    """A backup in the background: how far it is, of how much, and what became of it."""

    id: str
    to: str
    state: Literal["running", "done", "failed"]
    objects: int = 0
    bytes: int = 0
    total_objects: int = 0
    total_bytes: int = 0
    error: str | None = None
    report: BackupReport | None = None


class _Task:
    """One backup in the background. ``status`` is replaced by its thread only."""

    def __init__(self, status: BackupStatus) -> None:
        self.status = status
        self.is_cancelled = False
        self.is_outwaited = False
        """Whether somebody waits for the end of what was cancelled."""
        self.thread: Thread | None = None
        self.target: Stores | None = None
        """Of the repository, once it is open."""
        self.locks: Stores | None = None
        """The same, for its lock, which it lets go of when it is cut off from ``target``."""

    def watch(self, progress: Progress) -> None:
        if self.is_cancelled:
            raise ClosedError(_CANCELLED)
        self.status = msgspec.structs.replace(self.status, **vars(progress))

    def outwait(self, seconds: float) -> None:
        """Wait for the end, and after so many seconds for no request to the repository but that
        its lock goes. May be called by several threads."""
        if self.thread is None:
            return
        self.thread.join(seconds)
        if self.target is not None:
            self.target.close()
        self.thread.join(LET_GO_SECONDS)
        if self.locks is not None:
            self.locks.close()
        self.thread.join()


class BackupTasks:
    """The backups of a database that is open for writing. Thread-safe."""

    def __init__(
        self,
        store: ObjectStore,
        manifest: ManifestWriter,
        flush: Callable[[], object],
        workers: Workers,
        components: Components,
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._flush = flush
        self._workers = workers
        self._random_bytes = components.random_bytes
        self._listener = components.listener
        # Guarded by the lock:
        self._lock = Lock()
        self._tasks: list[_Task] = []
        self._closed = False

    def run(self, to: str, wish: Wish, transfer: Transfer) -> BackupReport:
        """Flush, then back up into the repository ``to``; see :func:`back_up`."""
        with open_store(to, transfer.target_options) as target:
            return self._take(target, target, wish, transfer)

    def _take(
        self, target: ObjectStore, locks: ObjectStore, wish: Wish, transfer: Transfer
    ) -> BackupReport:
        self._flush()
        with transfer.carrier() as carrier:
            return back_up(
                self._store,
                target,
                wish,
                carrier,
                self._random_bytes,
                state=self._manifest.state,
                locks=locks,
            )

    def start(self, to: str, wish: Wish, transfer: Transfer) -> BackupStatus:
        """Begin :meth:`run` on a thread of its own. Raises: ``BusyError`` while another one runs
        there, and when there is no thread for it, ``ClosedError``."""
        shown = str(StoreLocation(to, transfer.target_options))
        task = _Task(BackupStatus(self._random_bytes(8).hex(), shown, "running"))
        with self._lock:
            if self._closed:
                raise ClosedError("the database is closed; open it again")
            if any(each.status.state == "running" for each in self._tasks):
                raise BusyError(
                    "another backup of this database runs in the background",
                    retry_after_seconds=RETRY_SECONDS,
                )
            task.thread = self._workers.start_thread(
                lambda: self._run(task, to, wish, replace(transfer, watch=task.watch)),
                "seerdb-backup",
            )
            self._tasks = [*self._tasks, task][-REMEMBERED:]
        return task.status

    def _run(self, task: _Task, to: str, wish: Wish, transfer: Transfer) -> None:
        try:
            with (
                open_stores(to, transfer.target_options) as task.target,
                open_stores(to, transfer.target_options) as task.locks,
            ):
                target, locks = task.target.of(Purpose.BACKUP), task.locks.of(Purpose.BACKUP)
                report = self._take(target, locks, wish, transfer)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            was_cut = task.is_cancelled and isinstance(error, ClosedError)
            told = _CANCELLED if was_cut else str(error)
            task.status = msgspec.structs.replace(task.status, state="failed", error=told)
            if not isinstance(error, SeerDBError) or not task.is_cancelled:
                self._listener(WorkFailed("backup", str(error), 1, 0.0))
        else:
            task.status = msgspec.structs.replace(task.status, state="done", report=report)

    def all(self) -> list[BackupStatus]:
        """The backups in the background, those of late too, oldest first."""
        with self._lock:
            return [task.status for task in self._tasks]

    def cancel(self, backup: str) -> None:
        """Have a backup in the background end soon. A repository that takes ``CANCEL_SECONDS`` for
        a request is cut off, and the lock there left to expire where that does not answer either.

        Raises: ``NotFoundError``; ``BusyError`` when there is no thread to wait in: then it ends
        when its repository answers, or after another call."""
        with self._lock:
            found = [task for task in self._tasks if task.status.id == backup]
            if not found:
                raise NotFoundError(f"there is no backup {backup!r} in the background")
            [task] = found
            task.is_cancelled = True
            if task.status.state == "running" and not task.is_outwaited:
                self._workers.start_thread(lambda: task.outwait(CANCEL_SECONDS), "seerdb-cancel")
                task.is_outwaited = True

    def points(self) -> RecoveryPoints:
        """What can be restored from the bucket of the database itself."""
        return recovery_points(open_archive(self._store))

    def close(self) -> None:
        """Cancel what runs, and wait for its end. A repository that takes ``CLOSE_SECONDS`` for a
        request is cut off, and the lock there left to expire where that does not answer either."""
        with self._lock:
            self._closed = True
            tasks = list(self._tasks)
        for task in tasks:
            task.is_cancelled = True
        for task in tasks:
            task.outwait(CLOSE_SECONDS)
