"""What a shipper does when the local log cannot be read, or the bucket has other bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from seerdb.errors import ConflictError, DiskError, UnavailableError
from seerdb.storage.object_store.names import WAL_PREFIX, wal_name
from seerdb.storage.shipping.shipper import Shipper
from tests.fixtures.database import ROOMY, World

ATTEMPTS = 5
"""Of one request."""

SHIPS_ALL = ROOMY | {"ship_interval": 3600.0}


@contextmanager
def unreadable(meanwhile: Callable[[], object]) -> Iterator[None]:
    """Reading the log fails, once; ``meanwhile`` has happened by then."""
    was_read = False

    def read(*_: object) -> None:
        nonlocal was_read
        assert not was_read, "once is enough"
        was_read = True
        meanwhile()
        raise DiskError("cannot open the segment")

    with patch.object(Shipper, "_read", read):
        yield


def test_a_segment_that_is_flushed_and_let_go_of_while_it_is_read_is_not_missed() -> None:
    db = World(**ROOMY).open()
    seq = db.put(b"a", b"1")
    with unreadable(db.flush):
        db._engine.shipper.ship(seq)
    assert db.statistics().flushed_seq == seq


def test_a_segment_that_no_table_holds_is_missed() -> None:
    db = World(**ROOMY).open()
    seq = db.put(b"a", b"1")
    with unreadable(lambda: None), pytest.raises(DiskError, match="the segment"):
        db._engine.shipper.ship(seq)
    db._engine.shipper.ship(seq)
    assert db.statistics().shipping.shipped_seq == seq


def test_where_everything_is_shipped_a_segment_is_missed_though_tables_hold_it() -> None:
    world = World(**SHIPS_ALL)
    db = world.open()
    seq = db.put(b"a", b"1")
    with unreadable(lambda: None):
        db.flush()
    with unreadable(lambda: None), pytest.raises(DiskError, match="the segment"):
        db._engine.shipper.finish()
    db._engine.shipper.finish()
    assert [info.name for info in world.bucket.list(WAL_PREFIX)] == [wal_name(1, seq, seq)]  # type: ignore[arg-type]


def test_an_attempt_at_what_tables_hold_by_now_is_not_made_again() -> None:
    world = World(**ROOMY)
    db = world.open()
    world.store.fail("put_if_absent", match=WAL_PREFIX, times=ATTEMPTS)
    with pytest.raises(UnavailableError):
        db.put(b"a", b"1", durability="object")
    world.clock.advance(60.0)  # the store is asked again
    db.flush()
    seq = db.put(b"b", b"2", durability="object")
    assert [info.name for info in world.bucket.list(WAL_PREFIX)] == [wal_name(1, seq, seq)]  # type: ignore[arg-type]


def test_after_a_conflict_nothing_is_put_though_the_other_object_is_gone() -> None:
    world = World(**ROOMY)
    db = world.open()
    theirs = wal_name(db._engine.manifest.epoch, 1, 1)  # type: ignore[arg-type]
    world.bucket.put(theirs, b"another story")
    with pytest.raises(ConflictError, match="another process writes"):
        db.put(b"a", b"1", durability="object")
    world.bucket.delete([theirs])
    with pytest.raises(ConflictError, match="another process writes"):
        db.put(b"b", b"2", durability="object")
    assert world.bucket.list(WAL_PREFIX) == []
