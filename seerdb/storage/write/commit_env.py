"""What the write path needs of its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from seerdb.storage.memtable import Memtable
from seerdb.storage.wal.backlog import Place
from seerdb.storage.write.request import Ticket


class CommitEnv(Protocol):
    """Called by whoever leads, so that all writers wait, and with nothing in flight."""

    def hold_back(self, appended: int, before_waiting: Callable[[], None]) -> int:
        """Slow the writer down as the pressure demands, when ``appended`` bytes of log have been
        written in all; returns how many may be written until the next call."""

    def tend_log(self) -> None:
        """Have the next segment made and this one synced, beside the writers."""

    def admit(self) -> None:
        """Wait until one more memtable may be sealed. Raises ``BusyError``, ``DiskFullError``."""

    def check_disk(self) -> None:
        """Raise ``DiskFullError`` unless there is room for one more segment."""

    def begin(self, begin: Callable[[], None]) -> None:
        """Have ``begin`` begin a segment. Raises what that does."""

    def sealed(self, memtable: Memtable, place: Place) -> None:
        """A memtable was sealed, with the log up to ``place``; have it flushed."""

    def poisoned(self, cause: BaseException) -> None:
        """The write path failed for good."""

    def current_seq(self, key: bytes) -> int:
        """The seq of the newest version of ``key``; 0 when it is absent or deleted.

        All writers wait for the answer: who expects something has the key loaded before.
        """

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Make a call later on another thread."""

    def ship(self, tickets: list[Ticket], place: Place) -> None:
        """Tell each ticket its seq once the log up to ``place`` is in the bucket."""
