"""What was submitted and nobody waits for: a queue with bounds that one thread serves."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Generic, TypeVar

from seerdb.errors import BusyError

MAX_QUEUED_REQUESTS = 16_384
MAX_QUEUED_BYTES = 256 << 20
"""Bounds of what is submitted and not finished. A request larger than that is taken when nothing
else waits."""

T = TypeVar("T")


class Inbox(Generic[T]):
    """Requests in order. Thread-safe; one thread takes."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[T | None] = SimpleQueue()
        self._lock = threading.Lock()
        # Guarded by the lock.
        self._requests = self._bytes = 0

    def __len__(self) -> int:
        return self._queue.qsize()

    def reserve(self, size: int) -> None:
        """Make room for a request of ``size`` bytes. Raises ``BusyError`` when there is none."""
        with self._lock:
            waiting, total = self._requests, self._bytes + size
            if waiting and (waiting >= MAX_QUEUED_REQUESTS or total > MAX_QUEUED_BYTES):
                raise BusyError(
                    f"{waiting:,} writes of {self._bytes:,} bytes wait already",
                    retry_after_seconds=1.0,
                )
            self._requests, self._bytes = waiting + 1, total

    def put(self, request: T) -> None:
        """Queue a request for which room was reserved."""
        self._queue.put(request)

    def take(self, count: int) -> list[T]:
        """Wait for a request; it and up to ``count`` more. None at the end: see :meth:`stop`."""
        taken: list[T] = []
        request = self._queue.get()
        while request is not None:
            taken.append(request)
            if len(taken) > count or self._queue.empty():
                return taken
            request = self._queue.get()
        if taken:
            self.stop()
        return taken

    def finish(self, requests: int, size: int) -> None:
        """Give up the room of requests that were taken."""
        with self._lock:
            self._requests -= requests
            self._bytes -= size

    def stop(self) -> None:
        """Let :meth:`take` come to the end of what is queued."""
        self._queue.put(None)
