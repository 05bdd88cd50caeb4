"""Backpressure: how fast writes may go on, and when they must not.

The order of defence: slow down as a limit comes near (``pressure.py`` has the rule); stop where
it is reached, just before one more memtable is sealed, until background work has caught up;
refuse who waited in vain, saying why and when to come back. During an outage of the bucket
memtables may pile up as far as the budget of the local log goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from seerdb.clock import Clock
from seerdb.errors import BusyError, ClosedError, DiskError, DiskFullError
from seerdb.events import Listener, WriteResumed, WriteSlowed, WriteStalled
from seerdb.storage.workers.lanes import Lane
from seerdb.storage.write.gauges import Gauges, Obstacle
from seerdb.storage.write.pressure import FASTEST_RATE, Gauge, Reason, delay, rate, room

STALL_SECONDS = 20.0
"""Longest a write waits before it is refused."""

REFUSAL_SECONDS = 5.0
"""How long others are then refused at once: those who queued behind it have waited as well."""

NAP_SECONDS = 0.01
"""How soon a writer that is slowed down notices that the pressure is gone."""

LOOKS = 64
"""How often the pressure is looked at while a memtable fills."""


class ReasonStatistics(msgspec.Struct, frozen=True):
    """How often and how long writes were held back for one reason since the open.

    A slowdown lasts until a look finds no pressure, or another reason that is worse; its seconds
    are those that were added to writes. Those of a stop count while it lasts. ``last`` tells of the
    newest one, with the numbers.
    """

    reason: str
    slowdowns: int = 0
    slowed_seconds: float = 0.0
    stops: int = 0
    stopped_seconds: float = 0.0
    refused: int = 0
    last: str = ""


class StallStatistics(msgspec.Struct, frozen=True):
    """Counters since the database was opened, in all and by reason. ``reason`` is what writers
    wait for now, or what the disk refuses them for; ``slowed`` what slows them down now; empty
    when nothing does."""

    stalls: int
    stalled_seconds: float
    refused: int
    reason: str
    slowdowns: int
    slowed_seconds: float
    slowed: str
    reasons: list[ReasonStatistics]


@dataclass
class _Count:
    slowdowns: int = 0
    slowed_seconds: float = 0.0
    stops: int = 0
    stopped: tuple[float, float | None] = (0.0, None)
    """Seconds of the stops that are over, and since when there is another. One value: who looks as
    a stop ends counts it once."""
    refused: int = 0
    last: str = ""

    def told(self, reason: Reason, now: float) -> ReasonStatistics:
        """Requires: it was ``now`` before this is called, so that what is told never shrinks."""
        before, since = self.stopped
        return ReasonStatistics(
            reason=reason.value,
            slowdowns=self.slowdowns,
            slowed_seconds=self.slowed_seconds,
            stops=self.stops,
            stopped_seconds=before if since is None else before + max(0.0, now - since),
            refused=self.refused,
            last=self.last,
        )


class Admission:
    """Decides whether, and how fast, writes may go on. Called by one writer at a time;
    :meth:`statistics` by any thread."""

    def __init__(
        self,
        gauges: Gauges,
        *,
        memtable_capacity: int,
        clock: Clock,
        listener: Listener,
        is_closing: Callable[[], bool],
    ) -> None:
        self._gauges = gauges
        self._clock = clock
        self._listener = listener
        self._is_closing = is_closing
        self._most_room = memtable_capacity // LOOKS
        self._counts = {reason: _Count() for reason in Reason}
        self._looked_at = 0
        self._slowed_by: Reason | None = None
        self._is_stopped = False
        self._disk_refusal: DiskFullError | None = None
        self._refuse_until = clock.monotonic()

    def hold_back(self, appended: int, before_waiting: Callable[[], None]) -> int:
        """Sleep as the pressure demands for what was written since the last call, or until the
        pressure is gone. Returns how many bytes may be written until the next call.

        ``appended``: bytes of log written since the open.
        """
        self._gauges.measure_disk()
        gauge = self._gauges.worst()
        if gauge.severity:
            before_waiting()
            self._slow_down(gauge, appended - self._looked_at)
        else:
            self._slowed_by = None
        self._looked_at = appended
        return room(self._gauges.worst().severity, self._most_room)

    def _slow_down(self, gauge: Gauge, size: int) -> None:
        count = self._counts[gauge.reason]
        self._tell_slowed(gauge, count)
        slept = 0.0
        while (left := delay(self._gauges.worst().severity, size) - slept) > 0:
            if self._is_closing():
                return
            nap = min(left, NAP_SECONDS)
            self._clock.sleep(nap)
            slept += nap
            count.slowed_seconds += nap
            self._gauges.measure_disk()

    def _tell_slowed(self, gauge: Gauge, count: _Count) -> None:
        count.last = _slowed(gauge)
        if self._slowed_by is not gauge.reason:
            self._slowed_by = gauge.reason
            count.slowdowns += 1
            self._listener(WriteSlowed(gauge.words, rate(gauge.severity)))

    def admit(self) -> None:
        """Return when a memtable may be sealed and a segment begun.

        Raises: ``DiskFullError`` at once; ``BusyError`` after a wait in vain, or when somebody
        has waited in vain just now; ``ClosedError`` when the database is being closed meanwhile.
        """
        self.check_disk()
        deadline = self._clock.monotonic() + STALL_SECONDS
        while obstacle := self._gauges.obstacle():
            if self._clock.monotonic() < self._refuse_until and obstacle.lane.tries_again:
                self._refuse(obstacle)
            self._stop(obstacle, deadline)
            now = self._gauges.obstacle()
            if now and now.is_less_than(obstacle):
                return

    def _stop(self, obstacle: Obstacle, deadline: float) -> None:
        """Wait, until the deadline at most, for what is in the way to be gone, less, or another,
        also if that is only for another lane to take away."""
        count = self._counts[obstacle.reason]
        count.stops += 1
        count.last = obstacle.words
        self._is_stopped = True
        self._listener(WriteStalled(obstacle.words))
        before, started = count.stopped[0], self._clock.monotonic()
        count.stopped = before, started
        try:
            self._wait(self._is_over(obstacle), obstacle.lane, deadline)
        finally:
            waited = self._clock.monotonic() - started
            count.stopped = before + waited, None
            self._is_stopped = False
            self._listener(WriteResumed(waited))

    def check_disk(self) -> None:
        """Raise ``DiskFullError`` when less than ``min_free_disk`` is free."""
        try:
            self._gauges.check_disk()
        except DiskFullError as refusal:
            self._refused_for_disk(refusal)
            raise

    def begin(self, begin: Callable[[], None]) -> None:
        """Have a segment begun. Raises: what that does."""
        try:
            begin()
        except DiskFullError as refusal:
            self._refused_for_disk(refusal)
            raise
        self._disk_refusal = None

    def _refused_for_disk(self, refusal: DiskFullError) -> None:
        count = self._counts[Reason.DISK]
        count.refused += 1
        count.last = str(refusal)
        self._disk_refusal = refusal

    def _wait(self, is_over: Callable[[], bool], lane: Lane, deadline: float) -> None:
        is_woken = False
        while not is_over():
            left = deadline - self._clock.monotonic()
            obstacle = self._gauges.obstacle()
            if obstacle and (left <= 0 or (is_woken and not lane.tries_again)):
                self._refuse_until = self._clock.monotonic() + REFUSAL_SECONDS
                self._refuse(obstacle)
            if is_woken:  # it tries again by itself, when it is time
                lane.wait(is_over, left)
            else:
                lane.wake_and_wait(is_over, left)
                is_woken = True
        if self._is_closing():
            raise ClosedError("the database is being closed; open it again")

    def _is_over(self, obstacle: Obstacle) -> Callable[[], bool]:
        def is_over() -> bool:
            now = self._gauges.obstacle()
            if now is None or (now.reason, now.lane) != (obstacle.reason, obstacle.lane):
                return True
            return now.is_less_than(obstacle) or self._is_closing()

        return is_over

    def _refuse(self, obstacle: Obstacle) -> NoReturn:
        lane = obstacle.lane
        cause = f"; the last {lane.name} failed: {lane.error}" if lane.error else ""
        count = self._counts[obstacle.reason]
        count.refused += 1
        count.last = obstacle.words + cause
        raise BusyError(count.last, retry_after_seconds=1.0)

    def _in_the_way(self) -> str:
        """What writers wait for now, or are refused for until the disk has room."""
        refusal = self._disk_refusal
        if refusal is not None:
            try:
                self._gauges.check_disk()
                if self._gauges.lacks_segment():
                    return str(refusal)
            except DiskError as error:
                return str(error)
            self._disk_refusal = None
        obstacle = self._gauges.obstacle() if self._is_stopped else None
        return obstacle.words if obstacle else ""

    def statistics(self) -> StallStatistics:
        """A copy of the counters, and what is in the way now. How much of the disk is free is asked
        anew only where that was too little."""
        in_the_way = self._in_the_way()
        gauge = self._gauges.worst()
        now = self._clock.monotonic()
        rows = [count.told(reason, now) for reason, count in self._counts.items()]
        return StallStatistics(
            stalls=sum(row.stops for row in rows),
            stalled_seconds=sum(row.stopped_seconds for row in rows),
            refused=sum(row.refused for row in rows),
            reason=in_the_way,
            slowdowns=sum(row.slowdowns for row in rows),
            slowed_seconds=sum(row.slowed_seconds for row in rows),
            slowed=_slowed(gauge) if gauge.severity else "",
            reasons=rows,
        )


def _slowed(gauge: Gauge) -> str:
    let_through = rate(gauge.severity)
    if let_through >= FASTEST_RATE:
        return f"{gauge.words}; writes are hardly slowed yet"
    return f"{gauge.words}; writes are slowed to {let_through:,.0f} bytes a second"
