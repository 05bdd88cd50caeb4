"""Worker processes: how many there are, and to whom they give way."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, suppress
from enum import StrEnum
from queue import Empty, LifoQueue
from typing import Any, TypeVar

from seerdb.errors import ClosedError
from seerdb.storage.workers.job_process import JobProcess, ProcessDied
from seerdb.storage.workers.shared_numbers import Board, SharedNumbers

R = TypeVar("R")

JOB_NICENESS = 10
"""Jobs yield to the serving process: where they compete, it gets nine tenths of a core."""
PATIENT_NICENESS = 19
"""Where nobody waits for a job, it yields to the others as well: beside one of them it gets an
eighth of a core, beside the serving process a seventieth."""


class Pool(StrEnum):
    """The worker processes for one kind of job, which never waits for those of another."""

    PROMPT = "prompt"
    """Flushes, and what else somebody waits for."""
    MERGES = "merges"


PROCESSES = {Pool.PROMPT: 2, Pool.MERGES: 2}
"""At most. The second prompt one is for flushes beside an ingest, or of another database."""


class NoneIdle(Exception):
    """All processes of a pool had other jobs for as long as somebody was ready to wait."""


class NotStarted(Exception):
    """The system gives no other process, the interpreter's program is gone, or what was started
    ended before it could work, as where modules are gone or limits leave it no memory."""


RUNTIME_CLOSED = "the runtime is closed; close it after its databases"


def patiently(function: Callable[..., R], *args: Any) -> R:
    """In a worker process: a call that steps back behind all other jobs.

    It gets a thread of its own. On Linux niceness is a thread's, and nobody may take it back: so
    the process keeps the one that it had, for the next job. Elsewhere it is a plain call.
    """
    if sys.platform != "linux":
        return function(*args)
    with ThreadPoolExecutor(1, "seerdb-patient", initializer=_step_back) as thread:
        return thread.submit(function, *args).result()


def _step_back() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, PATIENT_NICENESS)


class _Processes:
    """At most so many worker processes. Started when there is a job and none is idle.
    Thread-safe."""

    def __init__(self, most: int, start: Callable[[], JobProcess]) -> None:
        self._start = start
        self._most = most
        # Those that are idle, on top who worked last; ``None``: one that is not started.
        self._idle: LifoQueue[JobProcess | None] = LifoQueue()
        for _ in range(most):
            self._idle.put(None)
        self._running: set[JobProcess] = set()  # added to and taken from by who runs in it
        self._is_closed = False
        self._closing = threading.Lock()

    def run(self, patience: float | None, function: Callable[..., Any], *args: Any) -> Any:
        """Wait for an idle one, then for what the call returns there."""
        try:
            process = self._idle.get(timeout=patience)
        except Empty:
            raise NoneIdle from None
        try:
            if self._is_closed:
                raise ClosedError(RUNTIME_CLOSED)
            if process is not None and process.has_ended:  # while it was idle
                process.close()
                process = None
            process = process or self._start()
            self._running.add(process)
            if self._is_closed:  # meanwhile: :meth:`cut_off` may have missed it
                process.cut_off()
            return self._call(process, function, *args)
        finally:
            if process is not None:
                self._running.discard(process)
            self._idle.put(process if process and process.is_alive else None)

    def _call(self, process: JobProcess, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return process.call(function, *args)
        except ProcessDied as error:
            if process.has_worked or self._is_closed:
                raise
            raise NotStarted(str(error)) from error

    def prepare(self) -> None:
        """Start one, if none is and one can be; waits neither until it can work nor for those that
        do."""
        try:
            process = self._idle.get_nowait()
        except Empty:
            return
        try:
            if process is None and not self._is_closed:
                with suppress(NotStarted):  # the first job is told, which does without
                    process = self._start()
        finally:
            self._idle.put(process)

    def cut_off(self) -> None:
        """Have calls that run raise ``ProcessDied`` soon, and all to come ``ClosedError``."""
        self._is_closed = True
        for process in tuple(self._running):
            process.cut_off()

    def close(self) -> None:
        """End them; waits for what runs. Idempotent."""
        self._is_closed = True
        with self._closing:  # two would each wait for what the other has taken
            for process in [self._idle.get() for _ in range(self._most)]:
                if process is not None:
                    process.close()
            for _ in range(self._most):
                self._idle.put(None)  # who still waits for one is told


class WorkerProcesses:
    """Those of one process, for all of its databases. Thread-safe."""

    def __init__(self) -> None:
        self._pools = {pool: _Processes(most, self._start) for pool, most in PROCESSES.items()}
        self._alone: set[JobProcess] = set()  # added to and taken from by who runs in it
        self._is_cut_off = False
        # Guarded by the lock:
        self._lock = threading.Lock()
        self._board: Board | None = None
        self._is_closed = False

    def shared_numbers(self) -> AbstractContextManager[tuple[int, SharedNumbers]]:
        """See :meth:`Board.lend`. Raises: ``NotStarted`` when there is no room for them."""
        return self._shared_board().lend()

    def run(
        self,
        pool: Pool,
        function: Callable[..., Any],
        *args: Any,
        patience: float | None = None,
    ) -> Any:
        """Run a picklable call in a worker process of ``pool`` and wait for what it returns.

        Raises: what the call raises; ``ProcessDied`` when its worker died, after which a later call
        gets a new one; ``NoneIdle`` when all are busy for ``patience`` seconds; ``NotStarted``.
        """
        return self._pools[pool].run(patience, function, *args)

    def prepare(self, pool: Pool) -> None:
        """Start a process of ``pool``, if none is, for the first job not to wait for one that
        starts."""
        self._pools[pool].prepare()

    def run_alone(self, function: Callable[..., Any], *args: Any) -> Any:
        """As :meth:`run`, in a process of its own, :func:`patiently`, for what may take hours: no
        other job ever waits for it."""
        with closing(self._start()) as alone:
            self._alone.add(alone)
            if self._is_cut_off:
                alone.cut_off()
            try:
                return alone.call(patiently, function, *args)
            finally:
                self._alone.discard(alone)

    def _start(self) -> JobProcess:
        board = self._shared_board()
        try:
            return JobProcess(board.fileno(), JOB_NICENESS)
        except OSError as error:
            raise NotStarted(str(error)) from error

    def _shared_board(self) -> Board:
        with self._lock:
            if self._is_closed:
                raise ClosedError(RUNTIME_CLOSED)
            if self._board is None:
                try:
                    self._board = Board()
                except OSError as error:
                    raise NotStarted(str(error)) from error
            return self._board

    def cut_off(self) -> None:
        """Have all calls that run raise ``ProcessDied`` soon: what they wait for does not come."""
        self._is_cut_off = True
        for processes in self._pools.values():
            processes.cut_off()
        for alone in tuple(self._alone):
            alone.cut_off()

    def close(self) -> None:
        """End them all; waits for what runs. Idempotent."""
        for processes in self._pools.values():
            processes.close()
        with self._lock:
            self._is_closed = True
            if self._board is not None:
                self._board.close()
