"""What a job that runs and the one who started it tell each other: to stop, how fast to be, and
how far it is.

A handful of numbers, in memory that both see: :class:`JobControl`. The job need not know of it: it
gets a pace and a store under which it is stopped, slowed down and counted
(:func:`under_control`), in whatever process it runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NamedTuple, Protocol

from seerdb.clock import Clock
from seerdb.errors import ClosedError
from seerdb.storage.object_store.base import Checksum, ObjectInfo, ObjectStore
from seerdb.storage.object_store.names import TABLE_PREFIX
from seerdb.storage.pieces import Body
from seerdb.storage.workers.pace import Pace

NAP_SECONDS = 0.1
"""How soon a job that is slowed down notices that it is to stop, or may be faster."""

SHORTEST_NAP_SECONDS = 0.001

SAVED_SECONDS = 0.5
"""What a job did not use of its rate it may use later, for so long at most."""


class Numbers(Protocol):
    """Where the numbers are."""

    def __getitem__(self, position: int, /) -> int: ...
    def __setitem__(self, position: int, number: int, /) -> None: ...


class _At(IntEnum):
    CANCELLED = 0
    RATE = 1
    READ = 2
    WRITTEN = 3
    ENTRIES = 4


_NUMBERS = len(_At)


class JobCounts(NamedTuple):
    """How far a job is: bytes of its inputs read, bytes written, entries that it dealt with."""

    read: int = 0
    written: int = 0
    entries: int = 0


class JobControl:
    """One job, seen from both sides. Thread-safe; only the job counts."""

    def __init__(self, numbers: Numbers | None = None) -> None:
        """``numbers``: those of the other side, where it is another process."""
        self._numbers: Numbers = [0] * _NUMBERS if numbers is None else numbers
        self._lock = threading.Lock()
        self._cancel_waiting: Callable[[], None] = lambda: None

    def cancel(self) -> None:
        """Have the job end soon, without a result."""
        self._set(_At.CANCELLED, 1)
        self._cancel_waiting()

    @contextmanager
    def cancelling(self, cancel: Callable[[], None]) -> Iterator[None]:
        """Meanwhile, who waits for a job that sees none of this is told by ``cancel``, perhaps
        twice; at once where it is cancelled already."""
        self._cancel_waiting = cancel
        if self.is_cancelled:
            cancel()
        try:
            yield
        finally:
            self._cancel_waiting = lambda: None

    @property
    def is_cancelled(self) -> bool:
        """Whether it is to end."""
        return bool(self._numbers[_At.CANCELLED])

    @property
    def rate(self) -> int:
        """Bytes a second that it may read and write; 0: as many as it can."""
        return self._numbers[_At.RATE]

    @rate.setter
    def rate(self, rate: int) -> None:
        self._set(_At.RATE, rate)

    @property
    def counts(self) -> JobCounts:
        """How far it is."""
        numbers = self._numbers
        return JobCounts(numbers[_At.READ], numbers[_At.WRITTEN], numbers[_At.ENTRIES])

    @counts.setter
    def counts(self, counts: JobCounts) -> None:
        with self._lock:
            for position, number in zip((_At.READ, _At.WRITTEN, _At.ENTRIES), counts, strict=True):
                self._numbers[position] = number

    def count(self, read: int = 0, written: int = 0, entries: int = 0) -> None:
        """Add to the counts."""
        more = (_At.READ, read), (_At.WRITTEN, written), (_At.ENTRIES, entries)
        with self._lock:
            for position, number in more:
                self._numbers[position] += number

    @contextmanager
    def shared(self, numbers: Numbers) -> Iterator[None]:
        """Meanwhile the numbers are there, where another process sees them."""
        here = [0] * _NUMBERS
        self._move(numbers)
        try:
            yield
        finally:
            self._move(here)

    def _move(self, numbers: Numbers) -> None:
        with self._lock:
            for position in range(_NUMBERS):
                numbers[position] = self._numbers[position]
            self._numbers = numbers

    def _set(self, position: int, number: int) -> None:
        with self._lock:
            self._numbers[position] = number


def under_control(
    control: JobControl | None,
    store: ObjectStore,
    pace: Pace,
    clock: Clock,
    is_forgotten: Callable[[], bool] = lambda: False,
) -> tuple[ObjectStore, Pace]:
    """The store and the pace for a job: of ``control``, if there is one. ``is_forgotten`` tells
    that nobody waits for it any more; then it ends as if it were cancelled."""
    if control is None:
        return store, pace
    controlled = _ControlledPace(control, pace, clock, is_forgotten)
    return _ControlledStore(store, controlled), controlled


class _ControlledPace:
    """Raises ``ClosedError`` when the job is to end. Called by the one thread that does the work;
    its threads for requests share the rest."""

    def __init__(
        self, control: JobControl, pace: Pace, clock: Clock, is_forgotten: Callable[[], bool]
    ) -> None:
        self._control = control
        self._pace = pace
        self._clock = clock
        self._is_forgotten = is_forgotten
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._owed = 0.0
        self._looked_at = clock.monotonic()

    def __call__(self, entries: int = 0) -> None:
        """See :class:`Pace`."""
        self.check()
        if entries:
            self._control.count(entries=entries)
        self._pace(entries)

    def check(self) -> None:
        if self._control.is_cancelled or self._is_forgotten():
            raise ClosedError("the job was cancelled; nothing of it counts")

    def transfer(self, size: int, *, read: int = 0, written: int = 0) -> None:
        """Wait until ``size`` bytes more are within the rate, a token bucket that holds what
        ``SAVED_SECONDS`` bring; then count."""
        self.check()
        owed = self._owe(size, self._control.rate)
        while (rate := self._control.rate) and owed > 0:
            self._clock.sleep(max(SHORTEST_NAP_SECONDS, min(owed / rate, NAP_SECONDS)))
            self.check()
            owed = self._owe(0, rate)
        self._control.count(read, written)

    def _owe(self, size: int, rate: int) -> float:
        """What is owed, once what was is paid with the time that has passed at ``rate``."""
        with self._lock:
            now = self._clock.monotonic()
            paid = (now - self._looked_at) * rate
            self._looked_at = now
            self._owed = size + (max(self._owed - paid, -SAVED_SECONDS * rate) if rate else 0.0)
            return self._owed


class _ControlledStore:
    """``inner``, for one job. What it reads of tables by ranges are its inputs, which counts; all
    else, as values in blobs and what it reads back of its own, is within the rate only."""

    def __init__(self, inner: ObjectStore, pace: _ControlledPace) -> None:
        self._inner = inner
        self._pace = pace

    def get(self, name: str) -> bytes:
        data = self._inner.get(name)
        self._pace.transfer(len(data))
        return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        data = self._inner.get_range(name, offset, length)
        self._pace.transfer(length, read=length if name.startswith(TABLE_PREFIX) else 0)
        return data

    def checksum(self, name: str) -> Checksum:
        checksum = self._inner.checksum(name)
        self._pace.transfer(checksum.size)
        return checksum

    def put(self, name: str, data: Body) -> None:
        self._pace.check()
        self._inner.put(name, data)
        self._pace.transfer(len(data), written=len(data))

    def put_if_absent(self, name: str, data: Body) -> None:
        self._pace.check()
        self._inner.put_if_absent(name, data)
        self._pace.transfer(len(data), written=len(data))

    def list(self, prefix: str) -> list[ObjectInfo]:
        return self._inner.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        self._inner.delete(names)

    def close(self) -> None:
        self._inner.close()
