"""The pace of work in a thread beside the user's own.

Python runs one thread at a time, so a merge beside a loop of puts would take half of the loop's
time. A job that nobody waits for gives way instead: after each short stretch of work it rests for
several times as long, and the others have the processor to themselves. So does what brings a new
table into memory, in stretches that a reader hardly notices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from seerdb.clock import Clock

STRETCH_SECONDS = 0.002
"""Of work, between two rests."""

SHORT_STRETCH_SECONDS = 0.0002
"""The same where reads are to go on meanwhile: less than a thread waits for its turn."""

NO_REST, REST, LONG_REST = 0, 3, 9
"""How many times as long as it worked a job rests."""

LONGEST_REST_SECONDS = 0.25
"""After one long call, which mostly holds nobody up: it lets go of the interpreter."""


class Pace(Protocol):
    """What a job calls every few milliseconds of work; it may sleep, or raise to end the job."""

    def __call__(self, entries: int = 0) -> None:
        """``entries``: how many the job has dealt with since the last call."""


def at_full_speed(entries: int = 0) -> None:
    """The pace where nobody else is slowed down."""


class GivingWay:
    """A pace that rests after each stretch of work, so many times as long as ``rests`` says then.
    What the job had to wait for counts as rest. For one thread."""

    def __init__(
        self, clock: Clock, rests: Callable[[], int], stretch: float = STRETCH_SECONDS
    ) -> None:
        self._clock = clock
        self._stretch = stretch
        self._rests = rests
        self._begin_stretch()

    def _begin_stretch(self) -> None:
        self._since, self._worked = self._clock.monotonic(), self._clock.thread_time()

    def __call__(self, entries: int = 0) -> None:
        """See :class:`Pace`."""
        worked = self._clock.thread_time() - self._worked
        if worked < self._stretch:
            return
        rested = self._clock.monotonic() - self._since - worked
        left = worked * self._rests() - rested
        if left > 0:
            self._clock.sleep(min(left, LONGEST_REST_SECONDS))
        self._begin_stretch()
