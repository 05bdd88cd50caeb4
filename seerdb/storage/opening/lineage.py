"""Which commits of former writers are part of the database: what a seq of an older epoch is worth.

A writer that takes over, or goes on after damage, begins a branch of the log where it goes on (see
``shipping/shipped.py``). Above that, what lower epochs committed is lost, and their seqs are used
anew. Branches are never collected, so this can be told for ever.
"""

from __future__ import annotations

import threading

from seerdb.errors import FencedError, InvalidRequestError, LostError
from seerdb.ids import MAX_SEQ
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import WAL_PREFIX, parse_wal_name


class Lineage:
    """The branches before one epoch. Thread-safe; asks the bucket once, when it is asked."""

    def __init__(self, store: ObjectStore, epoch: int) -> None:
        self.epoch = epoch
        self._store = store
        self._lock = threading.Lock()
        self._branches: list[tuple[int, int]] | None = None  # guarded by the lock

    def survived(self, epoch: int) -> int:
        """The newest seq up to which commits of ``epoch`` are part of the database; ``MAX_SEQ``
        where all are. Raises: ``UnavailableError``."""
        if epoch >= self.epoch:
            return MAX_SEQ
        begun = (first for above, first in self._begun() if above > epoch)
        return min(begun, default=MAX_SEQ + 1) - 1

    def check(self, epoch: int, seq: int) -> None:
        """Raise ``LostError`` if the commit ``seq`` of ``epoch`` was lost, ``FencedError`` if it is
        of a later epoch, of which nothing is known here; ``UnavailableError``;
        ``InvalidRequestError`` for what names no commit."""
        _check_whole("an epoch", epoch)
        _check_whole("a seq", seq)
        if epoch > self.epoch:
            raise FencedError(
                f"commit {seq:,} is of epoch {epoch:,}, and this is a node of epoch "
                f"{self.epoch:,}: a later writer took over, and what it committed is not here"
            )
        survived = self.survived(epoch)
        if seq > survived:
            raise LostError(
                f"commit {seq:,} of epoch {epoch:,} is lost: a later writer took over without it; "
                f"what that epoch committed is here up to seq {survived:,}"
            )

    def _begun(self) -> list[tuple[int, int]]:
        with self._lock:
            if self._branches is None:
                names = (parse_wal_name(info.name) for info in self._store.list(WAL_PREFIX))
                places = (place for place in names if place is not None)
                self._branches = [
                    (epoch, first)
                    for epoch, first, last in places
                    if last < first and epoch <= self.epoch
                ]
            return self._branches


def _check_whole(name: str, number: object) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise InvalidRequestError(f"{name} must be a whole number from 0, not {number!r}")
