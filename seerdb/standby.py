"""Standby: taking a database over when its writer is gone; and doing so by hand."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from seerdb.db import DB
from seerdb.errors import ConflictError, InvalidRequestError
from seerdb.options import DBOptions, Options
from seerdb.storage.engine import Engine
from seerdb.storage.home import load_home
from seerdb.storage.lease.keeper import RENEWED
from seerdb.storage.lease.watch import Bid, LeaseWatch
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Prices, Purpose
from seerdb.storage.runtime import Components
from seerdb.storage.status.costs import StoreStatistics, store_requests
from seerdb.storage.stores import Stores

STANDBY_LEASE = 6.0
"""Seconds: the lease of a standby that has become the writer, unless the setting says otherwise."""


def promote(
    path: str,
    options: Options | DBOptions | None = None,
    *,
    components: Components | None = None,
    **settings: Any,
) -> DB:
    """Open the database in the bucket that the setting ``store`` names as its writer, now, with
    ``path`` as its data directory. What the writer before had shipped is in it; the property
    ``takeover`` says what is known to be lost.

    As ``DB.open``, with one difference: a log in ``path`` that another writer has overtaken is put
    into ``quarantine/`` instead of refused. If the writer before keeps a lease and has not given it
    back, this waits until it has run out. Raises as ``DB.open``.
    """
    given = _options(path, options, settings)
    return DB(Engine(path, given, components or Components(), Bid(takes_over=True)))


class Standby:
    """Waits until the writer of a database is gone, then becomes it. Use :meth:`open`.

    It reads the lease of the writer, and writes nothing before it takes over. For one thread.
    """

    def __init__(self, path: str, options: Options, components: Components) -> None:
        self._path = path
        self._options = options
        self._components = components
        location = None
        store = components.object_store
        if store is None:
            location = StoreLocation(options.store or f"{path}/bucket", options.store_options)
            store = location.open(options.lease * RENEWED)
        clock = components.clock
        self._stores = Stores(store, location, clock=clock, random=components.random)
        home = load_home(components.files, f"{path}/wal")
        own = home.home if home is not None and home.complete else None
        self._watch = LeaseWatch(self._stores.of(Purpose.LEASE), clock, own)

    @classmethod
    def open(
        cls,
        path: str,
        options: Options | DBOptions | None = None,
        *,
        components: Components | None = None,
        **settings: Any,
    ) -> Standby:
        """A standby with the data directory ``path`` for the database in the bucket that the
        setting ``store`` names; ``settings`` are those with which it will be opened, with a
        ``lease`` of 6 s unless they say otherwise. Makes no request. Raises:
        ``InvalidRequestError``.
        """
        given = _options(path, options, settings)
        if not given.lease:
            given = given.with_values({"lease": STANDBY_LEASE})
        return cls(path, given, components or Components())

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
        return self._watch.next_look

    def store_requests(self) -> list[StoreStatistics]:
        """What looking has asked of the bucket so far, and what that cost."""
        prices = Prices(**self._options.prices)
        return store_requests(self._stores.meter, prices)

    def look(self) -> DB | None:
        """Look at the lease once; if its holder is gone, take over, and return the open database,
        which is the caller's to close. ``None``: not yet.

        Raises: ``UnavailableError``, and whatever opening the database raises: look again later.
        """
        bid = self._watch.look()
        if bid is None:
            return None
        try:
            return self._open(bid)
        except ConflictError:
            if self._watch.is_overtaken(bid):
                return None
            raise

    def take_over(self) -> DB:
        """Take over now, whoever is the writer; see :func:`promote`."""
        return self._open(Bid(takes_over=True))

    def _open(self, bid: Bid) -> DB:
        return DB(Engine(self._path, self._options, self._components, bid))

    def close(self) -> None:
        """Wait no more. A database that it has opened stays open."""
        if self._components.object_store is None:
            self._stores.close()


def _options(path: str, options: Options | DBOptions | None, settings: dict[str, Any]) -> Options:
    if not path:
        raise InvalidRequestError(f"the path must be a directory's name, not {path!r}")
    base = options.values if isinstance(options, DBOptions) else {}
    given = options if isinstance(options, Options) else Options.build(base)
    return given.with_values(settings)
