"""What ``verify`` and ``inspect`` look at: a data directory with its bucket, or a bucket alone.

Nothing here locks or writes, so a running server is not disturbed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seerdb.cli.serve import load_settings
from seerdb.clock import SystemClock
from seerdb.errors import InvalidRequestError, NotFoundError
from seerdb.storage.manifest.loans import read_debt
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.borrowing import KeptNames
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.object_store.stores import Stores
from seerdb.storage.retention.loans import borrow, kept_names


@dataclass(frozen=True)
class Place:
    """Where a database is. ``wal``: the directory of its local log; ``None`` for a bucket."""

    bucket: StoreLocation
    wal: str | None

    @contextmanager
    def open(self, kept: KeptNames = kept_names) -> Iterator[ObjectStore]:
        """The bucket, for reading; ``kept`` as in :func:`open_bucket`. Raises:
        ``InvalidRequestError``."""
        with open_bucket(self.bucket, kept) as store:
            yield store


@contextmanager
def open_bucket(location: StoreLocation, kept: KeptNames = kept_names) -> Iterator[ObjectStore]:
    """A bucket, for a command that goes through all of it; ``kept`` tells what lenders keep.
    Raises: ``InvalidRequestError``."""
    stores = Stores(location.open(), location, clock=SystemClock(), random=random.SystemRandom())
    try:
        borrow(stores, read_debt(stores.own(Purpose.VERIFY)), kept)
        yield stores.of(Purpose.VERIFY)
    finally:
        stores.close()


def find(target: str, store: str | None, config: str | None) -> Place:
    """The place that ``target`` names: a URL, a bucket's directory, or a data directory, whose
    bucket is the setting ``store``; one that was restored and not opened yet has no log.

    Raises: ``NotFoundError`` for a directory that is neither, ``InvalidRequestError``.
    """
    settings = load_settings(config, data_dir=target, store=store)
    options = settings.options
    directory = Path(target).expanduser()
    is_url = "://" in target
    if is_url or (directory / "manifest").is_dir() or (directory / "tables").is_dir():
        if store is not None:
            raise InvalidRequestError(
                f"--store goes with a data directory, and {target} is a bucket"
            )
        location = target if is_url else str(directory)
        return Place(StoreLocation(location, options.store_options if is_url else {}), wal=None)
    bucket = str(directory / "bucket")
    if (directory / "wal").is_dir():
        location = options.store or bucket
        return Place(StoreLocation(location, options.store_options), wal=str(directory / "wal"))
    if Path(bucket, "manifest").is_dir():
        return Place(StoreLocation(store or bucket, options.store_options if store else {}), None)
    raise NotFoundError(f"{target} is neither a data directory nor a bucket")


def new_bucket(target: str, config: str | None) -> StoreLocation:
    """Where a new database is to lie: at a URL, or in the bucket of a data directory to be."""
    options = load_settings(config, data_dir=target, store=None).options
    location = target if "://" in target else str(Path(target).expanduser() / "bucket")
    return StoreLocation(location, options.store_options)
