"""Replies that clients do not take, of all connections together: each may keep megabytes, and how
many clients do that is up to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

MOST_UNREAD = 256 << 20
"""Bytes that may wait for all clients; beyond them nobody may leave its own for long."""
LOOK_SECONDS = 1.0
"""Between two looks at all who have something waiting."""


class Reader(Protocol):
    """A connection whose client has something to take."""

    def drop_if_stuck(self) -> None:
        """Hang up if the client has taken nothing for too long."""


class Unread:
    """Counts what waits, and looks for who is stuck while it is too much. For the event loop."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sizes: dict[Reader, int] = {}
        self._bytes = 0
        self._looked_at = now()

    @property
    def is_too_much(self) -> bool:
        """Whether more waits than may."""
        return self._bytes > MOST_UNREAD

    def begin(self, reader: Reader, size: int) -> None:
        """So many bytes wait for a client, which took all that waited before."""
        self.end(reader)
        self._sizes[reader] = size
        self._bytes += size
        if self.is_too_much and self._now() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = self._now()
            for each in tuple(self._sizes):
                each.drop_if_stuck()

    def end(self, reader: Reader) -> None:
        """The client has taken most of it, or is gone. Idempotent."""
        self._bytes -= self._sizes.pop(reader, 0)
