"""What of the log is not in the bucket yet: which stretch is next, and how old it is.

The log is a sequence of segments; each but the last is sealed. What is shipped is a beginning of
it, up to a :class:`Place`; so the backlog is that place, the ends of the sealed segments after
it, and the newest place that is known to be durable locally. No I/O; knows neither store nor
files.

With ``keeps_all`` everything is shipped, in order, and a segment is needed until it was (I4).
Without, what tables hold is passed over.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from seerdb.ids import MAX_SEQ
from seerdb.storage.wal.format import HEADER_SIZE

MARK_SECONDS = 0.1
"""How exactly it is known when something was written."""


class Place(NamedTuple):
    """A point in the log: ``offset`` in ``segment``, ``seq`` the last one before it."""

    segment: int
    offset: int
    seq: int


class Stretch(NamedTuple):
    """What lies between two places of one segment."""

    begin: Place
    end: Place

    @property
    def is_measured(self) -> bool:
        """Whether its end is known."""
        return self.end.offset > 0


class Backlog:
    """See the module docstring. Thread-safe; each call is short."""

    def __init__(
        self, shipped_seq: int, recovered: Sequence[int], following: int, *, keeps_all: bool
    ) -> None:
        """``recovered``: sealed segments of an earlier life, ascending, that may hold more than
        the shipped; ``following``: the first that this life begins."""
        self.keeps_all = keeps_all
        self._following = following
        self._lock = threading.Lock()
        # Guarded by the lock; what is sealed and not shipped begins with the segment of ``_at``:
        self._at = Place(min([*recovered, following]), HEADER_SIZE, shipped_seq)
        self._sealed = deque(Place(segment, 0, 0) for segment in recovered)  # ends unknown
        self._newest = Place(following, HEADER_SIZE, 0)
        self._marks: deque[tuple[int, float]] = deque()  # a seq, and no later than its write

    @property
    def shipped_seq(self) -> int:
        """Everything up to here is shipped, or passed over."""
        return self._at.seq

    @property
    def needed_from(self) -> int:
        """Segments below this one are not needed for shipping any more."""
        if not self.keeps_all:
            return MAX_SEQ
        with self._lock:
            return self._at.segment

    def mark(self, seq: int, now: float) -> None:
        """``seq`` is about to be written, at ``now`` of a monotonic clock."""
        with self._lock:
            if not self._marks or now - self._marks[-1][1] >= MARK_SECONDS:
                self._marks.append((seq, now))

    def oldest_mark(self, safe_seq: int) -> float | None:
        """When what follows ``safe_seq`` was written, no later, if that was marked."""
        with self._lock:
            self._forget_marks(safe_seq)
            return self._marks[0][1] if self._marks else None

    def _forget_marks(self, safe_seq: int) -> None:
        marks = self._marks
        while len(marks) > 1 and marks[1][0] <= safe_seq + 1:
            marks.popleft()

    def reached(self, place: Place) -> None:
        """The log is durable up to here."""
        with self._lock:
            self._newest = max(self._newest, place)

    def sealed(self, end: Place) -> None:
        """The segment of ``end`` ends there, durably."""
        with self._lock:
            self._sealed.append(end)

    def next(self) -> Stretch | None:
        """What is to be shipped now; ``None`` when nothing is. Its end may yet have to be
        measured, and it may be empty."""
        with self._lock:
            at = self._at
            if self._sealed:
                return Stretch(at, self._sealed[0])
            newest = self._newest
            if newest.segment == at.segment and newest.offset > at.offset and newest.seq > at.seq:
                return Stretch(at, newest)
            return None

    def shipped(self, end: Place) -> None:
        """Everything up to here is in the bucket."""
        with self._lock:
            sealed, at = self._sealed, self._at
            if end.segment < at.segment:
                return  # passed over meanwhile
            if sealed and sealed[0].segment == end.segment and end.offset >= sealed[0].offset:
                sealed.popleft()
                segment = sealed[0].segment if sealed else max(end.segment + 1, self._following)
                end = Place(segment, HEADER_SIZE, end.seq)
            self._at = end._replace(seq=max(end.seq, at.seq))
            self._forget_marks(self._at.seq)

    def pass_over(self, log_start: int, flushed_seq: int) -> None:
        """Tables hold what is up to ``flushed_seq``, and all in segments below ``log_start``."""
        if self.keeps_all:
            return
        with self._lock:
            sealed, at = self._sealed, self._at
            while sealed and sealed[0].segment < log_start:
                sealed.popleft()
            after = max(at.segment, log_start, self._following)
            segment = sealed[0].segment if sealed else after
            if segment != at.segment:
                at = Place(segment, HEADER_SIZE, at.seq)
            self._at = at._replace(seq=max(at.seq, flushed_seq))
            self._forget_marks(flushed_seq)
