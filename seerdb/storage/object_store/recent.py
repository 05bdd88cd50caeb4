"""How many of what happened lately: counts in slots of a minute, of which the oldest go."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from seerdb.clock import Clock

SLOT_SECONDS = 60
SLOTS = 10
"""How many are remembered, the one that fills included."""

K = TypeVar("K", bound=Hashable)


class RecentCounts(Generic[K]):
    """Counts by kind over the last ten minutes. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._lock = threading.Lock()
        # Guarded by the lock: the number of each slot since the beginning, and its counts.
        self._slots: deque[tuple[int, Counter[K]]] = deque(maxlen=SLOTS)

    def add(self, kind: K, count: int) -> None:
        """Count ``kind`` as of now."""
        now = int((self._clock.monotonic() - self._began) // SLOT_SECONDS)
        with self._lock:
            if not self._slots or self._slots[-1][0] < now:
                self._slots.append((now, Counter()))
            self._slots[-1][1][kind] += count

    def in_seconds(self, seconds: float) -> dict[K, float]:
        """How many there are in so many seconds at the rate of late.

        That of the slots remembered, but of one whole slot at least: before that it is as if the
        rest of the first minute were idle.
        """
        passed = self._clock.monotonic() - self._began
        oldest = max(0, int(passed // SLOT_SECONDS) - SLOTS + 1)
        with self._lock:
            counts = sum((each for slot, each in self._slots if slot >= oldest), Counter[K]())
        share = seconds / max(SLOT_SECONDS, passed - oldest * SLOT_SECONDS)
        return {kind: count * share for kind, count in counts.items()}
