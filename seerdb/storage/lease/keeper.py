"""The holder's side of the lease: renewing it, and acknowledging nothing without it.

A renewal replaces the object ``lease`` and then looks whether anybody has claimed the database.
If nobody has, the lease runs until ``seconds`` after the moment **before** the renewal was sent,
on the holder's own monotonic clock. Whoever claims looks at the object after the claim: either
the claim comes before that look of the holder, who finds it and stops, or the renewal comes before
the claimant's look, who then waits for as long as the renewal can count. No two clocks are ever
compared; they must only run equally fast, to within ``1 - HELD``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from seerdb.clock import Clock
from seerdb.errors import FencedError, InternalError, SeerDBError, UnavailableError
from seerdb.ids import SeqNo
from seerdb.storage.lease.record import LeaseRecord, encode_lease
from seerdb.storage.manifest.fencing import check_newest
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import LEASE_NAME
from seerdb.storage.workers.threads import Thread, Workers

HELD = 0.98
"""The part of a lease that its holder uses; the rest is for clocks that do not run equally fast."""
RENEWED = 1 / 3
"""The part of a lease after which it is renewed."""
TRIED_AGAIN = 1 / 12
"""The part of a lease after which a renewal that failed is tried again."""
SPARE = 1 / 10
"""The part of a lease that must be left for a write to begin: more than a write takes."""

Failed = Callable[[str, BaseException, int, float], bool]
"""Told the work, its error, the attempts in a row and the seconds until the next."""


@dataclass(frozen=True)
class Surroundings:
    """What the keeper needs of the open database: where its commits and its bucket are (seqs),
    and whom to tell of a renewal that failed."""

    committed: Callable[[], int]
    shipped: Callable[[], int]
    failed: Failed


class LeaseKeeper:
    """Holds the lease for one writer. Thread-safe.

    :meth:`run` renews it on a thread of its own, for it must not wait behind other work. Where
    there is none, with ``background`` ``inline``, :meth:`require` renews it when it is due.
    """

    def __init__(
        self,
        store: ObjectStore,
        manifest: ManifestWriter,
        clock: Clock,
        *,
        seconds: float,
        address: str,
    ) -> None:
        # Constant.
        self.seconds = seconds
        self._store = store
        self._manifest = manifest
        self._clock = clock
        self._address = address
        # Self-synchronised.
        self._stopped = threading.Event()
        self._thread: Thread | None = None
        # Written under the lock, read by anyone.
        self.until = -math.inf
        """Monotonic time from which on nothing may be acknowledged."""
        self.failure: SeerDBError | None = None
        """Why the last renewal failed; ``None`` once one succeeds."""
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._number = 0
        self._attempts = 0
        self._due = -math.inf
        self._around: Surroundings | None = None

    def start(self, workers: Workers) -> None:
        """Renew from now on, on a thread that ends with :meth:`stop`."""
        self._thread = workers.start_thread(self.run, "seerdb-lease")

    def attend(self, around: Surroundings) -> None:
        """The database is open: what failed until now is told."""
        with self._lock:
            self._around = around
            if self.failure is not None:
                self._tell(self.failure)

    def renew(self) -> None:
        """Renew once. Raises: ``FencedError`` when somebody has taken over; ``UnavailableError``,
        and then the lease runs as long as before."""
        with self._lock:
            if isinstance(self.failure, FencedError):
                raise self.failure
            started = self._clock.monotonic()
            try:
                self._put(released=False)
                check_newest(self._store, self._manifest.state)
            except SeerDBError as error:
                self._fail(error, started)
                raise
            self.failure, self._attempts = None, 0
            self.until = started + self.seconds * HELD
            self._due = started + self.seconds * RENEWED

    def run(self) -> None:
        """Renew whenever it is due, until :meth:`stop` or the end of the epoch."""
        while not self._stopped.wait(max(0.0, self._due - self._clock.monotonic())):
            self._beat()
            if isinstance(self.failure, FencedError):
                return

    def _beat(self) -> None:
        try:
            with suppress(SeerDBError):  # kept as the failure, told, and tried again
                self.renew()
        except Exception as error:  # noqa: BLE001 - of a listener, say: kept, and tried again
            with self._lock:
                self._due = self._clock.monotonic() + self.seconds * TRIED_AGAIN
                if not isinstance(self.failure, FencedError):
                    self.failure = InternalError(f"renewing the lease ended in {error!r}")
                    self.failure.__cause__ = error

    @property
    def is_sure(self) -> bool:
        """Whether the lease is held for long enough that a group of writes may begin."""
        return self._clock.monotonic() < self.until - self.seconds * SPARE

    def require(self) -> None:
        """What a group of writes needs to begin. Raises: ``UnavailableError``: nothing is written,
        and writes are taken again as soon as a renewal succeeds; ``FencedError``."""
        if self._thread is None and self._clock.monotonic() >= self._due:
            self._beat()
        if self.is_sure:
            return
        if isinstance(self.failure, FencedError):
            raise FencedError(str(self.failure)) from self.failure
        raise UnavailableError(
            "the lease of this writer ran out before the bucket took a renewal; nothing was "
            f"written; try again ({self.failure or 'it was not renewed in time'})"
        ) from self.failure

    def confirm(self) -> None:
        """What an acknowledgement needs, after the sync. Raises: ``FencedError``."""
        if self._clock.monotonic() >= self.until:
            raise FencedError(
                "the lease ran out while a write was under way, as happens to a process that is "
                "stopped or starved for long: another writer may have taken over, so the write "
                "is in the local log but was not acknowledged; open the database again"
            )

    def stop(self) -> None:
        """Renew no more; what is left of the lease goes on. Idempotent."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Renew no more, and give the lease back if everything committed is in tables, so that
        the next writer need not wait. Requires: nothing is acknowledged any more.

        A failure to give it back is told: the next writer waits then.
        """
        self.stop()
        with self._lock:
            self.until = -math.inf
            around = self._around
            if around is None or isinstance(self.failure, FencedError):
                return
            if around.committed() <= self._manifest.state.last_seq:
                try:
                    self._put(released=True)
                except SeerDBError as error:
                    self._tell(error)

    def _put(self, *, released: bool) -> None:
        self._number += 1
        state, around = self._manifest.state, self._around
        record = LeaseRecord(
            epoch=state.epoch,
            number=self._number,
            seconds=self.seconds,
            home=state.home,
            address=self._address,
            seq=SeqNo(around.committed() if around else state.last_seq),
            shipped_seq=SeqNo(max(around.shipped() if around else 0, state.last_seq)),
            time_us=self._clock.now_ns() // 1000,
            released=released,
        )
        self._store.put(LEASE_NAME, encode_lease(record))

    def _fail(self, error: SeerDBError, started: float) -> None:
        self.failure = error
        self._attempts += 1
        self._due = started + self.seconds * TRIED_AGAIN
        if isinstance(error, FencedError):
            self.until = -math.inf
        if self._around is not None:
            self._tell(error)

    def _tell(self, error: SeerDBError) -> None:
        assert self._around is not None
        self._around.failed("lease", error, self._attempts, self.seconds * TRIED_AGAIN)
