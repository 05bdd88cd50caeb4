"""The only module that starts threads and processes: executors, a timer, and lanes.

A :class:`Lane` is one kind of background work of one database (flush, compaction …): woken
when there may be something to do, run by at most one thread at a time, tried again with
backoff when it fails. A database costs no thread while it has nothing to do: lanes of all
databases share the threads of :class:`Workers`.
"""

from __future__ import annotations

import heapq
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from seerdb.clock import Clock
from seerdb.errors import ClosedError

Thread = threading.Thread
"""What :meth:`Workers.start_thread` returns; join it."""

FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 15.0
LANE_THREADS = 4
FETCH_THREADS = 16
JOB_PROCESSES = 2
JOB_NICENESS = 10
"""Jobs yield to the serving process: where they compete, it gets nine tenths of a core."""


def _start_worker() -> None:
    """Leave it to the serving process to answer signals that a terminal or a service manager
    sends to the whole group, and do not outlive it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="seerdb-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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


class InlineExecutor(Executor):
    """Runs each call at once in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it is raised again by future.result()
            future.set_exception(error)
        return future


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
        """Make a quick call, that must not raise, on the timer's thread. Dropped at close."""
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
            call()

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
    """

    def __init__(self, background: str, clock: Clock) -> None:
        self.background = background
        self.clock = clock
        self.timer = Timer(clock)
        self.fetchers: Executor = ThreadPoolExecutor(FETCH_THREADS, "seerdb-fetch")
        self._lanes = ThreadPoolExecutor(LANE_THREADS, "seerdb-lane")
        self._processes: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def is_inline(self) -> bool:
        """Whether background work runs in the caller."""
        return self.background == "inline"

    def submit_lane(self, run: Callable[[], None]) -> None:
        """Run a lane's turn on a shared thread. Raises: ``ClosedError`` after :meth:`close`."""
        try:
            self._lanes.submit(run)
        except RuntimeError as error:
            raise ClosedError("the runtime is closed; close it after its databases") from error

    def start_thread(self, run: Callable[[], None], name: str) -> Thread:
        """A thread of its own, for a loop that ends by itself."""
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def run_in_process(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a picklable call in a worker process and wait for what it returns.

        Raises: what the call raises, or ``BrokenProcessPool`` when the worker died; the next
        call then gets a new one.
        """
        with self._lock:
            if self._processes is None:
                self._processes = ProcessPoolExecutor(
                    JOB_PROCESSES, mp_context=_JobContext(), initializer=_start_worker
                )
            pool = self._processes
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            with self._lock:
                if self._processes is pool:
                    self._processes = None
            pool.shutdown(wait=False)
            raise

    def close(self) -> None:
        """End all threads and processes; waits for what runs."""
        self.timer.close()
        self._lanes.shutdown(wait=True)
        self.fetchers.shutdown(wait=True)
        if self._processes is not None:
            self._processes.shutdown(wait=True)


class Lane:
    """One kind of background work of one database.

    ``work`` is called again as long as it returns True (it did something). When it raises,
    ``failed`` is told the error, the number of attempts and the seconds until the next one;
    if that returns False the lane gives up for good. Thread-safe.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], bool],
        workers: Workers,
        failed: Callable[[str, BaseException, int, float], bool],
    ) -> None:
        self.name = name
        self.error: BaseException | None = None
        """Why the last attempt failed; ``None`` once one succeeds."""
        self.last_failure: BaseException | None = None
        """The newest failure, whatever came after it."""
        self.attempts = 0
        """Attempts in a row that failed."""
        self.failures = 0
        """All attempts that failed."""
        self._work = work
        self._workers = workers
        self._failed = failed
        self._condition = threading.Condition()
        self._wanted = self._running = self._closed = False
        self._waiting = 0

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for what it does, or for its end."""
        return self._waiting > 0 or self._closed

    @property
    def tries_again(self) -> bool:
        """Whether it goes on by itself after a failure: not inline, and not at its end."""
        return not (self._workers.is_inline or self._closed)

    @property
    def has_work(self) -> bool:
        """Whether it is at work, or failed and has to try again."""
        return self._running or self.error is not None

    def nudge(self) -> None:
        """Have those who wait look at their conditions again."""
        with self._condition:
            self._condition.notify_all()

    def wake(self) -> None:
        """Have the work looked at soon; at once and in this thread when inline."""
        with self._condition:
            if self._closed:
                return
            self._wanted = True
            if self._running:
                return
            self._running = True
        if self._workers.is_inline:
            self._turn()
            return
        try:
            self._workers.submit_lane(self._turn)
        except ClosedError:
            with self._condition:
                self._running = False
            raise

    def _turn(self) -> None:
        while self._take():
            try:
                while self._work() and not self._closed:
                    self.error, self.attempts = None, 0
                    with self._condition:
                        self._condition.notify_all()
                self.error, self.attempts = None, 0
            except BaseException as error:  # noqa: BLE001 - kept, told and shown by health
                self._retry(error)
            with self._condition:
                self._condition.notify_all()

    def _take(self) -> bool:
        with self._condition:
            if self._wanted and not self._closed:
                self._wanted = False
                return True
            self._running = False
            self._condition.notify_all()
            return False

    def _retry(self, error: BaseException) -> None:
        self.error = self.last_failure = error
        self.attempts += 1
        self.failures += 1
        seconds = min(FIRST_RETRY_SECONDS * 2 ** (self.attempts - 1), LAST_RETRY_SECONDS)
        if not isinstance(error, Exception):
            with self._condition:
                self._closed, self._running = True, False
                self._condition.notify_all()
            raise error
        try:
            goes_on = self._failed(self.name, error, self.attempts, seconds)
        except Exception as failure:  # noqa: BLE001 - of a listener: kept, and shown by health
            self.error, goes_on = failure, True
        if not goes_on:
            self._closed = True
        elif not self._workers.is_inline:
            self._workers.timer.call_later(seconds, self.wake)

    def wait(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until a condition that the work brings about holds, or the work fails.

        Returns whether the condition holds; if not, see ``last_failure``. Requires: the lane
        was woken. Inline, where nobody else will bring it about, it does not wait.
        """
        return self._wait(until, timeout, self.failures)

    def wake_and_wait(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """:meth:`wake`, then :meth:`wait`, in which no failure is missed in between."""
        failures = self.failures
        self.wake()
        return self._wait(until, timeout, failures)

    def _wait(self, until: Callable[[], bool], timeout: float | None, failures: int) -> bool:
        with self._condition:
            if self._workers.is_inline and not self._running:
                return until()
            self._waiting += 1
            self._condition.wait_for(
                lambda: until() or self.failures > failures or self._closed, timeout
            )
            self._waiting -= 1
            return until()

    def close(self) -> None:
        """Take no more turns; waits for the one under way."""
        with self._condition:
            self._closed = True
            self._condition.wait_for(lambda: not self._running)
