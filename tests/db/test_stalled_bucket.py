"""A bucket that takes requests and never answers does not keep anything from closing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest

from seerdb import DB, ClosedError, Components, Replica, SeerDBError, Standby, UnavailableError
from seerdb.clock import SystemClock
from seerdb.storage.engine import patience
from seerdb.storage.object_store import stores
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.stores import Stores
from seerdb.testing.objects import MemoryObjectStore, StallingObjectStore
from tests.fixtures.database import ROOMY

SOON_SECONDS = 30.0
CLAIM = f"manifest/{2:020}"
"""The claim of the second writer."""


def ends(call: Callable[[], object]) -> bool:
    """Whether a call ends soon."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(SOON_SECONDS)
    return not thread.is_alive()


@pytest.fixture
def bucket() -> MemoryObjectStore:
    """With a database in it that nobody writes."""
    objects = MemoryObjectStore()
    db = DB.open("primary", components=on(StallingObjectStore(objects)), **ROOMY)
    db.put(b"a", b"1", durability="object")
    db.close()
    return objects


def on(store: StallingObjectStore) -> Components:
    return Components(object_store=store)


@pytest.fixture(autouse=True)
def _in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_replica_closes(bucket: MemoryObjectStore) -> None:
    store = StallingObjectStore(bucket)
    replica = Replica.open("replica", components=on(store))
    store.stalls = True
    assert store.is_waited_for.wait(SOON_SECONDS)
    assert ends(replica.close)


@pytest.mark.parametrize("what", [Standby.follow, Standby.take_over])
def test_a_standby_closes_whatever_it_does(
    bucket: MemoryObjectStore, what: Callable[[Standby], object]
) -> None:
    store = StallingObjectStore(bucket)
    standby = Standby.open("standby", components=on(store))
    store.stalls = True
    errors: list[SeerDBError] = []

    def do() -> None:
        try:
            what(standby)
        except SeerDBError as error:
            errors.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    assert store.is_waited_for.wait(SOON_SECONDS)
    assert ends(standby.close)
    thread.join(SOON_SECONDS)
    assert errors


def test_a_standby_closes_while_it_waits_for_a_lease_to_run_out() -> None:
    objects = MemoryObjectStore()
    writer = DB.open("primary", components=on(StallingObjectStore(objects)), lease=600.0, **ROOMY)
    standby = Standby.open("standby", components=on(StallingObjectStore(objects)), lease=600.0)
    errors: list[SeerDBError] = []

    def take_over() -> None:
        try:
            standby.take_over()
        except SeerDBError as error:
            errors.append(error)

    thread = threading.Thread(target=take_over, daemon=True)
    thread.start()
    while CLAIM not in [each.name for each in objects.list("manifest/")]:
        thread.join(0.01)
    assert ends(standby.close)
    thread.join(SOON_SECONDS)
    assert [type(error) for error in errors] == [ClosedError]
    writer.close()


def test_a_database_that_is_told_to_closes_and_keeps_what_it_could_not_flush(
    bucket: MemoryObjectStore,
) -> None:
    store = StallingObjectStore(bucket)
    db = DB.open("primary", components=on(store), **ROOMY)
    db.put(b"b", b"2")
    store.stalls = True
    with patch.object(Stores, "answers", lambda _: False):
        db.begin_closing(0.01)
        assert ends(db.close)
    with DB.open("primary", components=on(StallingObjectStore(bucket)), **ROOMY) as again:
        assert dict(again.scan()) == {b"a": b"1", b"b": b"2"}


def test_a_bucket_that_answers_is_waited_for(bucket: MemoryObjectStore) -> None:
    asked = threading.Event()

    def answers(_: Stores) -> bool:
        asked.set()
        return True

    db = DB.open("primary", components=on(StallingObjectStore(bucket)), **ROOMY)
    db.put(b"b", b"2")
    with patch.object(Stores, "answers", answers), patch.object(patience, "ASK_AGAIN_SECONDS", 0.0):
        db.begin_closing(0.0)
        assert asked.wait(SOON_SECONDS)
        db.close()
    with DB.open("elsewhere", components=on(StallingObjectStore(bucket)), **ROOMY) as again:
        assert dict(again.scan()) == {b"a": b"1", b"b": b"2"}


def test_reads_of_a_replica_that_is_told_to_close_end(bucket: MemoryObjectStore) -> None:
    store = StallingObjectStore(bucket)
    replica = Replica.open("replica", components=on(store))
    store.stalls = True
    with patch.object(Stores, "answers", lambda _: False):
        replica.begin_closing(0.01)
        with pytest.raises(SeerDBError):
            replica.refresh()
    replica.close()


def stores_at(url: str, options: dict[str, str]) -> Stores:
    location = StoreLocation(url, options)
    return Stores(location.open(), location, clock=SystemClock(), random=Random(1))


def test_whether_a_bucket_answers(
    tmp_path: Path, moto_store_url: tuple[str, dict[str, str]]
) -> None:
    assert stores_at(str(tmp_path), {}).answers()
    assert stores_at(*moto_store_url).answers()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = {**moto_store_url[1], "endpoint_url": endpoint}
        with patch.object(stores, "ANSWER_SECONDS", 0.2):
            assert not stores_at("s3://bucket/db", options).answers()


def test_a_bucket_for_which_there_are_no_credentials_does_not_answer(tmp_path: Path) -> None:
    asked = stores_at(str(tmp_path), {})
    with patch.object(StoreLocation, "open", side_effect=UnavailableError("no credentials")):
        assert not asked.answers()
