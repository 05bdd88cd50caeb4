"""Two writers of one bucket: the newer wins, the older stops, nothing is mixed (I6)."""

from __future__ import annotations

import pytest

from seerdb import DB, ConflictError, FencedError, UnavailableError
from seerdb.events import Fenced
from seerdb.storage.manifest.store import manifest_numbers
from seerdb.storage.pieces import Body
from seerdb.testing.objects import MemoryObjectStore
from tests.fixtures.database import ROOMY, World, collect_garbage


def truth(world: World) -> dict[bytes, bytes]:
    """What a new machine finds in the bucket."""
    return dict(world.lose_machine().open().scan())


def two(level: str = "local") -> tuple[World, DB, DB]:
    """An older and a newer writer, with what the older had made durable before."""
    world = World(**ROOMY)
    older = world.open("older")
    older.put(b"before", b"1", durability=level)
    older.flush()
    return world, older, world.open("newer")


def test_the_older_writer_is_fenced_and_leaves_the_bucket_alone() -> None:
    world, older, newer = two()
    newer.put(b"k", b"newer")
    older.put(b"k", b"older")
    with pytest.raises(FencedError):
        older.flush()
    for _ in range(3):
        with pytest.raises(FencedError):
            older.put(b"k", b"older again")
    with pytest.raises(FencedError):
        older.flush()
    assert older.get(b"before") == b"1", "reads go on"
    assert dict(older.scan()) == {b"before": b"1", b"k": b"older"}
    assert [type(event) for event in world.events].count(Fenced) == 1
    newer.flush()
    older.close()
    newer.close()
    assert truth(world) == {b"before": b"1", b"k": b"newer"}


def test_the_fence_outlives_every_collection() -> None:
    """PB-01. A writer that slept for weeks creates the object that it was about to: where its fence
    was collected, that succeeds, and its writes are acknowledged and in nobody's database."""
    world, older, newer = two("object")
    for number in range(40):
        newer.put(b"n", b"%d" % number)
        newer.flush()
        if number % 10 == 9:
            newer._engine.manifest.checkpoint()
            collect_garbage(world, newer)
    numbers = manifest_numbers(world.bucket)
    assert numbers[:2] == [1, older._engine.manifest.state.number + 1]
    assert numbers[2] > 40, "all between the claims and the last records is gone"
    with pytest.raises(FencedError):
        older.put(b"x", b"older", durability="object")
    with pytest.raises(FencedError):
        older.flush()
    assert truth(world) == {b"before": b"1", b"n": b"39"}


def test_closing_a_fenced_writer_changes_nothing() -> None:
    world, older, newer = two()
    older.put(b"k", b"older")
    older.close()
    newer.put(b"n", b"1")
    newer.close()
    assert truth(world) == {b"before": b"1", b"n": b"1"}


def test_a_fenced_writer_is_never_told_that_its_write_is_in_the_bucket() -> None:
    """PB-03. What goes to a bucket that has another owner by now is not durable there."""
    world, older, newer = two("object")
    newer.put(b"k", b"newer", durability="object")
    for _ in range(2):
        with pytest.raises(FencedError):
            older.put(b"k", b"older", durability="object")
    assert truth(world) == {b"before": b"1", b"k": b"newer"}
    newer.close()
    assert truth(world) == {b"before": b"1", b"k": b"newer"}


def test_whoever_waits_behind_a_fenced_ship_is_refused_too() -> None:
    """Two writes share a ship; the one that did not make it must not take it for done."""
    _, older, _ = two("object")
    seq = older.put(b"a", b"1")
    for _ in range(2):
        with pytest.raises(FencedError):
            older._engine.shipper.ship(seq)


def test_a_ship_that_could_not_look_for_a_successor_is_not_done() -> None:
    world, older, _ = two("object")
    seq = older.put(b"a", b"1")
    world.store.fail("get", match="manifest/", times=5)
    with pytest.raises(UnavailableError):
        older._engine.shipper.ship(seq)
    world.clock.advance(60.0)
    with pytest.raises(FencedError):
        older._engine.shipper.ship(seq)


def test_a_writer_that_fails_over_takes_what_the_older_had_shipped() -> None:
    world = World(**ROOMY)
    older = world.open("older")
    for number in range(5):
        older.put(b"k%d" % number, b"v", durability="object")
    older.put(b"local", b"v")
    newer = world.open("newer")
    assert dict(newer.scan()) == {b"k%d" % number: b"v" for number in range(5)}
    assert newer.put(b"k0", b"new") == 6
    newer.close()
    assert truth(world)[b"k0"] == b"new"


def test_what_a_fenced_writer_shipped_too_late_does_not_come_back() -> None:
    """Its PUT came after the newer writer had listed, and went further than that one's tables:
    a third machine took the rest of it for the continuation of these."""
    world, older, newer = two("object")
    newer.put(b"k", b"newer")
    older.put(b"x", b"older")
    with pytest.raises(FencedError):
        older.put(b"k", b"older", durability="object")
    newer.flush()
    assert truth(world) == {b"before": b"1", b"k": b"newer"}
    newer.put(b"n", b"1", durability="object")
    assert truth(world) == {b"before": b"1", b"k": b"newer", b"n": b"1"}


def test_the_log_of_an_overtaken_directory_is_not_mixed_in_however_often_it_is_tried() -> None:
    world, older, newer = two()
    for number in range(20):
        older.put(b"k", b"older %d" % number)
    newer.put(b"k", b"newer")
    newer.close()
    older.close()
    expected = {b"before": b"1", b"k": b"newer"}
    for _ in range(3):
        with pytest.raises(ConflictError, match="20 are lost: seq 2 to 21 of epoch 1"):
            world.open("older")
        assert dict(world.open("third").scan()) == expected
        world = world.kill()
    db = world.open("older", recovery="salvage")
    assert dict(db.scan()) == expected
    assert db.put(b"k", b"back") > 2
    assert db.statistics().recovery.quarantined == ["older/quarantine/00000000000000000002.wal"]
    db.close()
    assert dict(world.open("older").scan()) == expected | {b"k": b"back"}


def test_an_overtaken_directory_without_open_writes_comes_back_by_itself() -> None:
    world, older, newer = two()
    with pytest.raises(FencedError):
        older.put(b"x", b"", durability="object")
    newer.put(b"k", b"newer")
    newer.close()
    second = World(bucket=world.bucket, clock=world.clock)
    first = second.open("a")
    first.close()
    third = second.open("b")
    third.put(b"k", b"b")
    third.close()
    assert second.open("a").get(b"k") == b"b"


class BeatenOpener(MemoryObjectStore):
    """Lets another writer in just before a claim."""

    intruder: World | None = None

    def put_if_absent(self, name: str, data: Body) -> None:
        if self.intruder is not None and name.startswith("manifest/"):
            intruder, self.intruder = self.intruder, None
            db = intruder.open("intruder")
            db.put(b"k", b"intruder", durability="object")
            db.close()
        super().put_if_absent(name, data)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_writer_beaten_at_its_claim_does_not_mix_two_logs(is_new: bool) -> None:
    """PB-17. The fence came between the look at the log and its replay."""
    world = World(bucket=BeatenOpener())
    assert isinstance(world.bucket, BeatenOpener)
    if not is_new:
        db = world.open("slow")
        for number in range(5):
            db.put(b"k", b"slow %d" % number)
        world.files = world.files.kill()
    world.bucket.intruder = World(seed=9, bucket=world.bucket, clock=world.clock)
    with pytest.raises(ConflictError):
        world.open("slow")
    if is_new:
        assert dict(world.kill().open("slow").scan()) == {b"k": b"intruder"}
    else:
        with pytest.raises(ConflictError, match="taken this database over"):
            world.open("slow")
    assert truth(World(bucket=copied(world.bucket))) == {b"k": b"intruder"}


def copied(bucket: MemoryObjectStore) -> MemoryObjectStore:
    twin = MemoryObjectStore()
    twin._objects = dict(bucket._objects)
    return twin


def test_two_processes_cannot_share_a_data_directory() -> None:
    world = World()
    world.open()
    with pytest.raises(ConflictError, match="locked"):
        world.open()
