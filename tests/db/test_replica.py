"""Replicas: what they show of a database that somebody else writes, through its bucket and live."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from seerdb import (
    DB,
    ClosedError,
    CorruptionError,
    InvalidRequestError,
    LockedError,
    NotFoundError,
    ReadOnlyError,
    Replica,
    UnavailableError,
)
from seerdb.events import WorkFailed
from seerdb.storage import operators
from seerdb.storage.manifest.store import manifest_numbers
from seerdb.storage.object_store.base import ObjectInfo
from seerdb.storage.replication.format import (
    Message,
    MessageReader,
    MessageType,
    decode_hello,
)
from seerdb.storage.replication.live import LiveTail
from seerdb.storage.replication.tail import RELOAD_SECONDS
from seerdb.testing.clock import FakeClock
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import MemoryObjectStore
from tests.fixtures.database import ROOMY, World, collect_garbage, fill
from tests.fixtures.follower import checks, contents, follow, pair, put, shown, stream


def _messages(sent: bytes) -> list[Message]:
    return list(MessageReader().feed(sent))


# Reads.


def test_every_read_is_there() -> None:
    _, db, replica = pair()
    put(db, b"a", b"b", b"c")
    replica.refresh()
    assert replica.get(b"b") == b"1"
    assert replica.get_entry(b"b") == db.get_entry(b"b")
    assert replica.multi_get([b"c", b"x"]) == [b"1", None]
    assert list(replica.scan(b"b", reverse=True)) == [(b"c", b"1"), (b"b", b"1")]
    assert list(replica.scan(prefix=b"a", keys_only=True)) == [b"a"]
    with replica.snapshot() as snapshot:
        put(db, b"a", value=b"2")
        replica.refresh()
        assert (snapshot.seq, snapshot.get(b"a"), replica.get(b"a")) == (3, b"1", b"2")
    assert replica.seq == replica.visible_seq == 4


def test_it_starts_from_the_tables_and_reads_them_where_they_are() -> None:
    world, db, _ = pair()
    rows = fill(db, 50)
    db.flush()
    objects = world.bucket.list("")
    replica = follow(world, "another")
    assert shown(replica) == rows
    replica.refresh()
    replica.close()
    assert world.bucket.list("") == objects, "it writes nothing to the bucket"


def test_flushes_and_merges_replace_what_it_had_from_the_log() -> None:
    _, db, replica = pair()
    for round_ in range(4):
        put(db, b"a", b"%d" % round_, value=b"%d" % round_)
        replica.refresh()
        db.flush()
        replica.refresh()
        assert replica.statistics().memtables == 1
        assert len(replica._follower.live.current.active.newest) == 0
    before = contents(replica)
    db.compact()
    replica.refresh()
    assert replica.statistics().tables == 1
    assert (
        contents(replica)
        == before
        == {entry.key: (entry.value, entry.seq) for entry in db.scan_entries()}
    )


def test_what_expires_is_gone_and_operands_are_folded_once() -> None:
    world, db, replica = pair(merge_operator="append")
    db.put(b"t", b"1", ttl=30.0)
    for number in range(6):
        db.merge(b"m", b"%d" % number, durability="object")
        replica.refresh()
        assert replica.get(b"m") == db.get(b"m")
        if number % 2:
            db.flush()
            replica.refresh()
            assert replica.get(b"m") == db.get(b"m")
    world.clock.advance(31.0)
    assert replica.get(b"t") is None
    assert dict(replica.scan()) == {b"m": b"012345"}


@pytest.mark.parametrize("is_live", [False, True])
def test_a_database_that_merges_since_its_last_opening_is_followed(
    is_live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not any more, until the replica was opened again."""
    world, db, replica = pair()
    put(db, b"m")
    replica.refresh()
    db.close()
    db = world.open(merge_operator="append")
    db.merge(b"m", b"2", durability="object")
    with monkeypatch.context() as patch:
        patch.setattr(operators, "_registered", {})
        with pytest.raises(InvalidRequestError, match="no merge operator 'append'"):
            replica.refresh()
        assert replica.get(b"m") == b"1"
    replica.refresh()
    if is_live:
        db.merge(b"m", b"3")
        stream(db, replica)
    assert replica.get(b"m") == db.get(b"m") == (b"123" if is_live else b"12")
    db.flush()
    replica.refresh()
    assert contents(replica) == {b"m": (db.get(b"m"), db.visible_seq)}


@pytest.mark.parametrize("opened", ["before the flush", "after it"])
def test_what_has_expired_stays_gone_where_the_clock_is_behind_the_tables(opened: str) -> None:
    world, db, _ = pair()
    fill(db, 20)
    db.put(b"t", b"1", ttl=30.0)
    db.flush()
    late = World(bucket=world.bucket, clock=FakeClock(world.clock.now() - 600.0), **ROOMY)
    replica = follow(late) if opened == "before the flush" else None
    world.clock.advance(60.0)
    db.put(b"z", b"1")
    db.flush()
    replica = replica or follow(late)
    replica.refresh()
    assert replica.get(b"z") == b"1"
    assert replica.get(b"t") == db.get(b"t") is None


def test_bulk_data_that_no_log_tells_of_comes_with_the_manifest() -> None:
    _, db, replica = pair()
    put(db, b"a")
    replica.refresh()
    db.ingest([(b"i%d" % number, b"v") for number in range(5)])
    put(db, b"z")
    replica.refresh()
    assert replica.seq == db.visible_seq
    assert shown(replica) == dict(db.scan())


def test_bulk_data_in_the_middle_of_a_live_stream() -> None:
    _, db, replica = pair()
    put(db, b"a")
    stream(db, replica)
    db.ingest([(b"i", b"v")])
    put(db, b"z")
    stream(db, replica)
    assert shown(replica) == dict(db.scan())
    assert replica.seq == db.visible_seq


# Refusals.


def test_writes_are_refused_with_the_address_of_the_primary() -> None:
    _, _, replica = pair()
    for name in ("submit", "flush", "compact", "follow", "restore_in_place", "start_backup"):
        with pytest.raises(ReadOnlyError) as caught:
            getattr(replica, name)()
        assert caught.value.primary is None
    assert not hasattr(replica, "put")


def test_the_address_of_a_primary_is_told_without_a_password() -> None:
    """The refusal of a write had it, which anybody gets who reaches a replica."""
    world = World(**ROOMY)
    world.open()
    with follow(world, primary="http://me:hunter2@127.0.0.1:1") as replica:
        with pytest.raises(ReadOnlyError, match="go to http://127") as raised:
            replica.flush()
        assert raised.value.primary == replica.primary == "http://127.0.0.1:1"
        assert "hunter2" not in str((replica.stats(), replica.health()))


def test_what_it_needs_is_checked_at_once() -> None:
    world = World(**ROOMY)
    with pytest.raises(NotFoundError, match="no manifest"):
        follow(world)
    world.open()
    with pytest.raises(InvalidRequestError, match="store"):
        Replica.open("replica")
    for primary in ("example.org", "http://example.org:65536", "http://:8000", "", 7):
        with pytest.raises(InvalidRequestError, match="primary must be an http or https URL"):
            Replica.open("replica", primary=primary, store="bucket")  # type: ignore[arg-type]
    for seconds in (0.0, -1, math.inf, math.nan, True, "1"):
        with pytest.raises(InvalidRequestError, match="max_lag must be seconds above 0"):
            Replica.open("replica", max_lag=seconds, store="bucket")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="path"):
        Replica.open("", store="bucket")


def test_a_directory_is_for_one(tmp_path: object) -> None:
    path, store = f"{tmp_path}/replica", f"{tmp_path}/bucket"
    DB.open(f"{tmp_path}/db", store=store, min_free_disk=0).close()
    with Replica.open(path, store=store), pytest.raises(LockedError):
        Replica.open(path, store=store)
    Replica.open(path, store=store).close()


def test_closed_is_closed() -> None:
    _, _, replica = pair()
    replica.close()
    replica.close()
    for read in (lambda: replica.get(b"a"), replica.scan, replica.snapshot, replica.refresh):
        with pytest.raises(ClosedError):
            read()


# The bucket is away, late or damaged.


def test_an_outage_leaves_it_reading_what_it_has() -> None:
    world, db, replica = pair()
    put(db, b"a")
    replica.refresh()
    world.store.outage = True
    with pytest.raises(UnavailableError):
        replica.refresh()
    assert replica.get(b"a") == b"1"
    assert not checks(replica)["follow"]
    world.clock.advance(100.0)
    assert not checks(replica)["lag"]
    assert replica.lag.seconds is not None
    assert replica.lag.seconds >= 100.0
    world.store.outage = False
    put(db, b"b")
    replica.refresh()
    assert shown(replica) == {b"a": b"1", b"b": b"1"}
    assert all(checks(replica).values())


def test_a_gap_is_named_and_what_is_before_it_is_served_until_it_closes() -> None:
    world, db, replica = pair()
    put(db, b"a", b"b", b"c")
    missing = next(info.name for info in world.bucket.list("wal/") if "2.wal" in info.name)
    data = world.bucket.get(missing)
    world.bucket.delete([missing])
    for _ in range(2):
        replica.refresh()
    assert shown(replica) == {b"a": b"1"}
    [check] = [check for check in replica.health() if check.name == "log"]
    assert (check.ok, "expected 'seq 2', found 'seq 3'" in check.detail) == (False, True)
    assert replica.lag.seq == 2
    [told] = [event for event in world.events if isinstance(event, WorkFailed)]
    assert "gap" in told.error
    world.bucket.put(missing, data)
    replica.refresh()
    assert replica.seq == 3
    assert all(checks(replica).values())


def test_a_gap_ends_when_tables_have_what_is_missing() -> None:
    world, db, replica = pair()
    put(db, b"a", b"b", b"c")
    world.bucket.delete([i.name for i in world.bucket.list("wal/") if "2.wal" in i.name])
    replica.refresh()
    assert replica.seq == 1
    db.flush()
    replica.refresh()
    assert shown(replica) == dict(db.scan())
    assert all(checks(replica).values())


class StaleStore(MemoryObjectStore):
    """Lists what there was some listings ago."""

    def __init__(self) -> None:
        super().__init__()
        self.behind = 0
        self._listed: list[dict[str, ObjectInfo]] = []

    def list(self, prefix: str) -> list[ObjectInfo]:
        self._listed.append({info.name: info for info in super().list("")})
        then = self._listed[max(0, len(self._listed) - 1 - self.behind)]
        return [info for name, info in then.items() if name.startswith(prefix)]


def test_a_stale_listing_delays_and_never_misleads() -> None:
    bucket = StaleStore()
    world = World(bucket=bucket, **ROOMY)
    db = world.open()
    replica = follow(world)
    bucket.behind = 3
    reached = []
    for number in range(20):
        put(db, b"%02d" % number)
        if number % 7 == 6:
            db.flush()
        replica.refresh()
        assert shown(replica) == {b"%02d" % n: b"1" for n in range(replica.seq)}
        reached.append(replica.seq)
    assert all(before <= after for before, after in pairwise(reached))
    bucket.behind = 0
    replica.refresh()
    assert replica.seq == 20


def test_a_damaged_object_is_an_error_that_names_it_until_it_is_whole_again() -> None:
    world, db, replica = pair()
    put(db, b"a", b"b")
    [name] = [info.name for info in world.bucket.list("wal/") if info.name.endswith("2.wal")]
    data = world.bucket.get(name)
    world.bucket.put(name, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptionError, match=r"2\.wal"):
        replica.refresh()
    assert not checks(replica)["follow"]
    world.bucket.put(name, data)
    replica.refresh()
    assert shown(replica) == {b"a": b"1", b"b": b"1"}


def test_after_a_long_sleep_collected_tables_are_replaced_by_reading_the_manifest_anew() -> None:
    """PB-12."""
    world, db, replica = pair()
    rows = fill(db, 20)
    db.flush()
    replica.refresh()
    for round_ in range(40):  # several checkpoints: what the replica would read on is gone
        rows |= fill(db, 1, start=round_)
        db.flush()
        db.compact()
    collect_garbage(world, db)
    collect_garbage(world, db)
    with pytest.raises(UnavailableError, match="try again"):
        list(replica.scan())
    replica.refresh()
    assert shown(replica) == rows


def test_a_long_sleep_that_nobody_notices_ends_with_the_next_listing_of_the_manifest() -> None:
    world, db, replica = pair()
    for _ in range(3):
        fill(db, 1)
        db.flush()
        db._engine.manifest.checkpoint()
    collect_garbage(world, db)
    assert replica._follower.tail.manifest.state.number + 1 not in manifest_numbers(world.bucket)
    world.clock.advance(RELOAD_SECONDS)
    replica.refresh()
    assert shown(replica) == dict(db.scan())


def test_a_directory_from_which_another_database_was_followed_shows_nothing_of_it() -> None:
    files = CrashableFileSystem()
    for seed, value in enumerate((b"one", b"two")):
        world = World(seed=seed, **ROOMY | {"disk_cache_capacity": 1 << 20})
        db = world.open()
        put(db, b"k", value=value)
        db.flush()
        for _ in range(2):
            replica = follow(world, files=files)
            assert replica.get(b"k") == value
            replica.close()
        disk = replica.statistics().disk_cache
        assert disk is not None
        assert disk.hits, "what it has of this one is used"


# Live.


def test_what_the_primary_has_no_log_of_any_more_comes_from_its_tables() -> None:
    _, db, replica = pair()
    fill(db, 10)
    db.flush()
    fill(db, 5)
    stream(db, replica)
    assert shown(replica) == dict(db.scan())


def test_a_live_gap_that_the_manifest_does_not_explain_ends_the_stream() -> None:
    """PB-06."""
    _, db, replica = pair()
    fill(db, 10)
    cursor = db.follow(1)
    greeting, header = map(_messages, (cursor.greeting(), cursor.read()))
    fill(db, 1)
    late = db.follow(11)
    late.read()
    later = _messages(late.read())
    tail = LiveTail("http://primary", replica._follower)
    with pytest.raises(CorruptionError, match="gap"):
        tail._take(iter([*greeting, *header, *later[-1:]]), 1)
    assert replica.seq == 0


def test_a_gap_in_the_bucket_is_none_while_the_primary_sends_the_log() -> None:
    world, db, replica = pair()
    put(db, b"a", b"b", b"c")
    [_, lost, _] = world.bucket.list("wal/")
    world.bucket.delete([lost.name])
    replica.refresh()
    assert (replica.seq, checks(replica)["log"]) == (1, False)
    assert replica._follower.tail.begin_live(1, 2)
    replica.refresh()
    assert checks(replica)["log"]
    replica._follower.lost(UnavailableError("it is away"))
    replica.refresh()
    assert (replica.seq, checks(replica)["log"]) == (1, False)


def test_live_log_needs_no_listing() -> None:
    world, db, replica = pair()
    put(db, b"a")
    tail = replica._follower.tail
    assert tail.begin_live(1, 1)
    before = len(world.store.trace)
    replica.refresh()
    asked = [each.operation for each in world.store.trace[before:]]
    assert asked == ["get"]
    replica._follower.lost(UnavailableError("gone"))
    replica.refresh()
    assert replica.seq == 1


def test_an_idle_look_is_two_requests() -> None:
    world, db, replica = pair()
    put(db, b"a")
    replica.refresh()
    before = len(world.store.trace)
    replica.refresh()
    asked = [each.operation for each in world.store.trace[before:]]
    assert asked == ["get", "list"]


def test_frames_that_are_not_whole_are_refused() -> None:
    _, db, replica = pair()
    put(db, b"a")
    cursor = db.follow(1)
    header, frames = cursor.read(), cursor.read()
    assert header
    assert frames
    greeting = _messages(cursor.greeting())
    whole = [*greeting, *_messages(header), *_messages(frames)]
    assert decode_hello(greeting[0][1]).epoch == 1
    cut = [*whole[:-1], (MessageType.FRAMES, whole[-1][1][:-3])]
    tail = LiveTail("http://primary", replica._follower)
    for bad in (cut, whole[1:], [whole[0], whole[2]]):
        with pytest.raises(CorruptionError):
            tail._take(iter(bad), 1)
    assert replica.seq == 0
    with pytest.raises(UnavailableError, match="ended"):
        tail._take(iter(whole), 1)
    assert replica.seq == 1
