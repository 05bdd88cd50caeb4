"""Worker processes: how many there are, to whom they give way, and what they share with the process
that started them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from enum import StrEnum
from multiprocessing.context import SpawnContext, SpawnProcess
from queue import LifoQueue
from typing import Any, TypeVar

from seerdb.errors import BusyError, ClosedError
from seerdb.storage.allocator import share_one_arena

R = TypeVar("R")

SHARED_JOBS = 64
SHARED_NUMBERS = 8
"""How many jobs in processes may share how many numbers with this one."""
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

RUNTIME_CLOSED = "the runtime is closed; close it after its databases"

_boards: list[Any] = []
"""Of a worker process: the numbers that it shares with the process that started it."""


class SharedNumbers:
    """A few whole numbers that a worker process and the one that started it both see, each in one
    step."""

    def __init__(self, board: Any, place: int) -> None:
        self._board = board
        self._offset = place * SHARED_NUMBERS

    def __getitem__(self, position: int) -> int:
        number: int = self._board[self._offset + position]
        return number

    def __setitem__(self, position: int, number: int) -> None:
        self._board[self._offset + position] = number


def numbers_at(place: int) -> SharedNumbers:
    """In a worker process: the numbers of :meth:`WorkerProcesses.shared_numbers`."""
    return SharedNumbers(_boards[0], place)


def _start_worker(board: Any) -> None:
    """Leave it to the serving process to answer signals that a terminal or a service manager
    sends to the whole group, and do not outlive it."""
    share_one_arena()
    _boards.append(board)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="seerdb-parent", daemon=True).start()


def _be_ready() -> None:
    """The first job of a process that is started before there is one."""


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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


class _JobProcess(SpawnProcess):
    """Steps back behind the serving process before it imports anything: that alone keeps a core
    busy for a third of a second, just when a memtable is full."""

    def start(self) -> None:
        super().start()
        assert self.pid is not None
        niceness = os.getpriority(os.PRIO_PROCESS, 0) + JOB_NICENESS
        os.setpriority(os.PRIO_PROCESS, self.pid, niceness)  # 19 where it would be more


class _JobContext(SpawnContext):
    """Spawned, not forked: a fork would copy locks and connections in use."""

    Process = _JobProcess


class _Processes:
    """At most so many worker processes, each an executor of its own: one that dies breaks the whole
    executor it is in. Started when there is a job and none is idle. Thread-safe."""

    def __init__(self, most: int, start: Callable[[], ProcessPoolExecutor]) -> None:
        self._start = start
        self._most = most
        # Those that are idle, on top who worked last; ``None``: one that is not started.
        self._idle: LifoQueue[ProcessPoolExecutor | None] = LifoQueue()
        for _ in range(most):
            self._idle.put(None)
        self._is_closed = False

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Wait for an idle one, then for what the call returns there."""
        process = self._idle.get()
        try:
            if self._is_closed:
                raise ClosedError(RUNTIME_CLOSED)
            process = process or self._start()
            return process.submit(function, *args).result()
        except BrokenProcessPool:
            process = None
            raise
        finally:
            self._idle.put(process)

    def prepare(self) -> None:
        """Start one, if none is; does not wait until it can work."""
        process = self._idle.get()
        try:
            if process is None and not self._is_closed:
                process = self._start()
                process.submit(_be_ready)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End them; waits for what runs."""
        self._is_closed = True
        for process in [self._idle.get() for _ in range(self._most)]:
            if process is not None:
                process.shutdown(wait=True)
        self._idle.put(None)  # who still waits for one is told


class WorkerProcesses:
    """Those of one process, for all of its databases. Thread-safe."""

    def __init__(self) -> None:
        self._pools = {pool: _Processes(most, self._start) for pool, most in PROCESSES.items()}
        # Guarded by the lock:
        self._lock = threading.Lock()
        self._board: Any = None
        self._places = list(range(SHARED_JOBS))

    @contextmanager
    def shared_numbers(self) -> Iterator[tuple[int, SharedNumbers]]:
        """Numbers, all 0, to share with a job, which finds them by :func:`numbers_at` their
        place. Raises: ``BusyError`` when too many jobs do."""
        with self._lock:
            if not self._places:
                raise BusyError(
                    f"{SHARED_JOBS} jobs wait for processes; it runs again", retry_after_seconds=1.0
                )
            place = self._places.pop()
            numbers = SharedNumbers(self._shared_board(), place)
        for position in range(SHARED_NUMBERS):
            numbers[position] = 0
        try:
            yield place, numbers
        finally:
            with self._lock:
                self._places.append(place)

    def _shared_board(self) -> Any:
        if self._board is None:
            self._board = _JobContext().RawArray("q", SHARED_JOBS * SHARED_NUMBERS)
        return self._board

    def run(self, pool: Pool, function: Callable[..., Any], *args: Any) -> Any:
        """Run a picklable call in a worker process of ``pool`` and wait for what it returns.

        Raises: what the call raises, or ``BrokenProcessPool`` when its worker died; a later call
        then gets a new one.
        """
        return self._pools[pool].run(function, *args)

    def prepare(self, pool: Pool) -> None:
        """Start a process of ``pool``, if none is, for the first job not to wait for one that
        starts."""
        self._pools[pool].prepare()

    def run_alone(self, function: Callable[..., Any], *args: Any) -> Any:
        """As :meth:`run`, in a process of its own, :func:`patiently`, for what may take hours: no
        other job ever waits for it."""
        with self._start() as alone:
            return alone.submit(patiently, function, *args).result()

    def _start(self) -> ProcessPoolExecutor:
        with self._lock:
            board = self._shared_board()
        return ProcessPoolExecutor(
            1, mp_context=_JobContext(), initializer=_start_worker, initargs=(board,)
        )

    def close(self) -> None:
        """End them all; waits for what runs."""
        for processes in self._pools.values():
            processes.close()
