"""The part of ``DB`` that is about backups, drills with them, and clones."""

from __future__ import annotations

from dataclasses import replace

from seerdb.errors import InvalidRequestError
from seerdb.past import Past
from seerdb.storage.backup.places import PLAIN, Transfer, recovery_points
from seerdb.storage.backup.points import RecoveryPoints
from seerdb.storage.backup.take import BackupReport, Wish
from seerdb.storage.backup.tasks import BackupStatus, BackupTasks
from seerdb.storage.clone.make import CloneReport
from seerdb.storage.clone.places import clone
from seerdb.storage.drill.run import DrillReport
from seerdb.storage.drill.schedule import Drills, Surroundings
from seerdb.storage.engine.engine import Engine
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.outward import check_may_wait


class Backups(Past):
    """What :class:`~seerdb.db.DB` inherits; not to be used by itself."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._tasks = BackupTasks(
            engine.stores.of(Purpose.BACKUP),
            engine.manifest,
            engine.flush_and_ship,
            engine.runtime.workers,
            engine.components,
        )
        components = engine.components
        self._drills = Drills(
            engine.options,
            Surroundings(
                store=engine.stores.of(Purpose.BACKUP),
                location=engine.stores.location,
                directory=engine.opened.directory,
                files=components.files,
                workers=engine.runtime.workers,
                clock=components.clock,
                random_bytes=components.random_bytes,
                listener=components.listener,
            ),
        )
        self._drills.begin()

    def drill(self) -> DrillReport:
        """A restore drill, now, as the settings say: the newest backup in ``drill_repository`` is
        restored into a folder, which is deleted afterwards, and compared with what the database
        was then. What came of it is in :meth:`statistics` and :meth:`health`.

        As :func:`seerdb.drill`, and raises as that; ``BusyError`` while another one runs.
        """
        check_may_wait("a drill")
        self._engine.check_open()
        return self._drills.run()

    def backup(
        self,
        to: str,
        *,
        label: str = "",
        keep: bool = False,
        full: bool = False,
        transfer: Transfer = PLAIN,
    ) -> BackupReport:
        """Back up everything committed so far into the repository ``to``, any URL or a directory,
        while writes go on. Flushes first, then copies what the repository lacks.

        As :func:`seerdb.backup`, and raises as that.
        """
        self._engine.check_open()
        wish = Wish(label=label, keep=keep, full=full)
        return self._tasks.run(to, wish, transfer)

    def start_backup(
        self,
        to: str,
        *,
        label: str = "",
        keep: bool = False,
        full: bool = False,
        transfer: Transfer = PLAIN,
    ) -> BackupStatus:
        """As :meth:`backup`, in the background: :meth:`backups` tells what becomes of it. Closing
        the database ends it. Raises ``BusyError`` while another one runs."""
        self._engine.check_open()
        wish = Wish(label=label, keep=keep, full=full)
        return self._tasks.start(to, wish, transfer)

    def backups(self) -> list[BackupStatus]:
        """The backups in the background since the database was opened: how far they are, and what
        became of those that are over."""
        self._engine.check_open()
        return self._tasks.all()

    def cancel_backup(self, backup: str) -> None:
        """Have a backup in the background end soon, also one whose repository does not answer; what
        it has copied stays for the next one. Raises ``NotFoundError``."""
        self._engine.check_open()
        self._tasks.cancel(backup)

    def recovery_points(self, repository: str | None = None) -> RecoveryPoints:
        """What can be restored from the bucket of this database, or from a repository."""
        self._engine.check_open()
        if repository is not None:
            return recovery_points(repository)
        return self._tasks.points()

    def clone(
        self,
        to: str,
        *,
        at: float | None = None,
        seq: int | None = None,
        checkpoint: str | None = None,
        transfer: Transfer = PLAIN,
    ) -> CloneReport:
        """Make a writable branch of this database in ``to``, which the same store reaches, while
        writes go on. Flushes first: it shows everything committed so far, unless told otherwise.

        As :func:`seerdb.clone`, and raises as that; the options of the store are this database's.
        """
        self._engine.check_open()
        location = self._engine.stores.location
        if location is None:
            raise InvalidRequestError("a clone needs a store that has a URL, or is a directory")
        self._engine.flush_and_ship()
        transfer = replace(transfer, target_options=location.options)
        return clone(location.url, to, at=at, seq=seq, checkpoint=checkpoint, transfer=transfer)

    def _end_backups(self) -> None:
        self._drills.close()
        self._tasks.close()
