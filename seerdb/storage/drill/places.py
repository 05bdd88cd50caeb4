"""Drills between places that are named: in this process, or as a job in one of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from seerdb.clock import SystemClock
from seerdb.storage.backup.copying import Progress, nothing
from seerdb.storage.backup.places import (
    PLAIN,
    Transfer,
    bucket_of,
    open_database_store,
    open_store,
)
from seerdb.storage.drill.run import DrillReport, run_drill
from seerdb.storage.jobs.control import JobControl
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.workers.shared_numbers import numbers_at


@dataclass(frozen=True)
class DrillJob:
    """The bucket of a database, its backups, and where to restore them: in a folder of the last.
    ``backup``: the id of one; ``None``: the newest."""

    source: StoreLocation
    repository: StoreLocation
    scratch: StoreLocation
    backup: str | None = None

    def run(self, control: JobControl, watch: Callable[[Progress], None] = nothing) -> DrillReport:
        """See :func:`run_drill`."""
        with (
            open_database_store(self.source.url, self.source.options) as source,
            open_store(self.repository.url, self.repository.options) as repository,
            open_store(self.scratch.url, self.scratch.options) as scratch,
        ):
            return run_drill(
                source,
                repository,
                scratch,
                backup=self.backup,
                control=control,
                clock=SystemClock(),
                random_bytes=os.urandom,
                watch=watch,
            )


def run_in_worker(job: DrillJob, place: int) -> DrillReport:
    """In a worker process; ``place``: that of the numbers by which it is controlled."""
    return job.run(JobControl(numbers_at(place)))


def drill(
    source: str,
    repository: str,
    *,
    scratch: str | None = None,
    backup: str | None = None,
    transfer: Transfer = PLAIN,
) -> DrillReport:
    """Restore the newest backup in ``repository``, or the one of that id, into a folder of
    ``scratch`` (default: the repository), and compare it with what the database whose bucket is
    ``source`` was then. The folder is deleted afterwards.

    ``transfer``: its ``rate`` holds for all that is read and written; the target options are those
    of repository and scratch. Raises: ``NotFoundError`` when there is no backup, or something of it
    is gone, ``CorruptionError`` when it is damaged, or does not bring back what was there,
    ``ConflictError`` for another database's backup, ``UnavailableError``.
    """
    options = transfer.target_options
    control = JobControl()
    control.rate = transfer.rate
    job = DrillJob(
        StoreLocation(bucket_of(source), transfer.source_options),
        StoreLocation(repository, options),
        StoreLocation(scratch or repository, options),
        backup,
    )
    return job.run(control, transfer.watch)
