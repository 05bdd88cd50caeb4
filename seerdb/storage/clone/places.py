"""Clones between places that are named: any fsspec URL, or a directory.

One set of options reaches both places, since the clone reads what it borrows through its own store.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from seerdb.clock import SystemClock
from seerdb.errors import InvalidRequestError, NotFoundError
from seerdb.storage.backup.places import (
    PLAIN,
    Transfer,
    bucket_of,
    new_bucket_of,
    open_store,
    open_stores,
)
from seerdb.storage.clone.drop import DropReport, delete_clone
from seerdb.storage.clone.lending import Borrower, Source
from seerdb.storage.clone.make import CloneReport, Wanted, make_clone
from seerdb.storage.manifest.loans import read_debt
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.object_store.names import hold_name
from seerdb.storage.object_store.stores import Stores
from seerdb.storage.retention.garbage import release
from seerdb.storage.retention.kept import list_held_for_clones
from seerdb.storage.retention.loans import borrow
from seerdb.storage.retention.timeline import instant_us
from seerdb.storage.value import SECOND_US

_clock = SystemClock()


class Loan(msgspec.Struct, frozen=True):
    """What a bucket keeps for a clone. ``time``: when that was made, in seconds since 1970."""

    database_id: str
    """Of the clone."""
    url: str
    """Where the clone was made."""
    time: float
    seq: int
    objects: int


def clone(
    source: str,
    to: str,
    *,
    at: float | None = None,
    seq: int | None = None,
    checkpoint: str | None = None,
    transfer: Transfer = PLAIN,
) -> CloneReport:
    """Make a writable branch of the database whose bucket is ``source`` in ``to``, a URL or a data
    directory, where there is nothing yet. It borrows tables and blobs, which are not copied; the
    source may be in use, and nothing happens to it but that it keeps them.

    Shows the newest commit in the bucket; or the last one made by the time ``at``, in seconds since
    1970; or that of ``seq``; or a ``checkpoint``. ``target_options`` of the transfer are for both
    sides. Raises: ``AlreadyExistsError`` when there is something in ``to``, ``HistoryError`` for a
    commit that is not kept, ``NotFoundError``, ``BusyError``, ``InvalidRequestError``,
    ``CorruptionError``, ``UnavailableError``.
    """
    wanted = Wanted(
        seq=seq, time_us=None if at is None else instant_us(at, "at"), checkpoint=checkpoint
    )
    options = transfer.target_options
    target_url = new_bucket_of(to)
    source_url = _reachable(bucket_of(source), target_url)
    with (
        _opened(source_url, options) as stores,
        open_store(target_url, options) as target,
        transfer.carrier() as carrier,
    ):
        place = StoreLocation(target_url, options).url
        borrower = Borrower(place, os.urandom(16).hex(), _clock, os.urandom)
        found = source_of(stores, StoreLocation(source_url, options).url)
        return make_clone(found, target, wanted, borrower, carrier)


def source_of(stores: Stores, url: str) -> Source:
    """The database in ``stores``, to be cloned."""
    own = stores.own(Purpose.BACKUP)
    borrow(stores, read_debt(own))
    return Source(url, stores.of(Purpose.BACKUP), own, stores.lent(Purpose.BACKUP))


def clones(source: str, *, store_options: Mapping[str, Any] | None = None) -> list[Loan]:
    """The clones that borrow from the bucket ``source``. Raises: ``NotFoundError``,
    ``CorruptionError``, ``UnavailableError``."""
    with _opened(bucket_of(source), store_options or {}) as stores:
        found = list_held_for_clones(stores.own(Purpose.BACKUP))
    return [
        Loan(
            database_id=kept.id,
            url=kept.name,
            time=kept.created_us / SECOND_US,
            seq=kept.record.last_seq,
            objects=len(kept.objects),
        )
        for kept in found
    ]


def drop_clone(
    place: str, *, dry_run: bool = True, store_options: Mapping[str, Any] | None = None
) -> DropReport:
    """Delete the clone in ``place``, a URL or a data directory, and let those that it borrows from
    keep nothing for it any more; or, as a ``dry_run``, say what that is.

    Raises: ``InvalidRequestError`` for a database that is no clone, ``ConflictError`` while others
    borrow from it, ``NotFoundError``, ``CorruptionError``, ``UnavailableError``."""
    with _opened(bucket_of(place), store_options or {}) as stores:
        borrow(stores, read_debt(stores.own(Purpose.BACKUP)))
        return delete_clone(stores, _clock, os.urandom, dry_run=dry_run)


def forget_clone(
    source: str, database_id: str, *, store_options: Mapping[str, Any] | None = None
) -> None:
    """Have ``source`` keep nothing any more for a clone that is gone, of which nobody can tell but
    the caller. If it is not gone, it can be opened no more. Raises: ``NotFoundError``,
    ``CorruptionError``, ``UnavailableError``."""
    with _opened(bucket_of(source), store_options or {}) as stores:
        store = stores.own(Purpose.BACKUP)
        if database_id not in {kept.id for kept in list_held_for_clones(store)}:
            raise NotFoundError(f"{source} keeps nothing for a clone {database_id!r}")
        release(store, hold_name(database_id))


def _opened(url: str, options: Mapping[str, Any]) -> AbstractContextManager[Stores]:
    return open_stores(url, {} if StoreLocation(url).directory else options)


def _reachable(source: str, target: str) -> str:
    """``source``, as it is noted in the clone. Raises: ``InvalidRequestError``."""
    kinds = [place.partition("://")[0] if "://" in place else "file" for place in (source, target)]
    if kinds[0] != kinds[1]:
        raise InvalidRequestError(
            f"a clone reads what it borrows through its own store: {target} cannot borrow from "
            f"{source}; name places of one kind, or make a copy with backup and restore"
        )
    if str(StoreLocation(source)) != StoreLocation(source).url:
        raise InvalidRequestError(
            "the URL of the source is noted in the clone, and must hold no password; give it "
            "in the options of the store"
        )
    return source
