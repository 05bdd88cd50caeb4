"""A data directory that a command opens itself, where there is no server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from seerdb.db import DB
from seerdb.options import Options


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
