"""Running a job where it belongs: in this thread, or in a worker process; ``remote.py``: on
another machine.

A job is a small picklable record that names durable inputs; its function takes the job, a file
system, an object store and a pace, and returns a small picklable record. What it wrote counts only
once the manifest names it, so a worker that dies costs time and nothing else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol, TypeVar

from seerdb.clock import Clock, SystemClock
from seerdb.errors import WorkerError
from seerdb.storage.jobs.building import AsideObjectStore
from seerdb.storage.jobs.control import JobControl, under_control
from seerdb.storage.local.files import FileSystem
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.borrowing import BorrowingObjectStore
from seerdb.storage.object_store.breaker import CircuitBreaker
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Purpose, RequestMeter, RequestStatistics
from seerdb.storage.object_store.stack import stack
from seerdb.storage.retention.loans import kept_names
from seerdb.storage.workers.allocator import keep_freed_pieces
from seerdb.storage.workers.job_process import ProcessDied, promptly
from seerdb.storage.workers.pace import Pace, at_full_speed
from seerdb.storage.workers.processes import NoneIdle, NotStarted, Pool, patiently
from seerdb.storage.workers.shared_numbers import numbers_at
from seerdb.storage.workers.threads import Workers

Job = TypeVar("Job")
Result = TypeVar("Result")
FLUSH_PATIENCE = 10.0
"""Seconds that a flush waits for a worker process. Those it waits for may wait for their bucket."""

JobFunction = Callable[[Job, FileSystem, ObjectStore, Pace], Result]


class JobRunner(Protocol):
    """Runs a job to its end, wherever, and returns its result or raises its error.

    ``shares_memory``: jobs run in this process, and may be given what cannot be pickled.
    ``shares_disk``: they see the local disk of the database.
    """

    @property
    def shares_memory(self) -> bool:
        """See above."""

    @property
    def shares_disk(self) -> bool:
        """See above."""

    @property
    def at_once(self) -> int:
        """How many jobs of one database may run beside each other."""

    def run(
        self,
        function: JobFunction[Job, Result],
        job: Job,
        purpose: Purpose,
        control: JobControl | None = None,
    ) -> Result:
        """Block until the job is done. Raises ``ClosedError`` when ``control`` cancels it."""


class LocalRunner:
    """Runs jobs in the calling thread, on the ports of the database; flushes only while they have
    one of the ``flushes`` places, if they are bounded, or wait for their store."""

    shares_memory = True
    shares_disk = True

    def __init__(
        self,
        files: FileSystem,
        store_for: Callable[[Purpose], ObjectStore],
        pace_for: Callable[[Purpose], Pace] = lambda _: at_full_speed,
        clock: Clock | None = None,
        flushes: threading.Semaphore | None = None,
    ) -> None:
        self._files = files
        self._store_for = store_for
        self._pace_for = pace_for
        self._clock = clock or SystemClock()
        self._flushes = flushes

    @property
    def at_once(self) -> int:
        """One: Python runs one thread at a time."""
        return 1

    def run(
        self,
        function: JobFunction[Job, Result],
        job: Job,
        purpose: Purpose,
        control: JobControl | None = None,
    ) -> Result:
        """See :class:`JobRunner`."""
        store, pace = under_control(
            control, self._store_for(purpose), self._pace_for(purpose), self._clock
        )
        keep_freed_pieces()
        if self._flushes is None or purpose is not Purpose.FLUSH:
            return function(job, self._files, store, pace)
        with self._flushes:
            return function(job, self._files, AsideObjectStore(store, self._flushes), pace)


class ProcessRunner:
    """Runs jobs in worker processes, which open the store by its location.

    Merges have processes of their own, and give way to all other jobs unless they are urgent when
    they begin. A flush that is urgent then gives way to nobody: beside other programs that keep all
    processors busy writes would go on at its pace. One that gets no process within
    ``FLUSH_PATIENCE`` runs ``here``: others may hold them all for as long as their bucket stalls.
    So does one for which none can be started.
    """

    shares_memory = False
    shares_disk = True

    def __init__(
        self,
        workers: Workers,
        location: StoreLocation,
        meter: RequestMeter,
        is_urgent: Callable[[Purpose], bool],
        here: LocalRunner,
    ) -> None:
        self._here = here
        self._workers = workers
        self._processes = workers.processes
        self._location = location
        self._meter = meter
        self._is_urgent = is_urgent

    @property
    def at_once(self) -> int:
        """As many as there are processes for merges; see ``workers/processes.py``."""
        return self._workers.compactions

    def run(
        self,
        function: JobFunction[Job, Result],
        job: Job,
        purpose: Purpose,
        control: JobControl | None = None,
    ) -> Result:
        """See :class:`JobRunner`. Raises ``WorkerError`` when the worker died, or none can be
        started."""
        call = _run_job, function, job, self._location, purpose
        result: Result
        try:
            if control is None:
                result, statistics = self._run(purpose, *call)
            else:
                share = self._processes.shared_numbers
                with share() as (place, numbers), control.shared(numbers):
                    result, statistics = self._run(purpose, *call, place)
        except NoneIdle:
            return self._here.run(function, job, purpose, control)
        except NotStarted as error:
            if purpose is Purpose.FLUSH:
                return self._here.run(function, job, purpose, control)
            raise WorkerError(f"no worker process can be started: {error}") from error
        except ProcessDied as error:
            raise WorkerError(f"a worker process died; its job runs again: {error}") from error
        self._meter.merge(statistics)
        return result

    def _run(self, purpose: Purpose, *call: Any) -> Any:
        """Which processes a job goes to, and what it gives way to there."""
        run, is_urgent = self._processes.run, self._is_urgent(purpose)
        match purpose:
            case Purpose.FLUSH:
                way = (promptly,) if is_urgent else ()
                return run(Pool.PROMPT, *way, *call, patience=FLUSH_PATIENCE)
            case Purpose.COMPACTION:
                way = () if is_urgent else (patiently,)
                return run(Pool.MERGES, *way, *call)
        return run(Pool.PROMPT, *call)


MOST_STORES = 8
_stores: deque[tuple[StoreLocation, ObjectStore]] = deque(maxlen=MOST_STORES)
"""Of a worker process, those opened last: connections are kept from job to job. The oldest is let
go of, not closed, for on a cluster a job beside may still use it; then it closes by itself."""


def _store_at(location: StoreLocation) -> ObjectStore:
    for known, store in tuple(_stores):
        if known == location:
            return store
    store = location.open()
    if lenders := location.debt.loans.lenders:
        lent = [location.other(lender.url).open() for lender in lenders]
        store = BorrowingObjectStore(store, location.debt, lent, kept_names)
    _stores.append((location, store))
    return store


def _run_job(
    function: JobFunction[Job, Result],
    job: Job,
    location: StoreLocation,
    purpose: Purpose,
    place: int | None = None,
) -> tuple[Result, tuple[RequestStatistics, ...]]:
    meter = RequestMeter()
    control = None if place is None else JobControl(numbers_at(place))
    store, pace = under_control(
        control, metered_store(location, purpose, meter), at_full_speed, SystemClock()
    )
    return function(job, OsFileSystem(), store, pace), meter.statistics()


def metered_store(location: StoreLocation, purpose: Purpose, meter: RequestMeter) -> ObjectStore:
    """The store of one job, in whatever process it runs."""
    clock = SystemClock()
    return stack(
        _store_at(location),
        meter=meter,
        purpose=purpose,
        breaker=CircuitBreaker(clock),
        clock=clock,
        random=Random(),
    )
