"""Lanes: kinds of background work of one database, such as flush and compaction.

A :class:`Lane` is woken when there may be something to do, and tried again with backoff when it
fails. Its work is done by one thread at a time, or by several where it is work that can be done
side by side; each fails and tries again for itself. Lanes of all databases share the threads of
:class:`~seerdb.storage.workers.threads.Workers`, and cost none while there is nothing to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from seerdb.errors import BusyError, ClosedError, InternalError, SeerDBError
from seerdb.storage.workers.threads import Workers

FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 15.0
DOUBLINGS = 8
"""Of the first delay, after which it is above the last: a lane may fail for weeks."""


@dataclass(eq=False)
class _Slot:
    """Work that is done by one thread at a time. Guarded by the condition of its lane, but the
    errors, which only that thread changes."""

    work: Callable[[], bool]
    wanted: bool = False
    running: bool = False
    """Has a thread, or waits for one."""
    has_thread: bool = False
    error: BaseException | None = None
    attempts: int = 0
    retry_at: float | None = None
    """Monotonic time of the one next attempt that the timer is to make."""


class Lane:
    """One kind of background work of one database.

    ``work`` is called again as long as it returns True (it did something), and so is each of
    ``beside``, meanwhile. When one raises, ``failed`` is told the error, the number of its attempts
    and the seconds until the next one; if that returns False the lane gives up for good.
    ``submit`` brings a turn to a thread. Thread-safe.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], bool],
        workers: Workers,
        failed: Callable[[str, BaseException, int, float], bool],
        *,
        beside: Sequence[Callable[[], bool]] = (),
        submit: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self.name = name
        self.last_failure: BaseException | None = None
        """The newest failure, whatever came after it."""
        self.failures = 0
        """All attempts that failed."""
        self._workers = workers
        self._failed = failed
        self._submit = submit or workers.submit_lane
        self._condition = threading.Condition()
        self._slots = [_Slot(each) for each in (work, *beside)]
        self._closed = False
        self._waiting = 0

    @property
    def error(self) -> BaseException | None:
        """Why the last attempt failed, as who waited for it is told; ``None`` once it succeeds."""
        return next((slot.error for slot in self._slots if slot.error is not None), None)

    @property
    def attempts(self) -> int:
        """Attempts in a row that failed."""
        return max(slot.attempts for slot in self._slots)

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

    @property
    def _running(self) -> bool:
        return any(slot.running for slot in self._slots)

    def nudge(self) -> None:
        """Have those who wait look at their conditions again."""
        with self._condition:
            self._condition.notify_all()

    def wake(self) -> None:
        """Have the work looked at soon; at once and in this thread when inline. Raises:
        ``BusyError`` without a thread for it, and then it is tried again later; ``ClosedError``."""
        for slot in self._slots:
            self._wake(slot)

    def _wake(self, slot: _Slot) -> None:
        with self._condition:
            if self._closed:
                return
            slot.wanted = True
            if slot.running:
                return
            slot.running = True
        if self._workers.is_inline:
            self._turn(slot)
            return
        try:
            self._submit(partial(self._turn, slot))
        except SeerDBError as error:
            with self._condition:
                slot.running = False
            if isinstance(error, BusyError):
                self._retry_in(slot, LAST_RETRY_SECONDS)
            raise

    def _turn(self, slot: _Slot) -> None:
        try:
            while self._take(slot):
                self._attempt(slot)
                self.nudge()
        except BaseException:
            with self._condition:
                slot.running = slot.has_thread = False
                self._condition.notify_all()
            raise

    def _attempt(self, slot: _Slot) -> None:
        try:
            while slot.work() and not self._closed:
                slot.error, slot.attempts = None, 0
                self._wake_others(slot)
            slot.error, slot.attempts = None, 0
        except BaseException as error:  # noqa: BLE001 - kept, told and shown by health
            self._retry(slot, error)

    def _wake_others(self, slot: _Slot) -> None:
        """What one did may be what another waited for."""
        self.nudge()
        for other in self._slots:
            if other is not slot:
                self._wake(other)

    def _take(self, slot: _Slot) -> bool:
        with self._condition:
            if slot.wanted and not self._closed:
                slot.wanted, slot.has_thread = False, True
                return True
            slot.running = slot.has_thread = False
            self._condition.notify_all()
            return False

    def _retry(self, slot: _Slot, error: BaseException) -> None:
        told = slot.error = self.why(error)
        slot.attempts += 1
        with self._condition:
            self.last_failure = error
            self.failures += 1
        doublings = min(slot.attempts - 1, DOUBLINGS)
        seconds = min(FIRST_RETRY_SECONDS * 2**doublings, LAST_RETRY_SECONDS)
        if not isinstance(error, Exception):
            self._closed = True
            raise error
        try:
            goes_on = self._failed(self.name, told, slot.attempts, seconds)
        except Exception as failure:  # noqa: BLE001 - of a listener: kept, and shown by health
            slot.error, goes_on = failure, True
        if not goes_on:
            self._closed = True
        elif not self._workers.is_inline:
            self._retry_in(slot, seconds)

    def _retry_in(self, slot: _Slot, seconds: float) -> None:
        """Unless one comes sooner: were there one more for each failure, each would leave the next,
        and a lane that is woken often in an outage would end in trying all the time."""
        at = self._workers.clock.monotonic() + seconds
        with self._condition:
            if slot.retry_at is not None and slot.retry_at <= at:
                return
            self._workers.timer.call_later(seconds, partial(self._try_again, slot, at))
            slot.retry_at = at

    def _try_again(self, slot: _Slot, at: float) -> None:
        with self._condition:
            if slot.retry_at != at:  # a sooner one came in its place
                return
            slot.retry_at = None
        self._wake(slot)

    def wait(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until a condition that the work brings about holds, or the work fails.

        Returns whether the condition holds; if not, see ``last_failure``. Requires: the lane
        was woken. Inline, where nobody else will bring it about, it does not wait.
        """
        failures = self.failures
        return self._wait(lambda: until() or self.failures > failures, until, timeout)

    def wake_and_wait(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """:meth:`wake`, then :meth:`wait`, in which no failure is missed in between."""
        failures = self.failures
        self.wake()
        return self._wait(lambda: until() or self.failures > failures, until, timeout)

    def wake_and_outwait(
        self, until: Callable[[], bool], held: Callable[[], bool] = lambda: False
    ) -> bool:
        """As :meth:`wake_and_wait`, through failures: only the end of the lane ends it too.

        ``held``: whether somebody keeps the work from being done, and wakes the lane later. For
        that it waits inline, too.
        """
        while True:
            was_held = held()
            self.wake()
            if self._wait(until, until, None, held):
                return True
            if not was_held or self._closed:
                return False

    def _wait(
        self,
        over: Callable[[], bool],
        until: Callable[[], bool],
        timeout: float | None,
        held: Callable[[], bool] = lambda: False,
    ) -> bool:
        with self._condition:
            if self._workers.is_inline and not self._running and not held():
                return until()
            self._waiting += 1
            self._condition.wait_for(lambda: over() or self._closed, timeout)
            self._waiting -= 1
            return until()

    def why(self, failure: BaseException | None) -> SeerDBError:
        """What to tell who has waited in vain: the ``failure``, or that the lane ended before."""
        if failure is None:
            return ClosedError(f"the database was closed before the {self.name} was done")
        if isinstance(failure, SeerDBError):
            return failure
        if isinstance(failure, MemoryError):
            told: SeerDBError = BusyError(
                f"there was no memory for the {self.name}; it is tried again",
                retry_after_seconds=LAST_RETRY_SECONDS,
            )
        else:
            told = InternalError(f"the {self.name} failed: {failure!r}; please report it")
        told.__cause__ = failure
        return told

    def close(self) -> None:
        """Take no more turns; waits for those under way, but not for a thread that others have.
        Ends what waits for the work."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()  # who waits for what nobody will do
            self._condition.wait_for(lambda: not any(slot.has_thread for slot in self._slots))
