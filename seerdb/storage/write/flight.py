"""Commits in flight: in the log, or on their way there, and not visible yet.

They become visible in the order of their seqs, once what they asked of the log is done. Any
thread may publish what is durable; a commit is published once, by the first that comes.
"""

from __future__ import annotations

from collections import deque

from seerdb.clock import ForwardClock
from seerdb.errors import SeerDBError
from seerdb.ids import MAX_SEQ
from seerdb.storage.lease.keeper import LeaseKeeper
from seerdb.storage.memtable import overhead_of
from seerdb.storage.read.state import LiveState
from seerdb.storage.write.request import MEMORY, Request


class Group:
    """Requests that share a frame of the log."""

    __slots__ = ("last", "level", "requests", "since_us", "time_us")

    def __init__(self, requests: list[Request], level: int, since_us: int) -> None:
        self.requests = requests
        self.level = level
        """The highest durability that is asked for."""
        self.since_us = since_us
        """A time no later than its commit."""
        self.time_us = 0
        self.last = MAX_SEQ + 1
        """Its last seq, once it is in the log."""


class Flight:
    """See the module docstring. Thread-safe; :meth:`begin` belongs to one thread at a time (the
    commit mutex), which also sets ``time_us`` and ``last`` of the group, and ``written``."""

    def __init__(self, live: LiveState, clock: ForwardClock, lease: LeaseKeeper | None) -> None:
        self._live = live
        self._clock = clock
        self._lease = lease
        self.written = 0
        """The newest seq in flight that is in the log, while anything is in flight."""
        self._failure: SeerDBError | None = None  # set once, under the lock of the state
        # Guarded by the lock of the state:
        self._groups: deque[Group] = deque()
        self.commits = self.operations = self.overhead = self.groups = self.largest_group = 0
        """Of what was published."""

    def __bool__(self) -> bool:
        return bool(self._groups)

    @property
    def level(self) -> int:
        """The highest durability that is asked for."""
        with self._live.lock:
            return max((group.level for group in self._groups), default=MEMORY)

    def begin(self, requests: list[Request], level: int) -> Group:
        """The next group, before its time is taken and it is written."""
        clock = self._clock
        with self._live.lock:
            group = Group(requests, level, clock.committed_us)
            self._groups.append(group)
            if clock.unseen_us is None:
                clock.unseen_us = group.since_us
        return group

    def publish(self, upto: int) -> None:
        """Show what is in flight up to the seq ``upto``. Requires: it is as durable as it asked.

        If it raises (a lease that ran out, an interrupt, what :meth:`fail` was told), nothing may
        be published any more, and :meth:`fail` is to be called.
        """
        live, groups = self._live, self._groups
        with live.lock:
            if not groups or groups[0].last > upto:
                return
            if self._failure is not None:  # of a commit before these, or beside
                raise self._failure
            if self._lease is not None:
                self._lease.confirm()
            active = live.current.active
            while groups and groups[0].last <= upto:
                group = groups[0]
                time_us = group.time_us
                for request in group.requests:
                    kinds, keys, values = request.kinds, request.keys, request.values
                    active.apply(request.seq, kinds, keys, values, time_us, request.points)
                live.visible_seq = group.last
                groups.popleft()
                self._finish(group.requests)
            self._clock.unseen_us = groups[0].since_us if groups else None

    def _finish(self, requests: list[Request]) -> None:
        for request in requests:
            request.done = True  # whoever sees it also sees what was committed
            self.operations += len(request.kinds)
            self.overhead += overhead_of(request.kinds)
        self.commits += len(requests)
        self.groups += 1
        self.largest_group = max(self.largest_group, len(requests))

    def fail(self, error: SeerDBError) -> None:
        """Give up all that is in flight. Requires: the database is poisoned."""
        with self._live.lock:
            self._failure = error
            while self._groups:
                for request in self._groups.popleft().requests:
                    request.fail(error)
            self._clock.unseen_us = None
