"""A store that cannot do what the engine relies on is refused, with the reason."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from seerdb.errors import InvalidRequestError, UnavailableError
from seerdb.storage.object_store.base import ObjectInfo
from seerdb.storage.object_store.probe import Capabilities, probe, require
from seerdb.storage.pieces import Body
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore


class IgnoresTheCondition(MemoryObjectStore):
    """As servers do that have never heard of If-None-Match."""

    def put_if_absent(self, name: str, data: Body) -> None:
        self.put(name, data)


class RefusesButReplaces(MemoryObjectStore):
    def put_if_absent(self, name: str, data: Body) -> None:
        try:
            super().put_if_absent(name, data)
        finally:
            self.put(name, data)


class CannotCreate(MemoryObjectStore):
    def put_if_absent(self, name: str, data: Body) -> None:
        raise InvalidRequestError("not on this store")


class IgnoresTheRange(MemoryObjectStore):
    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.get(name)


class ListsLate(MemoryObjectStore):
    def list(self, prefix: str) -> list[ObjectInfo]:
        return []


class KeepsTheDeleted(MemoryObjectStore):
    def delete(self, names: Iterable[str]) -> None:
        pass


def test_a_good_store_needs_at_most_eight_requests() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    capabilities = probe(store, "x7")
    require(capabilities, "s3://bucket")
    assert capabilities.missing == ()
    assert len(store.trace) <= 8
    assert {name for each in store.trace for name in each.names} == {"probe/x7"}
    assert store.list("") == []


@pytest.mark.parametrize(
    ("store", "missing"),
    [
        (IgnoresTheCondition(), "create if absent"),
        (RefusesButReplaces(), "create if absent"),
        (CannotCreate(), "create if absent"),
        (IgnoresTheRange(), "ranged reads"),
        (ListsLate(), "list after write"),
        (KeepsTheDeleted(), "delete"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, MemoryObjectStore) else "",
)
def test_a_store_that_lacks_one_thing_is_refused_for_that(
    store: MemoryObjectStore, missing: str
) -> None:
    capabilities = probe(store, "x7")
    assert capabilities.missing == (missing,)
    with pytest.raises(InvalidRequestError, match=f"s3://bucket cannot .*{missing}: NO"):
        require(capabilities, "s3://bucket")


def test_a_store_that_does_not_answer_is_not_judged() -> None:
    store = FaultyObjectStore(MemoryObjectStore())
    store.outage = True
    with pytest.raises(UnavailableError):
        probe(store, "x7")


def test_the_verdict_is_readable() -> None:
    assert str(Capabilities(True, True, False, True)) == (
        "create if absent: yes, ranged reads: yes, list after write: NO, delete: yes"
    )
