"""What ends when closing begins, and what goes on until the end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest

from seerdb import DB, ClosedError, Components
from seerdb.events import WorkFailed
from seerdb.storage.engine import Engine
from tests.db.conftest import OpenDB
from tests.fixtures.events import PATIENCE, Heard


def flushed(db: DB, count: int, value: bytes) -> dict[bytes, bytes]:
    """Rows in a table of their own."""
    rows = {b"%04d" % number: value * 100 for number in range(count)}
    for key, each in rows.items():
        db.put(key, each)
    db.flush()
    return rows


def test_who_waits_for_a_merge_is_told_when_closing_begins_and_all_else_goes_on(
    open_db: OpenDB,
) -> None:
    heard = Heard()
    db = open_db(components=Components(listener=heard), compaction_rate=1)
    rows = flushed(db, 500, b"1") | flushed(db, 250, b"2")
    with ThreadPoolExecutor(1) as caller:
        compaction = caller.submit(db.compact)
        while not db.statistics().jobs:
            pass
        for _ in range(2):
            db.begin_closing()
        with pytest.raises(ClosedError):
            compaction.result(PATIENCE)
    with pytest.raises(ClosedError):
        db.compact()
    rows |= flushed(db, 100, b"3")
    assert dict(db.scan()) == rows
    db.close()
    assert heard.count(WorkFailed) == 0
    assert dict(open_db().scan()) == rows


def test_reads_of_the_past_that_closing_overtakes_say_so(db: DB) -> None:
    db.put(b"a", b"1")
    fetchers = db._engine.runtime.workers.fetchers
    with patch.object(Engine, "_release", lambda _: fetchers.shutdown()):
        db.close()
    with patch.object(Engine, "check_open"):  # they have passed it
        for read in (
            lambda: db.get(b"a", as_of=1),
            lambda: db.seq_at(1),
            lambda: db.history(b"a"),
        ):
            with pytest.raises(ClosedError, match="closed during this read"):
                read()
    db._engine._release()
