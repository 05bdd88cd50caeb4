"""What is submitted and nobody waits for: its bounds, and the bell for who serves it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import Enum, auto
from queue import SimpleQueue

from seerdb.errors import BusyError

MAX_QUEUED_REQUESTS = 16_384
MAX_QUEUED_BYTES = 256 << 20
"""Bounds of what is submitted and not finished. A request larger than that is taken when nothing
else waits."""


class _Sign(Enum):
    MORE = auto()
    END = auto()


class Inbox:
    """Thread-safe; one thread waits."""

    def __init__(self) -> None:
        self._bell: SimpleQueue[_Sign] = SimpleQueue()
        self._lock = threading.Lock()
        self._ended = False  # set by the one who waits
        # Guarded by the lock.
        self._requests = self._bytes = 0

    def reserve(self, sizes: Sequence[int]) -> int:
        """Make room for requests of these ``sizes`` in bytes; for how many of them there is."""
        with self._lock:
            waiting, total = self._requests + len(sizes), self._bytes + sum(sizes)
            if waiting > MAX_QUEUED_REQUESTS or total > MAX_QUEUED_BYTES:
                return self._reserve_some(sizes)
            self._requests, self._bytes = waiting, total
            return len(sizes)

    def _reserve_some(self, sizes: Sequence[int]) -> int:
        for taken, size in enumerate(sizes):
            waiting, total = self._requests, self._bytes + size
            if waiting and (waiting >= MAX_QUEUED_REQUESTS or total > MAX_QUEUED_BYTES):
                return taken
            self._requests, self._bytes = waiting + 1, total
        return len(sizes)

    def refusal(self) -> BusyError:
        """Why there is no room."""
        with self._lock:
            return BusyError(
                f"{self._requests:,} writes of {self._bytes:,} bytes wait already",
                retry_after_seconds=1.0,
            )

    def finish(self, requests: int, size: int) -> None:
        """Give up the room of requests that are finished."""
        with self._lock:
            self._requests -= requests
            self._bytes -= size

    def ring(self) -> None:
        """There is something to do: what was done before this is seen by who waits."""
        if self._bell.empty():
            self._bell.put(_Sign.MORE)

    def wait(self) -> bool:
        """Wait for :meth:`ring`; whether to go on. After :meth:`stop` once more: what comes later
        than that look finds :attr:`has_ended`."""
        if self._ended:
            return False
        self._ended = self._bell.get() is _Sign.END
        return True

    @property
    def has_ended(self) -> bool:
        """Whether nobody waits any more."""
        return self._ended

    def stop(self) -> None:
        """Let :meth:`wait` end, after what was rung for before."""
        self._bell.put(_Sign.END)
