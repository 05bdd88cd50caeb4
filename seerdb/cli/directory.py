"""A data directory that a command opens itself, where there is no server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seerdb.cli.target import open_bucket
from seerdb.db import DB
from seerdb.errors import NotFoundError
from seerdb.options import Options
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.names import MANIFEST_PREFIX


def demand_database(data_dir: str, options: Options) -> None:
    """Raise ``NotFoundError`` where there is no database: to open what is not there would make one.
    The directory itself need not be there yet."""
    location = StoreLocation(
        options.store or f"{Path(data_dir).absolute()}/bucket", options.store_options
    )
    with open_bucket(location) as bucket:
        if not bucket.list(MANIFEST_PREFIX):
            raise NotFoundError(f"there is no database in {location}: manifest/ is empty")


@contextmanager
def open_directory(data_dir: str, options: Options) -> Iterator[DB]:
    """The database in ``data_dir``, which is closed when the block ends. After anything but a good
    end that does not wait for a bucket that does not answer. Raises as :meth:`DB.open`."""
    with DB.open(data_dir, options) as database:
        try:
            yield database
        except BaseException:
            database.begin_closing(patience=0.0)
            raise
