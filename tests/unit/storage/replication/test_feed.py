"""The writer's side of the live log: what a cursor reads of the segments, and when it ends."""

from __future__ import annotations

from typing import Any

import pytest

from seerdb import DB, ClosedError, FencedError
from seerdb.storage.replication import feed as live_feed
from seerdb.storage.replication import local_segment
from seerdb.storage.replication.feed import LogCursor
from seerdb.storage.replication.format import (
    MessageReader,
    MessageType,
    decode_hello,
    decode_mark,
)
from seerdb.storage.replication.running import Mark
from seerdb.storage.wal.reader import read_segment
from tests.fixtures.database import ROOMY, World, fill


def opened(**settings: Any) -> tuple[World, DB]:
    world = World(**ROOMY | settings)
    return world, world.open()


def seqs(cursor: LogCursor) -> list[int]:
    """What comes now; every message is checked as a follower does."""
    found: list[int] = []
    header = getattr(cursor, "test_header", b"")
    while sent := cursor.read():
        for kind, body in MessageReader().feed(sent):
            if kind is MessageType.SEGMENT:
                header = body
            elif kind is not MessageType.MARK:
                assert kind is MessageType.FRAMES
                scan = read_segment(header + body, "test", None)
                assert (scan.damages, scan.end) == ((), len(header) + len(body))
                found += [seq for seq, _, _ in scan.records]
    cursor.test_header = header  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    "settings", [{}, {"wal_compression": "zstd"}, {"wal_direct_io": True}], ids=str
)
def test_everything_comes_once_and_in_order(settings: dict[str, Any]) -> None:
    """PB-06."""
    _, db = opened(wal_segment_size=1 << 20, **settings)
    fill(db, 30)
    cursor = db.follow(1)
    assert seqs(cursor) == list(range(1, 31))
    assert seqs(cursor) == []
    fill(db, 5)
    assert seqs(cursor) == list(range(31, 36))


def test_it_goes_on_over_segments() -> None:
    world, db = opened(wal_segment_size=16 << 10, takes_tables=False, memtable_capacity=16 << 10)
    cursor = db.follow(1)
    fill(db, 300)
    assert len([name for name in world.files.list("data/wal") if name.endswith(".wal")]) > 3
    assert seqs(cursor) == list(range(1, 301))


@pytest.mark.parametrize("first", [1, 2, 17, 30, 31])
def test_it_begins_at_any_seq(first: int) -> None:
    _, db = opened()
    fill(db, 30)
    found = seqs(db.follow(first))
    assert found[-1:] == [30]
    assert [seq for seq in found if seq >= first] == list(range(first, 31))
    assert len(found) <= 31 - first + 1, "no more than a frame too much"


def test_a_large_frame_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_segment, "READ_BYTES", 1000)
    _, db = opened(memtable_capacity=1 << 20)
    db.put(b"small", b"1")
    db.put(b"large", b"v" * 30_000)
    fill(db, 20)
    cursor = db.follow(1)
    assert seqs(cursor) == list(range(1, 23))
    assert [seq for seq in seqs(db.follow(15)) if seq >= 15] == list(range(15, 23))


def test_what_is_not_durable_is_not_streamed_before_a_sync() -> None:
    """PB-07. Else a follower has what its writer loses with the power."""
    world, db = opened()
    db.put(b"a", b"1", durability="local")
    cursor = db.follow(1)
    assert seqs(cursor) == [1]
    db.put(b"b", b"1", durability="memory")
    assert cursor.has_news
    assert seqs(cursor) == []
    world.clock.advance(live_feed.SYNC_SECONDS)
    assert seqs(cursor) == [2]
    world = world.lose_power()
    assert world.open().get(b"b") == b"1", "the cursor had it synced"


def test_there_is_no_news_until_something_is_written() -> None:
    _, db = opened()
    db.put(b"a", b"1")
    cursor = db.follow(1)
    assert cursor.has_news
    seqs(cursor)
    assert not cursor.has_news
    db.put(b"b", b"1")
    assert cursor.has_news


def test_before_the_first_write_it_waits() -> None:
    _, db = opened()
    cursor = db.follow(1)
    assert seqs(cursor) == []
    db.put(b"a", b"1")
    assert seqs(cursor) == [1]


def test_what_was_flushed_is_passed_over() -> None:
    _, db = opened()
    fill(db, 10)
    db.flush()
    cursor = db.follow(5)
    assert seqs(cursor) == []
    fill(db, 3)
    assert seqs(cursor) == [11, 12, 13]
    assert seqs(db.follow(5)) == [11, 12, 13]


def test_a_segment_that_is_let_go_of_while_it_is_read_is_left() -> None:
    _, db = opened()
    fill(db, 10)
    cursor = db.follow(1)
    assert cursor.read()  # the header
    db.flush()
    fill(db, 10)
    assert seqs(cursor) == list(range(11, 21)), "nothing of the file's new contents"


def test_after_a_restart_the_recovered_log_is_there() -> None:
    world, db = opened(takes_tables=False)
    fill(db, 10)
    again = world.kill().open()
    cursor = again.follow(3)
    assert [seq for seq in seqs(cursor) if seq >= 3] == list(range(3, 11))
    fill(again, 2)
    assert seqs(cursor) == [11, 12]


def marks(sent: bytes) -> list[Mark]:
    messages = MessageReader().feed(sent)
    return [decode_mark(body) for kind, body in messages if kind is MessageType.MARK]


def test_a_heartbeat_has_a_mark_of_what_was_sent_since_the_last_one() -> None:
    _, db = opened()
    cursor = db.follow(1)
    assert marks(cursor.heartbeat()) == []
    fill(db, 30)
    assert marks(cursor.heartbeat()) == [], "nothing was sent yet"
    seqs(cursor)
    [mark] = marks(cursor.heartbeat())
    assert (mark.epoch, mark.seq, mark.entries) == (1, 30, 30)
    assert marks(cursor.heartbeat()) == []
    late = db.follow(25)
    seqs(late)
    assert marks(late.heartbeat()) == [mark], "wherever one begins"
    fill(db, 1)
    seqs(cursor)
    assert [each.seq for each in marks(cursor.heartbeat())] == [31]
    assert db.statistics().log_digest is not None
    for each in (cursor, late):
        each.close()
    assert db.statistics().log_digest is None


def test_each_segment_ends_with_a_mark_of_all_of_it() -> None:
    _, db = opened(wal_segment_size=16 << 10, takes_tables=False, memtable_capacity=16 << 10)
    cursor = db.follow(1)
    fill(db, 300)
    sent = b"".join(iter(cursor.read, b"")) + cursor.heartbeat()
    found = marks(sent)
    assert len(found) > 3
    assert len({mark.segment for mark in found}) == len(found)
    assert [mark.seq for mark in found] == [
        sum(mark.entries for mark in found[: at + 1]) for at in range(len(found))
    ]
    assert found[-1].seq == 300


def test_the_greeting_says_who_writes() -> None:
    _, db = opened()
    fill(db, 3)
    [(_, body)] = MessageReader().feed(db.follow(1).greeting())
    hello = decode_hello(body)
    assert (hello.database_id, hello.epoch, hello.seq) == (db.stats()["database_id"], 1, 3)


def test_a_closed_database_ends_it() -> None:
    _, db = opened()
    cursor = db.follow(1)
    db.close()
    with pytest.raises(ClosedError):
        cursor.read()
    with pytest.raises(ClosedError):
        db.follow(1)


def test_a_writer_that_was_taken_over_ends_it() -> None:
    world, db = opened()
    db.put(b"a", b"1")
    cursor = db.follow(1)
    world.open("other")
    with pytest.raises(FencedError):
        db.flush()
    with pytest.raises(FencedError):
        cursor.heartbeat()
    with pytest.raises(FencedError):
        cursor.read()
