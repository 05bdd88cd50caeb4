"""The pace of a job that runs in a thread beside the user's own.

Python runs one thread at a time, so a merge beside a loop of puts would take half of the loop's
time. A job that nobody waits for gives way instead: after each short stretch of work it rests
for three times as long, and the others have the processor to themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from seerdb.clock import Clock

STRETCH_SECONDS = 0.002
REST_SECONDS = 0.006


class Pace(Protocol):
    """What a job calls every few milliseconds of work; it may sleep, or raise to end the job."""

    def __call__(self, entries: int = 0) -> None:
        """``entries``: how many the job has dealt with since the last call."""


def at_full_speed(entries: int = 0) -> None:
    """The pace where nobody else is slowed down."""


class GivingWay:
    """A pace that rests after each stretch of work, unless ``is_urgent``. For one thread."""

    def __init__(self, clock: Clock, is_urgent: Callable[[], bool]) -> None:
        self._clock = clock
        self._is_urgent = is_urgent
        self._since = clock.monotonic()

    def __call__(self, entries: int = 0) -> None:
        """See :class:`Pace`."""
        if self._clock.monotonic() - self._since >= STRETCH_SECONDS:
            if not self._is_urgent():
                self._clock.sleep(REST_SECONDS)
            self._since = self._clock.monotonic()
