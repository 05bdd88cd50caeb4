"""Replica: the handle on a database that another process writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from seerdb.errors import ReadOnlyError
from seerdb.options import (
    MAX_LAG,
    DBOptions,
    Directory,
    Options,
    check_max_lag,
    check_server_url,
    chosen,
    directory_name,
)
from seerdb.read_only import ReadOnly
from seerdb.reader import Reader
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.opening.lineage import Lineage
from seerdb.storage.past.time_travel import AsOf
from seerdb.storage.read.reads import View
from seerdb.storage.replication.follower import Follower
from seerdb.storage.replication.lag import LagStatistics
from seerdb.storage.runtime import Components
from seerdb.storage.status.health import HealthCheck
from seerdb.storage.status.replica import ReplicaStatistics, gather, health


class Replica(ReadOnly, Reader):
    """A read-only view of a database, kept up to date. Use :meth:`open`.

    It reads the writer's tables where they are, and copies nothing; it claims nothing and writes
    nothing to the bucket. What it shows is the database as it was after some commit, :attr:`seq`,
    a little later than the writer has it; the reads are those of ``DB``. It goes forward only, with
    one exception: where writes are lost because another writer takes over without them, it takes
    them back. Thread-safe.
    """

    def __init__(self, follower: Follower, max_lag: float) -> None:
        super().__init__(follower)
        self._follower = follower
        self._max_lag = max_lag
        self._lineage: Lineage | None = None

    @classmethod
    def open(
        cls,
        path: Directory,
        options: Options | DBOptions | None = None,
        *,
        primary: str | None = None,
        max_lag: float = MAX_LAG,
        components: Components | None = None,
        **settings: Any,
    ) -> Replica:
        """Follow the database in the bucket that the setting ``store`` names.

        ``path`` is a local directory for its caches. ``primary`` is the URL of the server that
        writes the database: while it can be reached, the log comes from there within milliseconds,
        and else through the bucket, as often as it is shipped. ``max_lag``: seconds after which
        :meth:`health` finds it too far behind. ``settings`` as for ``DB.open``; those about writing
        mean nothing here.

        It can be read at once, as of the writer's last flush, and catches up in the background.
        Raises: ``InvalidRequestError``, ``NotFoundError`` where there is no database yet,
        ``LockedError`` when another process has the directory, ``UnavailableError``,
        ``CorruptionError``.
        """
        directory = directory_name(path)
        if primary is not None:
            check_server_url("primary", primary)
        check_max_lag(max_lag)
        parts = chosen(options, settings), components or Components()
        return cls(Follower(directory, *parts, primary), max_lag)

    @property
    def seq(self) -> int:
        """The newest commit that it shows."""
        return self._follower.seq

    @property
    def epoch(self) -> int:
        """Of the newest writer whose commits it shows, and none that this one took over without."""
        return self._follower.tail.settled

    def check_commit(self, epoch: int, seq: int) -> None:
        """Raise ``LostError`` if the commit ``seq`` that a writer of ``epoch`` acknowledged is not
        part of the database any more, as far as this replica has seen; see ``DB.check_commit``.
        Raises ``FencedError`` while ``epoch`` is later than the replica's. Asks the bucket once for
        each writer that takes over."""
        self._follower.check_open()
        self._lineage_of(self.epoch).check(epoch, seq)

    def _lineage_of(self, epoch: int) -> Lineage:
        lineage, is_told = self._lineage, self._follower.tail.told >= epoch
        if lineage is None or lineage.epoch != epoch:
            lineage = Lineage(self._follower.stores.of(Purpose.WAL), epoch)
            if is_told:  # else it may ask before the branch of the epoch is there
                self._lineage = lineage
        return lineage

    @property
    def lag(self) -> LagStatistics:
        """How far it is behind."""
        return self._follower.tail.lag.measure(self.seq)

    @property
    def primary(self) -> str | None:
        """The address of the server that writes, if it is known."""
        return self._follower.primary

    def begin_closing(self, patience: float | None = None) -> None:
        """From ``patience`` seconds on, reads do not wait for a bucket that does not answer."""
        if patience is not None:
            self._follower.patience.begin(patience)

    def refresh(self) -> None:
        """Look into the bucket now, and show what it holds by then; waits for it. Raises:
        ``UnavailableError``, ``CorruptionError``, ``NotFoundError`` for a clone that was dropped.
        """
        self._follower.refresh()

    def stats(self) -> Mapping[str, Any]:
        """What there is and what happened since the open, as plain nested data."""
        return self.statistics().to_builtins()

    def statistics(self) -> ReplicaStatistics:
        """As :meth:`stats`, typed."""
        return gather(self._follower)

    def health(self) -> list[HealthCheck]:
        """Named checks of what the replica needs to work."""
        return health(self._follower, self._max_lag)

    def _view(self, as_of: AsOf | None) -> View:
        self._follower.check_open()
        if as_of is not None:
            self.refuse()
        return self._follower.reads.view()

    def refuse(self) -> NoReturn:
        """Raises ``ReadOnlyError``, which names the primary if it is known."""
        self._follower.check_open()
        where = self.primary or "the process that has the database open for writing"
        raise ReadOnlyError(f"this is a replica; go to {where}", primary=self.primary)
