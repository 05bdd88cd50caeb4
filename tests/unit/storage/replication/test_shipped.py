"""Which objects of the shipped log count, and which of them are read."""

from __future__ import annotations

import pytest

from seerdb import CorruptionError
from seerdb.ids import MAX_SEQ
from seerdb.storage.replication.shipped import Listing, ShippedLog, Stretch
from tests.fixtures.database import ROOMY, World


def listing(epoch: int, *stretches: tuple[int, int, int]) -> Listing:
    return Listing(epoch, [Stretch(*each) for each in stretches])


def test_the_stretch_that_reaches_farthest_is_read() -> None:
    found = listing(2, (1, 1, 5), (2, 3, 9), (2, 10, 12))
    assert found.holding(1) == (Stretch(1, 1, 5), 5)
    assert found.holding(4) == (Stretch(2, 3, 9), 9)
    assert found.holding(13) is None
    assert found.newest == 12


def test_a_branch_voids_what_lower_epochs_have_from_there_on() -> None:
    found = listing(2, (1, 1, 9), (2, 6, 5), (2, 6, 7))
    assert found.void_from(1) == 6
    assert found.void_from(2) == MAX_SEQ
    assert found.holding(5) == (Stretch(1, 1, 9), 5)
    assert found.holding(6) == (Stretch(2, 6, 7), 7)
    assert found.holding(8) is None
    assert found.newest == 7


def test_a_stretch_that_begins_in_the_void_does_not_count() -> None:
    found = listing(2, (1, 1, 5), (1, 6, 9), (2, 6, 5))
    assert found.holding(6) is None
    assert found.after(5) is None


def test_what_comes_after_a_gap_is_named() -> None:
    found = listing(1, (1, 1, 5), (1, 8, 9))
    assert found.holding(6) is None
    assert found.after(5) == 8


def test_earlier_epochs_wait_until_the_new_one_has_said_where_it_goes_on() -> None:
    assert listing(2, (1, 1, 5)).holding(1) is None
    assert listing(2, (1, 1, 5)).newest == 0
    assert not listing(2, (1, 1, 5)).tells_where
    assert listing(2, (1, 1, 5), (2, 6, 5)).holding(1) == (Stretch(1, 1, 5), 5)


def shipped(world: World) -> tuple[ShippedLog, Listing]:
    db = world.open()
    for number in range(3):
        db.put(b"%d" % number, b"v", durability="object")
    log = ShippedLog(world.store, db.stats()["database_id"])
    return log, log.list(1)


def test_records_are_read_from_the_seq_on() -> None:
    log, found = shipped(World(**ROOMY))
    piece = log.read(found, 2)
    assert piece is not None
    assert (piece.epoch, piece.header.segment) == (1, 1)
    assert [seq for seq, _, _ in piece.records] == [2]
    assert log.read(found, 4) is None


def test_only_the_epoch_that_is_asked_for_is_listed() -> None:
    world = World(**ROOMY)
    log, _ = shipped(world)
    world.open("other").put(b"k", b"v", durability="object")
    assert {each[0].epoch for seq in (1, 4) if (each := log.list_all(2).holding(seq))} == {1, 2}
    assert log.list(2).holding(1) is None


@pytest.mark.parametrize("kind", ["flipped", "cut", "another name"])
def test_an_object_that_is_not_what_its_name_says_is_damage(kind: str) -> None:
    world = World(**ROOMY)
    log, found = shipped(world)
    [name] = [info.name for info in world.bucket.list("wal/") if info.name.endswith("2.wal")]
    data = world.bucket.get(name)
    if kind == "flipped":
        world.store.corrupt("get", match=name)
        world.bucket.put(name, data[:4110] + bytes([data[4110] ^ 1]) + data[4111:])
    elif kind == "cut":
        world.bucket.put(name, data[:-5])
    else:
        world.bucket.put(name, world.bucket.get(name.replace("2-", "1-").replace("2.wal", "1.wal")))
    with pytest.raises(CorruptionError):
        log.read(found, 2)


def test_the_log_of_another_database_is_refused() -> None:
    world = World(**ROOMY)
    _, found = shipped(world)
    with pytest.raises(CorruptionError, match="another database"):
        ShippedLog(world.store, "00" * 16).read(found, 1)
