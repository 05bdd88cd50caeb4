"""A replica that has not what its primary flushed says so, and shows nothing more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seerdb import DB, CorruptionError, Replica
from seerdb.storage.memtable import Memtable
from seerdb.storage.replication.contents import Contents
from tests.fixtures.database import ROOMY, World, fill
from tests.fixtures.follower import contents, follow, stream

Patch = pytest.MonkeyPatch


def pair() -> tuple[World, DB, Replica]:
    world = World(**ROOMY | {"ship_interval": 1.0, "merge_operator": "append"})
    db = world.open()
    return world, db, follow(world)


def write(db: DB, start: int = 0) -> None:
    fill(db, 20, start=start)
    db.delete(b"k0003")
    db.put(b"k0004", b"again")
    db.put(b"expires", b"some day", ttl=1000)
    db.delete_range(b"k0007", b"k0009")
    with db.batch() as batch:
        batch.put(b"k0008", b"after the range")
        batch.delete(b"k0001")


def ship(db: DB) -> None:
    """Put the log into the bucket, and flush nothing."""
    db.put(b"shipped", b"1", durability="object")


def test_what_a_replica_took_is_held_against_what_the_primary_flushed() -> None:
    _, db, replica = pair()
    for start in (0, 100):
        write(db, start)
        ship(db)
        replica.refresh()
        seq = db.visible_seq
        assert (replica.seq, replica.statistics().compared_seq < seq) == (seq, True)
        db.flush()
        replica.refresh()
        assert replica.statistics().compared_seq == seq
        assert replica.digest() == db.digest()


def skip_record(monkeypatch: Patch) -> None:
    apply = Contents._apply
    monkeypatch.setattr(
        Contents, "_apply", lambda self, records: apply(self, records[:5] + records[6:])
    )


def change_value(monkeypatch: Patch) -> None:
    put = Memtable.put

    def changed(self: Memtable, seq: int, key: bytes, value: bytes | None, size: int) -> None:
        put(self, seq, key, b"w" * 200 if key == b"k0005" else value, size)

    monkeypatch.setattr(Memtable, "put", changed)


@pytest.mark.parametrize("fault", [skip_record, change_value])
@pytest.mark.parametrize("way", ["bucket", "live"])
def test_a_replica_that_differs_names_the_commits_and_stops(
    way: str, fault: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    world, db, replica = pair()
    write(db)
    ship(db)
    with monkeypatch.context() as broken:
        fault(broken)
        if way == "live":
            stream(db, replica)
        else:
            replica.refresh()
    last = db.visible_seq
    assert replica.seq == last
    db.flush()
    with pytest.raises(CorruptionError, match=f"seq 1 to {last} .*differs from its primary"):
        replica.refresh()
    write(db, 100)
    ship(db)
    with pytest.raises(CorruptionError, match="differs from its primary"):
        replica.refresh()
    assert replica.seq == last
    assert not {check.name: check.ok for check in replica.health()}["follow"]
    again = follow(world)
    again.refresh()
    assert contents(again) == {entry.key: (entry.value, entry.seq) for entry in db.scan_entries()}


def test_operands_and_tables_that_were_merged_before_are_not_compared() -> None:
    _, db, replica = pair()
    write(db)
    db.merge(b"k0002", b"more")
    ship(db)
    replica.refresh()
    db.flush()
    replica.refresh()
    assert replica.statistics().compared_seq == 0
    write(db, 100)
    ship(db)
    replica.refresh()
    db.flush()
    db.compact()
    replica.refresh()
    assert replica.statistics().compared_seq == 0
    assert replica.digest() == db.digest()
