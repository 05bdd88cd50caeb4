"""A replica that has not what its primary flushed says so, and shows nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest

from seerdb import DB, CorruptionError, Replica, UnavailableError
from seerdb.events import WorkFailed
from seerdb.storage.memtable import Memtable
from seerdb.storage.replication.contents import Contents
from seerdb.storage.replication.format import Message, MessageReader
from seerdb.storage.replication.live import LiveTail
from seerdb.storage.replication.tail import RELOAD_SECONDS
from seerdb.storage.value import Value
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import encode_put
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


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("slept", [False, True])
def test_what_a_restore_in_place_made_is_not_taken_for_a_flush(live: bool, slept: bool) -> None:
    world = World(**ROOMY | {"history_retention": 3600.0})
    db, replica = world.open(), follow(world)
    for number in range(3):
        db.put(b"%d" % number, b"v", durability="object")
    if live:
        stream(db, replica)
    replica.refresh()
    db.restore_in_place(2)
    if slept:
        world.clock.advance(RELOAD_SECONDS)
    replica.refresh()
    assert dict(replica.scan()) == dict(db.scan()) == {b"0": b"v", b"1": b"v"}
    for number in range(5, 8):
        db.put(b"%d" % number, b"v", durability="object")
        replica.refresh()
    db.flush()
    replica.refresh()
    assert replica.statistics().compared_seq == db.visible_seq


def test_what_is_left_of_a_flush_is_not_taken_for_one() -> None:
    """Of three commits in one table the replica had taken two, and a range was cut out that left
    one of them where it was."""
    _, db, replica = pair()
    write(db)
    db.flush()
    replica.refresh()
    db.put(b"a", b"1")
    db.put(b"k0002", b"2", durability="object")
    replica.refresh()
    assert replica.seq == db.visible_seq
    db.put(b"k0005", b"3")
    db.flush()
    db.compact(b"k", b"l")
    replica.refresh()
    tables = replica._follower.tail.manifest.state.version.tables
    assert (0, db.visible_seq - 2) in {(table.level, table.max_seq) for table in tables}
    assert contents(replica) == {entry.key: (entry.value, entry.seq) for entry in db.scan_entries()}


def test_a_flush_is_compared_though_it_was_merged_before_it_was_seen() -> None:
    _, db, replica = pair()
    write(db)
    ship(db)
    replica.refresh()
    db.flush()
    db.compact()
    replica.refresh()
    assert replica.statistics().compared_seq == db.visible_seq
    assert replica.digest() == db.digest()


def test_operands_are_not_compared() -> None:
    _, db, replica = pair()
    write(db)
    db.merge(b"k0002", b"more")
    ship(db)
    replica.refresh()
    db.flush()
    replica.refresh()
    assert replica.statistics().compared_seq == 0
    assert replica.digest() == db.digest()


# At each mark of the live log.


def drop_one_of_a_group(monkeypatch: Patch) -> None:
    add = Memtable.add

    def short(
        self: Memtable, keys: Sequence[bytes], seqs: Iterable[int], values: Sequence[Value]
    ) -> None:
        add(self, keys[:-1], list(seqs)[:-1], values[:-1])

    monkeypatch.setattr(Memtable, "add", short)


def flip_a_bit(monkeypatch: Patch) -> None:
    put = Memtable.put

    def flipped(self: Memtable, seq: int, key: bytes, value: bytes | None, size: int) -> None:
        put(self, seq, key, b"w" + b"v" * 199 if key == b"k0105" else value, size)

    monkeypatch.setattr(Memtable, "put", flipped)


def apply_one_twice(monkeypatch: Patch) -> None:
    apply = Contents._apply
    monkeypatch.setattr(
        Contents, "_apply", lambda self, records: apply(self, records[:5] + records[4:])
    )


def drop_the_last(monkeypatch: Patch) -> None:
    apply = Contents._apply
    monkeypatch.setattr(Contents, "_apply", lambda self, records: apply(self, records[:-1]))


def take_one_of_another_epoch(monkeypatch: Patch) -> None:
    """One that was logged under the same seq by somebody else."""
    other = encode_put(b"k0104", b"of a writer that was taken over")
    apply = Contents._apply

    def mixed(self: Contents, records: list[Record]) -> None:
        apply(self, [*records[:4], (*records[4][:2], other), *records[5:]])

    monkeypatch.setattr(Contents, "_apply", mixed)


@pytest.mark.parametrize(
    "fault",
    [
        skip_record,
        drop_one_of_a_group,
        flip_a_bit,
        apply_one_twice,
        drop_the_last,
        take_one_of_another_epoch,
    ],
)
def test_the_next_mark_names_the_commits_since_the_one_that_agreed(
    fault: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    world, db, replica = pair()
    write(db)
    db.merge(b"k0002", b"more")
    stream(db, replica)
    agreed = db.visible_seq
    assert replica.statistics().compared_seq == agreed
    write(db, 100)
    with monkeypatch.context() as broken:
        fault(broken)
        stream(db, replica)
    last = db.visible_seq
    names = f"seq {agreed + 1} to {last} .*segment . of the log of epoch 1.*differs"
    with pytest.raises(CorruptionError, match=names):
        replica.refresh()
    seq = replica.seq
    assert last - 1 <= seq <= last
    write(db, 200)
    ship(db)
    stream(db, replica)
    with pytest.raises(CorruptionError, match=names):
        replica.refresh()
    db.flush()
    with pytest.raises(CorruptionError, match=names):
        replica.refresh()
    assert (replica.seq, replica.statistics().compared_seq) == (seq, agreed)
    assert not {check.name: check.ok for check in replica.health()}["follow"]
    assert any(isinstance(event, WorkFailed) and "differs" in event.error for event in world.events)
    again = follow(world)
    again.refresh()
    assert contents(again) == {entry.key: (entry.value, entry.seq) for entry in db.scan_entries()}


def test_what_came_through_the_bucket_is_compared_once_the_log_comes_live(
    monkeypatch: Patch,
) -> None:
    _, db, replica = pair()
    write(db)
    ship(db)
    with monkeypatch.context() as broken:
        skip_record(broken)
        replica.refresh()
    assert replica.seq == db.visible_seq
    db.put(b"more", b"1")
    stream(db, replica)
    with pytest.raises(CorruptionError, match=f"seq 1 to {db.visible_seq - 1} "):
        replica.refresh()


def agrees(db: DB, replica: Replica) -> bool:
    """After one more commit, which is compared with all of its segment before it."""
    db.put(b"last", b"1")
    stream(db, replica)
    return replica.seq == replica.statistics().compared_seq == db.visible_seq


def test_both_agree_over_new_connections_and_what_the_bucket_brings_between() -> None:
    _, db, replica = pair()
    for start in range(0, 300, 100):
        write(db, start)
        assert agrees(db, replica)
        write(db, start + 50)
        ship(db)
        replica.refresh()
        assert agrees(db, replica)


def test_both_agree_after_a_gap_that_tables_close() -> None:
    _, db, replica = pair()
    assert agrees(db, replica)
    write(db)
    db.flush()
    assert agrees(db, replica)


def test_both_agree_again_after_bulk_data_of_which_there_is_no_log() -> None:
    _, db, replica = pair()
    assert agrees(db, replica)
    db.ingest([(b"bulk", b"1")])
    agrees(db, replica)
    assert agrees(db, replica)


def test_both_agree_over_memtables_that_are_flushed_while_the_log_comes() -> None:
    _, db, replica = pair()
    for start in range(0, 300, 100):
        write(db, start)
        stream(db, replica)
        db.flush()
        replica.refresh()
        assert agrees(db, replica)


def test_both_agree_with_segments_of_the_epoch_before() -> None:
    world = World(**ROOMY | {"takes_tables": False, "merge_operator": "append"})
    db = world.open()
    write(db)
    again = world.kill()
    replica = follow(again)
    heir = again.open()
    assert agrees(heir, replica)


@pytest.mark.parametrize("was_live", [True, False])
def test_both_agree_after_a_failover(was_live: bool) -> None:
    world, db, replica = pair()
    write(db)
    ship(db)
    if was_live:
        assert agrees(db, replica)
        write(db, 100)  # lost with its machine
        stream(db, replica)
    else:
        replica.refresh()
    heir = world.open("heir")
    replica.refresh()
    write(heir, 200)
    agrees(heir, replica)
    assert agrees(heir, replica)
    assert contents(replica) == {e.key: (e.value, e.seq) for e in heir.scan_entries()}
    stream(db, replica)
    assert agrees(heir, replica), "marks of the former writer do not count"


def test_a_mark_of_a_writer_that_was_taken_over_meanwhile_does_not_count() -> None:
    """What it has streamed last is void, and not there any more when its mark comes."""
    world, db, replica = pair()
    write(db)
    ship(db)
    cursor, reader = db.follow(1), MessageReader()

    def messages() -> Iterator[Message]:
        yield from reader.feed(cursor.greeting())
        write(db, 100)
        while sent := cursor.read():
            yield from reader.feed(sent)
        before = replica.seq
        world.open("heir")
        replica.refresh()
        assert replica.seq < before
        yield from reader.feed(cursor.heartbeat())

    with pytest.raises(UnavailableError, match="ended the stream"):
        LiveTail("http://primary", replica._follower)._take(messages(), 1)
    replica.refresh()


def test_writer_and_replica_show_the_same_digest_of_the_log_while_one_follows() -> None:
    _, db, replica = pair()
    write(db)
    stream(db, replica)
    told = replica.stats()["log_digest"]
    assert (told["epoch"], told["seq"], len(told["digest"])) == (1, db.visible_seq, 32)
    assert db.stats()["log_digest"] is None, "nobody follows"
    cursor = db.follow(1)
    while cursor.read():
        cursor.heartbeat()
    assert db.stats()["log_digest"] == told
    write(db, 100)
    ship(db)
    replica.refresh()
    while cursor.read():
        cursor.heartbeat()
    assert db.stats()["log_digest"] == replica.stats()["log_digest"] != told
    cursor.close()
    assert db.stats()["log_digest"] is None
