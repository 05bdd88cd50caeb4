"""Threads, which only this module starts in a process with databases: executors, and a timer.

A database costs no thread while it has nothing to do: those of :class:`Workers` are shared by all
databases of the process; see ``lanes.py``.
"""

from __future__ import annotations

import heapq
import itertools
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from seerdb.clock import Clock
from seerdb.errors import BusyError, ClosedError, SeerDBError
from seerdb.storage.workers.allocator import share_one_arena
from seerdb.storage.workers.job_process import require_interpreter
from seerdb.storage.workers.processes import PROCESSES, RUNTIME_CLOSED, Pool, WorkerProcesses

T = TypeVar("T")
R = TypeVar("R")

Thread = threading.Thread
"""What :meth:`Workers.start_thread` returns; join it."""

LANE_THREADS = 1024
"""Turns of all databases, flushes and ships among them, at once. Each waits for its bucket mostly,
so no database waits for a thread that another has: they are started as they are needed."""
BUILDS = 4
"""Flushes of all databases that build tables at once in threads; see ``jobs/building.py``."""
FETCH_THREADS = 16
CHECK_THREADS = 8
"""Whole objects that are read and checked side by side; each is in memory meanwhile."""
COMPACTION_THREADS = 4
"""Compactions of all databases that run in threads: one for each database."""
JOB_REQUESTS = 8
"""Requests that one job may have under way beside its work."""
INTERRUPTS = (KeyboardInterrupt, SystemExit)
"""What Ctrl-C and SIGTERM raise."""
RESTART_SECONDS = 0.1
"""How long a loop rests that raised, before it is run again."""


class InlineExecutor(Executor):
    """Runs each call at once in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it is raised again by future.result()
            future.set_exception(error)
        return future


PROGRAM_ENDS = (
    "the main thread of the program has ended, and with it the threads for background work; open "
    "and close databases before that, not in atexit"
)


class ProgramEnds(ClosedError):
    """The main thread has ended, and Python starts nothing in executors any more."""


def _no_thread(error: RuntimeError) -> SeerDBError:
    """What to raise where Python could not start one."""
    if "shutdown" in str(error):
        return ProgramEnds(PROGRAM_ENDS)
    return BusyError(
        f"the system gives this process no other thread ({error}); raise its limit",
        retry_after_seconds=1.0,
    )


def _start_thread(run: Callable[[], None], name: str) -> Thread:
    """A thread that runs. Raises: ``BusyError``, ``ProgramEnds``."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise _no_thread(error) from error
    return thread


class Threads(ThreadPoolExecutor):
    """An executor that raises ``BusyError`` for what it would need another thread, and gets none.
    It may yet run that later."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError as error:
            if "shutdown" in str(error):
                raise
            raise _no_thread(error) from error


@contextmanager
def unless_interrupted(pool: Executor) -> Iterator[Executor]:
    """``pool``, which ends with the context and what it does with it. Only Ctrl-C and SIGTERM do
    not wait for that: whoever closes the stores cuts it off."""
    waits = True
    try:
        yield pool
    except INTERRUPTS:
        waits = False
        raise
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)


def run_within(seconds: float, call: Callable[[], object]) -> None:
    """Make a call on a thread of its own. Raises: what it raises; ``TimeoutError`` when it takes
    longer, and then nobody asks what becomes of it."""
    ended: Future[object] = Future()

    def run() -> None:
        try:
            ended.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised again by ended.result()
            ended.set_exception(error)

    _start_thread(run, "seerdb-within")
    ended.result(seconds)


def transfer_threads(count: int) -> Executor:
    """Threads for requests of one copy or merge, which wait rather than compute; shut them down.
    One at a time needs none."""
    return watched_threads(count) if count > 1 else InlineExecutor()


def watched_threads(count: int) -> Executor:
    """The same for who has to look around while one is under way."""
    return Threads(count, "seerdb-transfer")


@contextmanager
def check_threads() -> Iterator[Executor]:
    """Threads for reading a bucket as a whole, which end with the context."""
    with unless_interrupted(Threads(CHECK_THREADS, "seerdb-check")) as threads:
        yield threads


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


def side_by_side(threads: Executor, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """What ``call`` returns for each item, in the order of the items, all under way at once.

    Raises: what a call raises; ``BusyError`` without a thread for it; ``ClosedError`` when
    ``threads``, which are those of a database, have ended.
    """
    try:
        results = threads.map(call, items)
    except RuntimeError as error:
        raise closed_meanwhile() from error
    return list(results)


def closed_meanwhile() -> ClosedError:
    """What a read raises that was under way while the database was closed."""
    return ClosedError("the database was closed during this read; open it again")


def _tell_of_exception() -> None:
    """As the end of a thread is told of."""
    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


def _take(waiting: deque[Callable[[], None]]) -> Callable[[], None] | None:
    try:
        return waiting.pop()
    except IndexError:
        return None


def _run_what_waits(waiting: deque[Callable[[], None]]) -> None:
    """Run it unless it was taken back: an executor that cannot start a thread keeps what it has
    refused, and another of its threads runs that later."""
    run = _take(waiting)
    if run is not None:
        run()


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
        ``threading.excepthook``. Raises ``BusyError`` when it gets no thread for that."""
        due = self._clock.monotonic() + seconds
        with self._condition:
            if self._closed:
                return
            if self._thread is None:
                self._thread = _start_thread(self._run, "seerdb-timer")
            heapq.heappush(self._calls, (due, next(self._order), call))
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
            except ProgramEnds:  # nothing of what it does later is needed any more
                continue
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
    Raises ``InvalidRequestError`` where no processes can be started.
    """

    def __init__(self, background: str, clock: Clock, compactions: int | None = None) -> None:
        if background == "process":
            require_interpreter()
        if background != "inline":
            share_one_arena()
        self.background = background
        self.compactions = compactions or PROCESSES[Pool.MERGES]
        self.clock = clock
        self.timer = Timer(clock)
        self.fetchers: Executor = Threads(FETCH_THREADS, "seerdb-fetch")
        self._lanes = Threads(LANE_THREADS, "seerdb-lane")
        self.flushes = threading.Semaphore(BUILDS)
        threads = self.compactions if background == "process" else COMPACTION_THREADS
        self._compactions = Threads(threads, "seerdb-compaction")
        self.processes = WorkerProcesses()
        self._is_closed = False

    @property
    def is_inline(self) -> bool:
        """Whether background work runs in the caller."""
        return self.background == "inline"

    @property
    def job_requests(self) -> int:
        """How many requests a job may have under way; 1: inline, it waits for each."""
        return 1 if self.is_inline else JOB_REQUESTS

    def prepare(self) -> None:
        """Start the process that the first flush would wait for, where they run in processes."""
        if self.background == "process":
            self.processes.prepare(Pool.PROMPT)

    def submit_lane(self, run: Callable[[], None]) -> None:
        """Run a lane's turn on a shared thread. Raises, and does not run it: ``ClosedError`` after
        :meth:`close`, or once the main thread of the program has ended; ``BusyError``."""
        self._submit(self._lanes, run)

    def submit_compaction(self, run: Callable[[], None]) -> None:
        """As :meth:`submit_lane`, for turns that may take hours: others never wait for them."""
        self._submit(self._compactions, run)

    def _submit(self, pool: Executor, run: Callable[[], None]) -> None:
        waiting = deque([run])
        try:
            pool.submit(_run_what_waits, waiting)
        except BusyError:
            if _take(waiting) is not None:
                raise
        except RuntimeError as error:
            if self._is_closed:
                raise ClosedError(RUNTIME_CLOSED) from error
            raise _no_thread(error) from error

    def start_thread(self, run: Callable[[], None], name: str) -> Thread:
        """A thread of its own, for a loop that ends by itself. Raises: ``BusyError``."""
        return _start_thread(run, name)

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

    def close(self) -> None:
        """End all threads and processes; waits for what runs. Idempotent."""
        self._is_closed = True
        self.timer.close()
        self._lanes.shutdown(wait=True)
        self._compactions.shutdown(wait=True)
        self.fetchers.shutdown(wait=True)
        self.processes.close()
