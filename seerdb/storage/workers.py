"""The only module that starts threads and processes: executors, and a timer.

A database costs no thread while it has nothing to do: those of :class:`Workers` are shared by all
databases of the process; see ``lanes.py``.
"""

from __future__ import annotations

import heapq
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from enum import StrEnum
from multiprocessing.context import SpawnContext, SpawnProcess
from queue import LifoQueue
from typing import Any, TypeVar

from seerdb.clock import Clock
from seerdb.errors import BusyError, ClosedError
from seerdb.storage.allocator import share_one_arena

T = TypeVar("T")
R = TypeVar("R")

Thread = threading.Thread
"""What :meth:`Workers.start_thread` returns; join it."""

LANE_THREADS = 4
SHIP_THREADS = 8
"""Ships of all databases: each is little but waiting for the bucket."""
FETCH_THREADS = 16
CHECK_THREADS = 8
"""Whole objects that are read and checked side by side; each is in memory meanwhile."""
COMPACTION_THREADS = 4
"""Compactions of all databases that run in threads: one for each database."""
RESTART_SECONDS = 0.1
"""How long a loop rests that raised, before it is run again."""
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

_RUNTIME_CLOSED = "the runtime is closed; close it after its databases"

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
    """In a worker process: the numbers of :meth:`Workers.shared_numbers`."""
    return SharedNumbers(_boards[0], place)


def _start_worker(board: Any) -> None:
    """Leave it to the serving process to answer signals that a terminal or a service manager
    sends to the whole group, and do not outlive it."""
    share_one_arena()
    _boards.append(board)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="seerdb-parent", daemon=True).start()


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
                raise ClosedError(_RUNTIME_CLOSED)
            process = process or self._start()
            return process.submit(function, *args).result()
        except BrokenProcessPool:
            process = None
            raise
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End them; waits for what runs."""
        self._is_closed = True
        for process in [self._idle.get() for _ in range(self._most)]:
            if process is not None:
                process.shutdown(wait=True)
        self._idle.put(None)  # who still waits for one is told


class InlineExecutor(Executor):
    """Runs each call at once in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it is raised again by future.result()
            future.set_exception(error)
        return future


def transfer_threads(count: int) -> Executor:
    """Threads for requests of one copy, which wait rather than compute; shut them down. One at a
    time needs none."""
    return ThreadPoolExecutor(count, "seerdb-transfer") if count > 1 else InlineExecutor()


@contextmanager
def check_threads() -> Iterator[Executor]:
    """Threads for reading a bucket as a whole, which end with the context."""
    pool = ThreadPoolExecutor(CHECK_THREADS, "seerdb-check")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_order(threads: Executor, call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """What ``call`` returns for each item, in the order of the items, while ``CHECK_THREADS`` of
    the calls are under way or done and not taken. Raises what a call raises, in its turn."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        if len(waiting) == CHECK_THREADS:
            yield waiting.popleft().result()
        waiting.append(threads.submit(call, item))
    while waiting:
        yield waiting.popleft().result()


def _tell_of_exception() -> None:
    """As the end of a thread is told of."""
    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


class Timer:
    """One thread that makes calls later; started by the first call."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Make a quick call on the timer's thread. Dropped at close. If it raises, that is told to
        ``threading.excepthook``."""
        due = self._clock.monotonic() + seconds
        with self._condition:
            if self._closed:
                return
            heapq.heappush(self._calls, (due, next(self._order), call))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="seerdb-timer", daemon=True)
                self._thread.start()
            self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._closed and not self._is_due():
                    due = self._calls[0][0] - self._clock.monotonic() if self._calls else None
                    self._condition.wait(due)
                if self._closed:
                    return
                call = heapq.heappop(self._calls)[2]
            try:
                call()
            except Exception:  # noqa: BLE001 - told; the others need this thread
                _tell_of_exception()

    def _is_due(self) -> bool:
        return bool(self._calls) and self._calls[0][0] <= self._clock.monotonic()

    def close(self) -> None:
        """Drop what is waiting and end the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()


class Workers:
    """The threads and processes one process shares among its databases.

    ``background`` is where jobs run: ``inline`` starts no thread at all for background work
    (lanes then run in the caller of :meth:`Lane.wake`), ``thread`` or ``process``.
    ``compactions`` is how many run at once where they do not run here; ``None``: in the processes.
    """

    def __init__(self, background: str, clock: Clock, compactions: int | None = None) -> None:
        self.background = background
        self.compactions = compactions or PROCESSES[Pool.MERGES]
        self.clock = clock
        self.timer = Timer(clock)
        self.fetchers: Executor = ThreadPoolExecutor(FETCH_THREADS, "seerdb-fetch")
        self._lanes = ThreadPoolExecutor(LANE_THREADS, "seerdb-lane")
        self._ships = ThreadPoolExecutor(SHIP_THREADS, "seerdb-ship")
        threads = self.compactions if background == "process" else COMPACTION_THREADS
        self._compactions = ThreadPoolExecutor(threads, "seerdb-compaction")
        self._processes = {
            pool: _Processes(most, self._start_process) for pool, most in PROCESSES.items()
        }
        # Guarded by the lock:
        self._lock = threading.Lock()
        self._board: Any = None
        self._places = list(range(SHARED_JOBS))

    @property
    def is_inline(self) -> bool:
        """Whether background work runs in the caller."""
        return self.background == "inline"

    def submit_lane(self, run: Callable[[], None]) -> None:
        """Run a lane's turn on a shared thread. Raises: ``ClosedError`` after :meth:`close`."""
        self._submit(self._lanes, run)

    def submit_ship(self, run: Callable[[], None]) -> None:
        """As :meth:`submit_lane`, for turns that never wait for flushes."""
        self._submit(self._ships, run)

    def submit_compaction(self, run: Callable[[], None]) -> None:
        """As :meth:`submit_lane`, for turns that may take hours: others never wait for them."""
        self._submit(self._compactions, run)

    def _submit(self, pool: Executor, run: Callable[[], None]) -> None:
        try:
            pool.submit(run)
        except RuntimeError as error:
            raise ClosedError(_RUNTIME_CLOSED) from error

    def start_thread(self, run: Callable[[], None], name: str) -> Thread:
        """A thread of its own, for a loop that ends by itself."""
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def start_loop(self, run: Callable[[], None], name: str) -> Thread:
        """As :meth:`start_thread`, for a loop that others rely on: if it raises, that is told to
        ``threading.excepthook``, and it is run again."""

        def going_on() -> None:
            while True:
                try:
                    return run()
                except Exception:  # noqa: BLE001 - told
                    _tell_of_exception()
                self.clock.sleep(RESTART_SECONDS)

        return self.start_thread(going_on, name)

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

    def run_in_process(self, pool: Pool, function: Callable[..., Any], *args: Any) -> Any:
        """Run a picklable call in a worker process of ``pool`` and wait for what it returns.

        Raises: what the call raises, or ``BrokenProcessPool`` when its worker died; a later call
        then gets a new one.
        """
        return self._processes[pool].run(function, *args)

    def run_alone(self, function: Callable[..., Any], *args: Any) -> Any:
        """As :meth:`run_in_process`, in a process of its own, :func:`patiently`, for what may take
        hours: no other job ever waits for it."""
        with self._start_process() as alone:
            return alone.submit(patiently, function, *args).result()

    def _start_process(self) -> ProcessPoolExecutor:
        with self._lock:
            board = self._shared_board()
        return ProcessPoolExecutor(
            1, mp_context=_JobContext(), initializer=_start_worker, initargs=(board,)
        )

    def close(self) -> None:
        """End all threads and processes; waits for what runs."""
        self.timer.close()
        self._lanes.shutdown(wait=True)
        self._ships.shutdown(wait=True)
        self._compactions.shutdown(wait=True)
        self.fetchers.shutdown(wait=True)
        for processes in self._processes.values():
            processes.close()
