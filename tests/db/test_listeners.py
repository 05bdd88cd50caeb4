"""Listeners and sinks that call back: they may read, and what would wait is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seerdb import DB, Batch, Components, InvalidRequestError, Replica
from seerdb.events import (
    CompactionCompleted,
    Event,
    FlushCompleted,
    MemtableSealed,
    RestoredInPlace,
    WorkFailed,
)
from seerdb.storage.write.request import Outcome
from tests.fixtures.events import PATIENCE

WAITING: dict[str, Callable[[DB, Path], object]] = {
    "put": lambda db, _: db.put(b"k", b"v", durability="local"),
    "delete": lambda db, _: db.delete(b"k"),
    "put, in the bucket": lambda db, _: db.put(b"k", b"v", durability="object"),
    "flush": lambda db, _: db.flush(),
    "compact": lambda db, _: db.compact(),
    "ingest": lambda db, _: db.ingest([(b"k", b"v")]),
    "checkpoint": lambda db, _: db.checkpoint(),
    "restore in place": lambda db, _: db.restore_in_place(1),
    "backup": lambda db, path: db.backup(str(path / "backups")),
    "clone": lambda db, path: db.clone(str(path / "clone")),
    "drill": lambda db, _: db.drill(),
    "read of the past": lambda db, _: db.get(b"k", as_of=1),
    "close": lambda db, _: db.close(),
}
FREE: dict[str, Callable[[DB], object]] = {
    "get": lambda db: db.get(b"k"),
    "scan": lambda db: list(db.scan()),
    "statistics": lambda db: db.stats(),
    "health": lambda db: db.health(),
    "checkpoints": lambda db: db.checkpoints(),
    "checkpoint of the tables": lambda db: db.checkpoint(flush=False),
    "verify": lambda db: db.verify(),
}


class CallsBack:
    """A listener that, at the first event of a kind, makes every call; ``outcomes`` are theirs."""

    def __init__(self, kind: type[Event], path: Path) -> None:
        self.kind = kind
        self.path = path
        self.db: DB | None = None
        self.outcomes: dict[str, object] = {}
        self.told = threading.Event()

    def __call__(self, event: Event) -> None:
        if self.db is not None and isinstance(event, self.kind) and not self.told.is_set():
            self.call_back(self.db)

    def call_back(self, db: DB) -> None:
        for name, wait in WAITING.items():
            self.outcomes[name] = outcome(lambda wait=wait: wait(db, self.path))  # type: ignore[misc]
        for name, call in FREE.items():
            self.outcomes[name] = outcome(lambda call=call: call(db))  # type: ignore[misc]
        self.told.set()

    def check(self) -> None:
        kinds = {name: type(made) for name, made in self.outcomes.items()}
        assert kinds == dict.fromkeys(WAITING, InvalidRequestError) | dict.fromkeys(FREE, str)
        assert "listener" in str(self.outcomes["flush"])


def outcome(call: Callable[[], object]) -> object:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - it is what is asked for
        return error
    return "done"


def bounded(act: Callable[[], object]) -> None:
    """Do it on a thread, which would never end if somebody waited for himself."""
    errors: list[object] = []
    thread = threading.Thread(target=lambda: errors.append(outcome(act)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "somebody waits for himself"
    assert errors == ["done"]


def seal(db: DB) -> None:
    db.put(b"k", b"v")
    db.flush()


def merge(db: DB) -> None:
    seal(db)
    seal(db)
    db.compact()


def restore(db: DB) -> None:
    seal(db)
    db.restore_in_place(1)


@pytest.mark.parametrize("background", ["thread", "inline"])
@pytest.mark.parametrize(
    ("kind", "act"),
    [
        (MemtableSealed, seal),
        (FlushCompleted, seal),
        (CompactionCompleted, merge),
        (RestoredInPlace, restore),
    ],
)
def test_a_listener_may_read_and_is_refused_what_would_wait_for_it(
    kind: type[Event], act: Callable[[DB], None], background: str, tmp_path: Path
) -> None:
    listener = CallsBack(kind, tmp_path)
    components = Components(listener=listener)
    db = DB.open(str(tmp_path / "db"), components=components, background=background)
    listener.db = db
    bounded(lambda: act(db))
    assert listener.told.wait(PATIENCE)
    listener.check()
    db.put(b"after", b"it", durability="object")
    bounded(db.close)
    with DB.open(str(tmp_path / "db")) as again:
        assert again.get(b"after") == b"it"
        assert not again.verify().problems


def test_what_a_listener_hands_to_another_thread_is_done(tmp_path: Path) -> None:
    handed = threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, FlushCompleted):
            handed.set()

    with DB.open(str(tmp_path), components=Components(listener=listen)) as db:
        db.put(b"k", b"v")
        db.flush()
        assert handed.wait(PATIENCE)
        bounded(db.compact)


@pytest.mark.parametrize("durability", ["local", "object"])
def test_a_sink_may_read_and_submit_and_is_refused_what_would_wait_for_it(
    durability: str, tmp_path: Path
) -> None:
    listener = CallsBack(Event, tmp_path)
    db = DB.open(str(tmp_path / "db"))
    second = threading.Event()

    def submit(key: bytes, sink: Callable[[list[Outcome]], None]) -> None:
        batch = Batch()
        batch.put(key, b"v")
        db.submit(batch, durability=durability, sink=sink)

    def first(_: list[Outcome]) -> None:
        submit(b"second", lambda _: second.set())
        listener.call_back(db)

    submit(b"first", first)
    assert listener.told.wait(PATIENCE)
    assert second.wait(PATIENCE)
    listener.check()
    assert db.get(b"second") == b"v"
    bounded(db.close)


def test_a_listener_of_a_replica_is_refused_to_look_and_to_close(tmp_path: Path) -> None:
    outcomes: list[Any] = []
    told = threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, WorkFailed) and replica is not None and not told.is_set():
            outcomes.extend([outcome(replica._follower.refresh), outcome(replica.close)])
            told.set()

    replica: Replica | None = None
    with DB.open(str(tmp_path / "db")) as db:
        seal(db)
    replica = Replica.open(
        str(tmp_path / "replica"),
        components=Components(listener=listen),
        store=str(tmp_path / "db" / "bucket"),
    )
    with replica:
        replica._follower.tail.look = fail  # type: ignore[method-assign]
        assert outcome(replica._follower.refresh) != "done"
        assert told.wait(PATIENCE)
    assert [type(each) for each in outcomes] == [InvalidRequestError] * 2


def fail() -> bool:
    raise OSError("planned")
