"""Drills of an open database, one every ``drill_interval``, and what became of them.

A drill runs in a process of its own where jobs run in processes, so that neither requests nor
other jobs wait for it; else in a thread. The interval runs by the monotonic clock from the end of
the last drill. A restart goes on with it: what is left by the wall clock, but never more than a
whole one, so no wrong clock puts drills off. What failed because a store was away is tried again
sooner.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import msgspec

from seerdb.clock import Clock
from seerdb.errors import (
    BusyError,
    ClosedError,
    DiskError,
    InvalidRequestError,
    UnavailableError,
    WorkerError,
)
from seerdb.events import DrillCompleted, Listener, WorkFailed
from seerdb.options import Options
from seerdb.storage.backup.places import open_store
from seerdb.storage.drill.outcome import DrillOutcome, load_outcome, save_outcome
from seerdb.storage.drill.places import DrillJob, run_in_worker
from seerdb.storage.drill.run import DrillReport, run_drill
from seerdb.storage.jobs.control import JobControl
from seerdb.storage.local.files import FileSystem
from seerdb.storage.manifest.fencing import RandomBytes
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.workers.job_process import ProcessDied
from seerdb.storage.workers.processes import NotStarted
from seerdb.storage.workers.threads import Thread, Workers

RETRY_SECONDS = 600.0
"""When a store was away: or sooner, if the interval is shorter."""
CLOSE_SECONDS = 5.0
"""How long a close waits for a drill that was told to end."""


class DrillStatistics(msgspec.Struct, frozen=True):
    """Drills since the database was opened, and the ``last`` one, of earlier lives too."""

    drills: int = 0
    failures: int = 0
    is_running: bool = False
    last: DrillOutcome | None = None

    @property
    def values(self) -> dict[str, float]:
        """Single numbers by name, for metrics; of the last drill 0 where there is none."""
        last = self.last or DrillOutcome(0.0)
        report = last.report
        return {
            "drills": self.drills,
            "drill_failures": self.failures,
            "drill_success": last.ok,
            "drill_compared": report is not None and report.compared,
            "drill_ended_time": last.ended,
            "drill_seconds": report.seconds if report is not None else 0.0,
            "drill_rpo_seconds": report.rpo_seconds if report is not None else 0.0,
        }


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What drills need of the database that they belong to. ``location``: ``None`` where its store
    was given; ``store`` is for that case."""

    store: ObjectStore
    location: StoreLocation | None
    directory: str
    files: FileSystem
    workers: Workers
    clock: Clock
    random_bytes: RandomBytes
    listener: Listener


class Drills:
    """The drills of one database. Thread-safe."""

    def __init__(self, options: Options, around: Surroundings) -> None:
        self._options = options
        self._around = around
        # Guarded by the lock:
        self._lock = Lock()
        self._control: JobControl | None = None
        self._thread: Thread | None = None
        self._closed = False
        found = load_outcome(around.files, around.directory) if options.drill_repository else None
        self._begun = None if found is None else found.ended
        last = found if found is not None and found.is_of_a_drill else None
        self._statistics = DrillStatistics(last=last)

    def begin(self) -> None:
        """Have the next one come when it is due; inline nothing comes by itself."""
        interval = self._options.drill_interval
        if not interval or self._around.workers.is_inline:
            return
        now = self._around.clock.now()
        if self._begun is None:  # or who is restarted within each interval would never drill
            self._begun = now
            self._save(DrillOutcome(now))
        self._later(min(max(self._begun + interval - now, 0.0), interval))

    def _later(self, seconds: float) -> None:
        self._around.workers.timer.call_later(seconds, self._start)

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                return
            try:
                self._thread = self._around.workers.start_thread(self._turn, "seerdb-drill")
            except BusyError:
                self._later(min(RETRY_SECONDS, self._options.drill_interval))
                raise

    def _turn(self) -> None:
        interval = self._options.drill_interval
        try:
            self.run()
        except (UnavailableError, BusyError):
            self._later(min(RETRY_SECONDS, interval))
        except ClosedError:
            return
        except Exception:  # noqa: BLE001 - it is told, and shown by health
            self._later(interval)
        else:
            self._later(interval)

    def run(self) -> DrillReport:
        """One drill, now. Raises what :func:`run_drill` does, and ``BusyError`` while another one
        runs."""
        control = self._enter()
        outcome = None
        try:
            try:
                report = self._drill(control)
            except BaseException as error:
                if not control.is_cancelled:
                    outcome = DrillOutcome(self._around.clock.now(), error=_in_words(error))
                raise
            outcome = DrillOutcome(self._around.clock.now(), report)
        finally:
            self._leave(outcome)
        return report

    def _enter(self) -> JobControl:
        with self._lock:
            if self._closed:
                raise ClosedError("the database is closed; open it again")
            if self._control is not None:
                raise BusyError("a restore drill is under way", retry_after_seconds=RETRY_SECONDS)
            control = self._control = JobControl()
            self._statistics = msgspec.structs.replace(self._statistics, is_running=True)
        control.rate = self._options.drill_rate
        return control

    def _leave(self, outcome: DrillOutcome | None) -> None:
        """``None``: it was ended before it had one."""
        with self._lock:
            self._control = None
            before = self._statistics
            self._statistics = DrillStatistics(
                before.drills + (outcome is not None),
                before.failures + (outcome is not None and not outcome.ok),
                last=outcome or before.last,
            )
        if outcome is not None:
            self._save(outcome)
            self._tell(outcome)

    def _save(self, outcome: DrillOutcome) -> None:
        around = self._around
        try:
            save_outcome(around.files, around.directory, outcome)
        except DiskError as error:
            around.listener(WorkFailed("remember a restore drill", str(error), 1, 0.0))

    def _tell(self, outcome: DrillOutcome) -> None:
        around, report = self._around, outcome.report
        if report is None:
            failed = WorkFailed("restore drill", outcome.error, 1, self._options.drill_interval)
            around.listener(failed)
        else:
            around.listener(
                DrillCompleted(
                    backup=report.backup,
                    seq=report.seq,
                    compared=report.compared,
                    note=report.note,
                    rpo_seconds=report.rpo_seconds,
                    seconds=report.seconds,
                )
            )

    def _drill(self, control: JobControl) -> DrillReport:
        options, around = self._options, self._around
        if options.drill_repository is None:
            raise InvalidRequestError("the setting drill_repository does not say where backups are")
        repository = StoreLocation(options.drill_repository, options.drill_store_options)
        scratch = repository
        if options.drill_scratch is not None:
            scratch = StoreLocation(options.drill_scratch, options.drill_store_options)
        if around.location is None:
            return self._drill_here(repository, scratch, control)
        job = DrillJob(around.location, repository, scratch)
        if around.workers.background != "process":
            return job.run(control)
        try:
            processes = around.workers.processes
            with processes.shared_numbers() as (place, numbers), control.shared(numbers):
                made: DrillReport = processes.run_alone(run_in_worker, job, place)
        except ProcessDied as error:
            raise WorkerError("the process of the drill died; it is tried again") from error
        except NotStarted as error:
            raise WorkerError(f"no process for the drill can be started: {error}") from error
        return made

    def _drill_here(
        self, repository: StoreLocation, scratch: StoreLocation, control: JobControl
    ) -> DrillReport:
        around = self._around
        with (
            open_store(repository.url, repository.options) as kept,
            open_store(scratch.url, scratch.options) as place,
        ):
            return run_drill(
                around.store,
                kept,
                place,
                backup=None,
                control=control,
                clock=around.clock,
                random_bytes=around.random_bytes,
            )

    @property
    def statistics(self) -> DrillStatistics:
        """What there was. Never waits."""
        return self._statistics

    def close(self) -> None:
        """End what runs, and begin nothing more. A drill that waits longer than ``CLOSE_SECONDS``
        for a store is left to itself, and what it leaves there to the next one."""
        with self._lock:
            self._closed = True
            thread = self._thread
            if self._control is not None:
                self._control.cancel()
        if thread is not None:
            thread.join(CLOSE_SECONDS)


def _in_words(error: BaseException) -> str:
    return str(error) or type(error).__name__
