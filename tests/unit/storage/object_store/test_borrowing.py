"""The bucket of a clone: which object lies where."""

from __future__ import annotations

import pytest

from seerdb.errors import ChecksumError, InternalError, NotFoundError
from seerdb.ids import Epoch
from seerdb.storage.object_store.base import Checksum, ObjectStore
from seerdb.storage.object_store.borrowing import BorrowingObjectStore, lender_of
from seerdb.storage.object_store.lender import NO_LOANS, Debt, Lender, Loans
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore


def table(epoch: int, number: int = 1) -> str:
    return f"tables/{epoch:08d}-{number:012d}.sst"


def blob(epoch: int) -> str:
    return f"blobs/{epoch:08d}-{1:012d}-{0:06d}.blob"


FIRST = Lender("first", "", Epoch(3))
SECOND = Lender("second", "", Epoch(7), also=(table(2, 5),))
LOANS = Loans((FIRST, SECOND), copied=(table(6, 9),))


class Buckets:
    """A clone and those it borrows from; every object tells where it lies."""

    def __init__(self) -> None:
        self.own, self.first, self.second = (MemoryObjectStore() for _ in range(3))
        self.names = frozenset({table(1), table(2, 5), blob(3), table(5), blob(7), table(6, 9)})
        for place, store in (("own", self.own), ("first", self.first), ("second", self.second)):
            for name in (*self.names, table(8), table(4, 4), "manifest/" + "0" * 20):
                store.put(name, place.encode())
        self.store = BorrowingObjectStore(
            self.own, Debt("", LOANS), [self.first, self.second], lambda *_: self.names
        )


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (table(1), b"first"),
        (blob(3), b"first"),
        (table(5), b"second"),
        (blob(7), b"second"),
        (table(8), b"own"),
        (table(2, 5), b"second"),
        (table(6, 9), b"own"),
        ("manifest/" + "0" * 20, b"own"),
    ],
)
def test_the_epoch_tells_where_an_object_lies(name: str, place: bytes) -> None:
    store = Buckets().store
    assert store.get(name) == store.get_range(name, 0, len(place)) == place
    assert store.checksum(name) == Checksum.of(place)


def test_a_listing_shows_each_object_once_and_of_lenders_what_they_keep() -> None:
    buckets = Buckets()
    buckets.own.delete([*buckets.names - {table(6, 9)}, table(4, 4)])
    found = [info.name for info in buckets.store.list("tables/")]
    assert found == [table(1), table(2, 5), table(5), table(6, 9), table(8)]
    assert [info.name for info in buckets.store.list("blobs/")] == [blob(3), blob(7)]
    assert len(buckets.store.list("manifest/")) == 1


def test_where_a_lender_keeps_nothing_nothing_is_listed() -> None:
    buckets = Buckets()
    store = BorrowingObjectStore(
        MemoryObjectStore(),
        Debt("", LOANS),
        [buckets.first, buckets.second],
        lambda *_: frozenset(),
    )
    assert store.list("tables/") == []


@pytest.mark.parametrize("change", ["put", "put_if_absent", "delete"])
def test_nothing_of_a_lender_is_ever_changed(change: str) -> None:
    buckets = Buckets()
    own = {info.name for info in buckets.own.list("")}
    arguments = ([table(8), table(1)],) if change == "delete" else (table(1), b"other")
    with pytest.raises(InternalError, match="borrowed from first, and not to be changed"):
        getattr(buckets.store, change)(*arguments)
    assert buckets.first.get(table(1)) == b"first"
    assert {info.name for info in buckets.own.list("")} == own


def test_an_error_of_a_lender_names_it() -> None:
    own: ObjectStore = MemoryObjectStore()
    lent = FaultyObjectStore(MemoryObjectStore())
    store = BorrowingObjectStore(own, Debt("", Loans((FIRST,))), [lent], lambda *_: frozenset())
    with pytest.raises(NotFoundError, match=r"borrowed from first, is not there"):
        store.get(table(1))
    lent.fail("get", error=ChecksumError("wrong", name=table(1)))
    with pytest.raises(ChecksumError) as found:
        store.get(table(1))
    assert found.value.__notes__ == ["this clone borrows it from first"]


def test_a_database_that_is_no_clone_has_all_its_objects() -> None:
    assert lender_of(NO_LOANS, table(1)) is None
