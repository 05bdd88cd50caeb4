"""Standby: taking a database over when its writer is gone, and reading it until then; and taking it
over by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

from msgspec.structs import replace

from seerdb.db import DB
from seerdb.errors import ConflictError, ReadOnlyError, SeerDBError
from seerdb.events import LogOvertaken
from seerdb.forked import Handle
from seerdb.options import (
    MAX_LAG,
    DBOptions,
    Directory,
    Options,
    check_max_lag,
    chosen,
    directory_name,
)
from seerdb.replica import Replica
from seerdb.storage.engine.engine import Engine
from seerdb.storage.lease.keeper import RENEWED
from seerdb.storage.lease.watch import LOOKS, Bid, LeaseWatch
from seerdb.storage.manifest.store import load
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Prices, Purpose
from seerdb.storage.object_store.stores import Openings, Stores
from seerdb.storage.opening.overtaken import find_overtaken
from seerdb.storage.replication.follower import Follower
from seerdb.storage.runtime import Components
from seerdb.storage.status.costs import StoreStatistics, costs, joined, store_requests
from seerdb.storage.status.health import HealthCheck
from seerdb.storage.status.replica import ReplicaStatistics
from seerdb.storage.wal.home import load_home

STANDBY_LEASE = 6.0
"""Seconds: the lease of a standby that has become the writer, unless the setting says otherwise."""
MOST_REST = 300.0
"""Seconds between two attempts to take over of which all before have failed."""


def promote(
    path: Directory,
    options: Options | DBOptions | None = None,
    *,
    components: Components | None = None,
    **settings: Any,
) -> DB:
    """Open the database in the bucket that the setting ``store`` names as its writer, now, with
    ``path`` as its data directory. What the writer before had shipped is in it; the property
    ``takeover`` says what is known to be lost, and exactly what of the log that was in ``path``.

    As ``DB.open``, with one difference: a log in ``path`` that another writer has overtaken is put
    into ``quarantine/`` instead of refused. If the writer before keeps a lease and has not given it
    back, this waits until it has run out. Raises as ``DB.open``.
    """
    directory, given = directory_name(path), chosen(options, settings)
    return DB(Engine(directory, given, components or Components(), Bid(takes_over=True)))


class Standby(Handle):
    """Waits until the writer of a database is gone, then becomes it. Use :meth:`open`.

    It reads the lease of the writer, and writes nothing before it takes over; :meth:`follow` has
    the database to be read meanwhile. For one thread.
    """

    def __init__(self, path: str, options: Options, components: Components) -> None:
        self._path = path = components.files.absolute(path)
        self._options = options
        self._components = components
        self._files = components.files
        home = load_home(self._files, f"{path}/wal")
        own = home.home if home is not None and home.complete else None
        location = None
        store = components.object_store
        if store is None:
            options = options.with_values({"store": options.store or f"{path}/bucket"})
            self._options = options
            location = StoreLocation(str(options.store), options.store_options)
            store = location.open(options.lease * RENEWED)
        self._clock = clock = components.clock
        self._rest = 0.0  # seconds, after the next attempt that fails
        self._rests_until = clock.monotonic()
        self._stores = Stores(store, location, clock=clock, random=components.random)
        self._openings = Openings()
        self._watch = LeaseWatch(self._stores.of(Purpose.LEASE), clock, own)

    @classmethod
    def open(
        cls,
        path: Directory,
        options: Options | DBOptions | None = None,
        *,
        components: Components | None = None,
        **settings: Any,
    ) -> Standby:
        """A standby with the data directory ``path`` for the database in the bucket that the
        setting ``store`` names; ``settings`` are those with which it will be opened, with a
        ``lease`` of 6 s unless they say otherwise. Makes no request. Raises:
        ``InvalidRequestError``, ``CorruptionError``, ``DiskError``.
        """
        directory, given = directory_name(path), chosen(options, settings)
        if not given.lease:
            given = given.with_values({"lease": STANDBY_LEASE})
        return cls(directory, given, components or Components())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def primary(self) -> str | None:
        """The address of the writer, as far as it was seen."""
        holder = self._watch.holder
        return holder.address or None if holder is not None else None

    @property
    def state(self) -> str:
        """What it waits for, in words."""
        return self._watch.state

    @property
    def next_look(self) -> float:
        """Seconds from now until it makes sense to :meth:`look` again."""
        rest = self._rests_until - self._clock.monotonic()
        return max(self._watch.next_look, min(rest, self._options.lease / LOOKS))

    def store_requests(self) -> list[StoreStatistics]:
        """What looking has asked of the bucket so far, and what that cost."""
        prices = Prices(**self._options.prices)
        return store_requests(self._stores.meter, prices)

    def refuse(self) -> NoReturn:
        """Raise ``ReadOnlyError``, which names the primary if it is known."""
        where = self.primary
        raise ReadOnlyError(
            f"this is a standby, which takes no writes while {self.state}"
            + (f"; go to {where}" if where else ""),
            primary=where,
        )

    def find_overtaken(self) -> LogOvertaken | None:
        """What is lost of the log in the own data directory, which other writers have overtaken, as
        after a failover from here; ``None`` where it has no such log. That log stays where it is
        until this takes over. Raises: ``UnavailableError``, ``CorruptionError``, ``DiskError``."""
        store = self._stores.of(Purpose.WAL)
        return find_overtaken(self._files, f"{self._path}/wal", store, load(store))

    def look(self) -> DB | None:
        """Look at the lease once; if its holder is gone, take over, and return the open database,
        which is the caller's to close. ``None``: not yet.

        Raises: ``UnavailableError``, and whatever opening the database raises: look again later. It
        tries less and less often then, at least every ``MOST_REST`` seconds: a takeover that fails
        may leave a claim in the manifest, which stays there.
        """
        bid = self._watch.look()
        if bid is None or self._clock.monotonic() < self._rests_until:
            return None
        try:
            return self._open(bid)
        except SeerDBError as error:
            if isinstance(error, ConflictError) and self._watch.is_overtaken(bid):
                return None
            self._rests_until = self._clock.monotonic() + self._rest
            self._rest = min(2 * self._rest + self._options.lease, MOST_REST)
            raise

    def follow(self, max_lag: float = MAX_LAG) -> StandbyReplica:
        """The database as far as it is in the bucket, to be read while this waits, and until reads
        have ended that began before it took over; the caller's to close. ``max_lag`` as for
        :meth:`Replica.open`.

        Nothing is cached on disk for it. It shows only what whoever takes over has too: who goes on
        to the database that :meth:`look` opens reads nothing older there. Raises:
        ``NotFoundError`` where there is no database yet, ``UnavailableError``, ``CorruptionError``.
        """
        check_max_lag(max_lag)
        try:
            follower = Follower(None, self._options, self._components, None, self._openings)
        finally:
            self._openings.ended()
        return StandbyReplica(follower, max_lag, self)

    def take_over(self) -> DB:
        """Take over now, whoever is the writer; see :func:`promote`."""
        return self._open(Bid(takes_over=True))

    def _open(self, bid: Bid) -> DB:
        bid = dataclasses.replace(bid, openings=self._openings)
        try:
            return DB(Engine(self._path, self._options, self._components, bid))
        finally:
            self._openings.ended()

    def close(self) -> None:
        """Wait no more. A database that it has opened stays open. From any thread: a :meth:`look`,
        :meth:`follow` or :meth:`take_over` that is under way does not wait for the bucket any more,
        and raises if it cannot do without."""
        self._openings.give_up()
        if self._components.object_store is None:
            self._stores.close()


class StandbyReplica(Replica):
    """A replica of the database for which a standby waits. Use :meth:`Standby.follow`."""

    def __init__(self, follower: Follower, max_lag: float, standby: Standby) -> None:
        super().__init__(follower, max_lag)
        self._standby = standby

    @property
    def primary(self) -> str | None:
        """The address of the writer, as far as the standby has seen it."""
        return self._standby.primary

    def stats(self) -> Mapping[str, Any]:
        """As of a replica, and what the standby waits for."""
        return {**super().stats(), "standby": self._standby.state}

    def statistics(self) -> ReplicaStatistics:
        """As of a replica; what looking at the lease costs is part of it."""
        seen = super().statistics()
        rows = joined(seen.store_requests, self._standby.store_requests())
        spent = costs(rows, 0, seen.costs.prices)
        return replace(seen, primary=self.primary or "", store_requests=rows, costs=spent)

    def health(self) -> list[HealthCheck]:
        """As of a replica, and that it takes no writes."""
        return [HealthCheck("standby", ok=False, detail=self._standby.state), *super().health()]

    def refuse(self) -> NoReturn:
        """Raises ``ReadOnlyError``, which names the primary if it is known."""
        self._follower.check_open()
        self._standby.refuse()
