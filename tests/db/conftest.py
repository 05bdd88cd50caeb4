"""Databases on a real disk, small enough to fill, closed when the test ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from seerdb import DB, Components
from seerdb.storage.write import admission
from tests.fixtures.events import PATIENCE

SMALL: dict[str, Any] = {
    "min_free_disk": 0,
    "wal_segment_size": 64 << 10,
    "block_size": 1024,
    "ship_interval": 0,
}


class OpenDB(Protocol):
    """Opens a database in a temporary directory; the same ``name`` is the same database."""

    def __call__(
        self, name: str = "db", *, components: Components | None = None, **settings: Any
    ) -> DB: ...


@pytest.fixture
def open_db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenDB]:
    # Worker processes give way to whatever else keeps a busy machine, while writers wait for them.
    monkeypatch.setattr(admission, "STALL_SECONDS", float(PATIENCE))
    with ExitStack() as opened:

        def open_one(
            name: str = "db", *, components: Components | None = None, **settings: Any
        ) -> DB:
            db = DB.open(str(tmp_path / name), components=components, **(SMALL | settings))
            opened.callback(db.close)
            return db

        yield open_one


@pytest.fixture
def db(open_db: OpenDB) -> DB:
    """One with the settings of ``SMALL``."""
    return open_db()
