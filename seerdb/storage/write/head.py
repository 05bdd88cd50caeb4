"""The head of the log: the active memtable and the segment that has the same, begun and sealed
together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from seerdb.clock import ForwardClock
from seerdb.storage.memtable import Memtable
from seerdb.storage.read.state import LiveState
from seerdb.storage.wal.writer import LogWriter, PutAppender
from seerdb.storage.write.lone_put import LonePut, led_put

PutsInto: TypeAlias = Callable[[Memtable, PutAppender], LonePut]
"""How puts that nobody leads come into a memtable and its segment."""


class Head:
    """See the module docstring.

    For whoever leads, with nothing in flight; but for ``lone_put``, :attr:`size`, and those that
    have to do with the segment that comes next: these are for any thread.
    """

    def __init__(
        self,
        live: LiveState,
        log: LogWriter,
        clock: ForwardClock,
        *,
        capacity: int,
        puts_into: PutsInto | None,
    ) -> None:
        """``capacity``: bytes at which a memtable is full; ``puts_into``: ``None`` where every put
        takes a leader."""
        self._live = live
        self._log = log
        self._clock = clock
        self._capacity = capacity
        self._puts_into = puts_into
        self.lone_put: LonePut = led_put
        """For a put at level ``memory``; another one with each segment."""
        self.is_begun = False
        """Whether the active memtable has its segment."""
        self._after = live.visible_seq  # the last seq before this segment
        self._sealed_bytes = 0  # of memtables

    @property
    def size(self) -> int:
        """Bytes of all memtables so far; the log has fewer."""
        return self._sealed_bytes + self._live.current.active.size

    @property
    def room(self) -> int:
        """Bytes that may be added to it; 0 where it is not begun."""
        if not self.is_begun:
            return 0
        return max(0, min(self._capacity - self._live.current.active.size, self._log.room))

    def is_full_for(self, size: int) -> bool:
        """Whether it has to be sealed before so many bytes are added."""
        active = self._live.current.active
        return bool(active) and (active.size >= self._capacity or not self._log.fits(size))

    def begin(self) -> None:
        """Give the active memtable its segment. Raises: ``DiskError``, and may be tried again."""
        live, log = self._live, self._log
        active, self._after = live.current.active, live.visible_seq
        log.start(active.segments[0], self._after + 1)
        self._clock.committed_us = active.first_us = self._clock.now_us()
        self.is_begun = True
        if self._puts_into is not None:
            self.lone_put = self._puts_into(active, log.put_appender())

    def skip_to(self, seq: int) -> None:
        """What was committed up to ``seq`` is elsewhere. Requires: nothing is in it."""
        self._after = seq

    def seal(self) -> Memtable:
        """Seal the memtable, which is returned, with its segment. Raises: what the log fails with;
        what reached the disk is unknown then."""
        log, live = self._log, self._live
        # Each record has a seq of its own, and none is left out.
        log.seal(live.visible_seq, live.visible_seq - self._after)
        self.is_begun = False
        self.lone_put = led_put
        active = live.current.active
        active.last_us = self._clock.committed_us
        sealed = live.rotate(Memtable([log.segment + 1], active.operator))
        self._sealed_bytes += sealed.size
        return sealed

    @property
    def lacks_next(self) -> bool:
        """Whether the next segment is needed soon and not there: this one, or its memtable, is half
        used, or none was begun.

        Earlier, its zeros would keep the disk from the first syncs, for a segment that a small
        database never needs.
        """
        log, size = self._log, self._live.current.active.size
        is_near = not self.is_begun or 2 * size >= self._capacity or log.position >= log.room
        return is_near and not log.pool.spares

    def prepare_next(self) -> None:
        """Make the next segment if it :attr:`lacks_next`. Raises: ``DiskError``."""
        if self.lacks_next:
            self._log.pool.prepare()
