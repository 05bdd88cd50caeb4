"""Merges that people asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from seerdb.storage.compaction.plan import Plan
from seerdb.storage.compaction.policy.ranged import Range
from seerdb.storage.manifest.version import Version


@dataclass(eq=False)
class Request:
    """A merge that somebody asked for, of all that was there when it was first planned and lies
    in ``[start, end)``; ``None``: no bound."""

    start: bytes | None = None
    end: bytes | None = None
    seq: int = 0
    """The newest that was there; 0: not planned yet."""
    plan: Plan | None = None
    """What it comes to, from which others keep away."""
    is_done: bool = False
    error: BaseException | None = None
    """Why it, or what it waits for, failed last. It is tried again all the same."""

    @property
    def is_for_all(self) -> bool:
        """Whether it is for all keys."""
        return self.start is None and self.end is None

    @property
    def is_over(self) -> bool:
        """Whether there is something to tell to who asked."""
        return self.is_done or self.error is not None

    def covers(self, other: Request) -> bool:
        """Whether all that ``other`` is for lies in the range of this one."""
        begins = self.start is None or (other.start is not None and self.start <= other.start)
        return begins and (self.end is None or (other.end is not None and other.end <= self.end))

    def range_of(self, version: Version) -> Range:
        """What is wanted, up to the newest of ``version`` when it is not planned yet."""
        self.seq = self.seq or max((table.max_seq for table in version.tables), default=0)
        return Range(self.start, self.end, self.seq)


class Requests:
    """Those that are not done yet, in the order in which they came. Thread-safe, with a lock of its
    own: that of the compactor is held while the bucket is asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[Request] = []

    def add(self, start: bytes | None, end: bytes | None) -> Request:
        """One more, in the place of those that it covers and for which nobody waits any more, as
        they have failed: in an outage there may come one with each attempt."""
        request = Request(start, end)
        with self._lock:
            self._open = [
                each for each in self._open if each.error is None or not request.covers(each)
            ]
            self._open.append(request)
        return request

    def open(self) -> list[Request]:
        """Those that are not done yet."""
        with self._lock:
            return list(self._open)

    def close(self, request: Request) -> None:
        """It is done, perhaps after another has come in its place."""
        with self._lock:
            self._open = [each for each in self._open if each is not request]
        request.is_done = True

    def tell(
        self, error: BaseException, concerns: Callable[[Request], bool] = lambda _: True
    ) -> None:
        """Why those that it concerns are not done."""
        for request in self.open():
            if concerns(request):
                request.error = error
