"""What ends when closing begins, and what goes on until the end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest

from seerdb import DB, ClosedError, Components, DiskError
from seerdb.events import WorkFailed
from seerdb.storage.engine.engine import Engine
from seerdb.storage.object_store.names import MANIFEST_PREFIX
from seerdb.storage.pieces import Body
from seerdb.storage.wal.writer import LogWriter
from seerdb.testing.objects import MemoryObjectStore
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


class HeldStore(MemoryObjectStore):
    """Answers no creation of a manifest record while it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let_go = threading.Event(), threading.Event()
        self.let_go.set()

    def put_if_absent(self, name: str, data: Body) -> None:
        if name.startswith(MANIFEST_PREFIX) and not self.let_go.is_set():
            self.asked.set()
            assert self.let_go.wait(PATIENCE)
        super().put_if_absent(name, data)


def test_closing_begins_while_the_bucket_does_not_answer(open_db: OpenDB) -> None:
    """A merge that was to begin waited for the edit of a flush, and held what it needed: a server
    that was told to stop answered nobody meanwhile."""
    store = HeldStore()
    db = open_db(components=Components(object_store=store))
    db.put(b"a", b"1")
    store.let_go.clear()
    compactor = db._engine.compactor
    with ThreadPoolExecutor(3) as callers:
        try:
            flush = callers.submit(db.flush)
            assert store.asked.wait(PATIENCE)
            db._engine.background.compaction.wake()
            while not compactor._lock.locked():
                pass  # until it looks what to merge
            callers.submit(db.begin_closing).result(PATIENCE)
            assert isinstance(callers.submit(compactor.ask).result(PATIENCE).error, ClosedError)
        finally:
            store.let_go.set()
        flush.result(PATIENCE)
    assert db.get(b"a") == b"1"


def test_a_log_that_cannot_be_closed_keeps_nothing_else_open(
    db: DB, open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network's file system, which may tell only then that there is no more room."""

    def close(_: LogWriter) -> None:
        raise DiskError("no more room")

    db.put(b"a", b"1")
    with monkeypatch.context() as patched:
        patched.setattr(LogWriter, "close", close)
        with pytest.raises(DiskError, match="no more room"):
            db.close()
    with pytest.raises(ClosedError):
        db._engine.runtime.workers.submit_lane(lambda: None)
    assert open_db().get(b"a") == b"1"
