"""A bucket that takes requests and never answers does not keep anything from closing."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from seerdb import DB, ClosedError, Components, Replica, SeerDBError, Standby
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
def _in_a_directory(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))


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
