"""What the engine tells the outside: frozen records, given to one listener.

Metrics, logs and tests consume the same records. A listener is called on the thread where the
thing happened, some with all writers held; it must be quick and must not raise: an exception counts
as a failure of the background work that told it. It may read. What would have to wait for the work
that called it, such as writes, flushes and closing, of whatever database, raises
``InvalidRequestError`` there and changes nothing: hand it to another thread, and do not wait.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Event(msgspec.Struct, frozen=True, tag=True):
    """The root of all events."""


class LostCommits(msgspec.Struct, frozen=True):
    """Commits of one epoch that are not in the database, both ends inclusive."""

    epoch: int
    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")


class LogOvertaken(Event, frozen=True, kw_only=True):
    """The log of a data directory that went on while another one became the writer.

    ``lost`` are those of its writes up to ``last_seq``, acknowledged or not, that are not in the
    database; ``whole``: all of the log could be read, so there are no others. ``directory`` is
    where its segments are; as an event it is told before they are moved there.
    """

    directory: str
    last_seq: int
    lost: list[LostCommits]
    whole: bool

    @property
    def nothing_lost(self) -> bool:
        """Whether everything that was ever in it is in the database, for certain."""
        return self.whole and not self.lost


class Recovered(Event, frozen=True):
    """The database was opened; what recovery found."""

    segments: int
    records: int
    torn_bytes: int
    damaged: list[str]
    """One line for each damage found, with file and offset."""
    quarantined: list[str]
    shipped_records: int
    """Records that came from the bucket because no local log had them."""
    last_seq: int
    seconds: float


class MemtableSealed(Event, frozen=True):
    """The active memtable and its WAL segment were sealed."""

    segment: int
    last_seq: int
    bytes: int


class FlushCompleted(Event, frozen=True):
    """A sealed memtable is in the bucket."""

    segments: list[int]
    table: str | None
    """``None`` when everything in it had been deleted within it."""
    entries: int
    bytes: int
    last_seq: int
    seconds: float


class CompactionCompleted(Event, frozen=True):
    """Tables were merged."""

    inputs: list[str]
    outputs: list[str]
    bytes_read: int
    bytes_written: int
    entries: int
    seconds: float


class RestoredInPlace(Event, frozen=True):
    """From the commit ``seq`` on the database is what it was after ``restored_seq``; ``checkpoint``
    keeps what it was before."""

    seq: int
    restored_seq: int
    checkpoint: str


class DrillCompleted(Event, frozen=True):
    """A backup was restored and proved good; ``compared`` with what the database was then, or else
    the ``note`` says why not."""

    backup: str
    seq: int
    compared: bool
    note: str
    rpo_seconds: float
    seconds: float


class GarbageCollected(Event, frozen=True):
    """Objects nobody needs were deleted."""

    deleted: list[str]


class WarmedUp(Event, frozen=True):
    """What reads will look for is in memory, and what is pinned on the local disk; it took so many
    steps."""

    steps: int


class WorkFailed(Event, frozen=True):
    """A background task failed and will be tried again after ``retry_seconds``."""

    work: str
    error: str
    attempts: int
    retry_seconds: float


class ShippingStopped(Event, frozen=True):
    """Another log is in the bucket under a name of this one: nothing is shipped any more."""

    error: str


class WriteSlowed(Event, frozen=True):
    """Writes begin to be slowed down, now to about ``bytes_per_second``: 2**30, more than what
    anything writes, where that is hardly felt yet."""

    reason: str
    bytes_per_second: float


class WriteStalled(Event, frozen=True):
    """Writers wait until background work has caught up."""

    reason: str


class WriteResumed(Event, frozen=True):
    """Writers go on."""

    stalled_seconds: float


class Fenced(Event, frozen=True):
    """Another writer owns the database now; this one takes no more writes."""

    error: str


class Poisoned(Event, frozen=True):
    """The WAL failed; no write is taken until the database is opened again."""

    error: str


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of those who do not listen."""
