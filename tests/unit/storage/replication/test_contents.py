"""What a follower shows, where a version ends within a memtable or beyond all of them."""

from __future__ import annotations

from typing import Any

import pytest

from seerdb import CorruptionError, Replica
from seerdb.storage.replication.contents import Contents
from seerdb.storage.replication.shipped import Piece
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import SegmentHeader, encode_operations
from tests.fixtures.database import ROOMY, World
from tests.fixtures.follower import contents, follow


def piece(epoch: int, segment: int, records: list[Record]) -> Piece:
    """Of a segment that begins with the first of the records."""
    header = SegmentHeader(bytes(16), segment, epoch, records[0][0], 0, 1, 1)
    return Piece(epoch, header, records)


def followed(**settings: Any) -> tuple[Replica, Contents]:
    """A follower of four commits, which it has from the log as if they were of one segment though
    the writer has flushed after two."""
    world = World(**ROOMY | settings)
    db = world.open()
    replica = follow(world)
    write = db.merge if "merge_operator" in settings else db.put
    for number in range(4):
        write(b"k", b"%d" % number, durability="object")
        if number == 1:
            db.flush()
    tail = replica._follower.tail
    listing = tail._log.list(1)
    for seq in range(1, 5):
        found = tail._log.read(listing, seq)
        assert found is not None
        tail._contents.take(piece(1, 1, found.records))
    return replica, tail._contents


def test_what_is_known_already_is_passed_over() -> None:
    replica, held = followed()
    before = contents(replica)
    assert held.take(piece(1, 1, [(2, 0, b"not even looked at")])) is None
    assert (held.seq, contents(replica)) == (4, before)


def test_a_gap_is_told_and_what_is_before_it_is_taken() -> None:
    _, held = followed()
    payload = b"\x01\x00\x00\x00\x02\x01\x00\x00\x00\x00\x00x"  # delete x
    assert held.take(piece(1, 1, [(5, 9, payload), (7, 9, payload)])) == 7
    assert held.seq == 5


def test_a_commit_of_an_empty_key_is_damage() -> None:
    replica, held = followed()
    for kind in (1, 2):
        payload = encode_operations(bytes([kind]), [b""], [b""])
        with pytest.raises(CorruptionError, match=r"^the batch of seq 5: a batch has an empty key"):
            held.take(piece(1, 1, [(5, 9, payload)]))
    assert (held.seq, contents(replica)) == (4, {b"k": (b"3", 4)})


def test_a_version_that_ends_within_a_memtable_is_shown_with_all_of_it() -> None:
    replica, held = followed()
    tail = replica._follower.tail
    tail.manifest.advance()
    assert tail.manifest.state.last_seq == 2
    assert held.adopt(tail.manifest.state)
    assert len(held.live.current.active.newest) == 1
    assert replica.get(b"k") == b"3"
    assert replica.seq == 4


def test_operands_are_not_folded_twice_by_such_a_version() -> None:
    replica, held = followed(merge_operator="append")
    tail = replica._follower.tail
    tail.manifest.advance()
    assert not held.adopt(tail.manifest.state)
    assert replica.get(b"k") == b"0123"


def test_memtables_end_where_segments_do() -> None:
    _, held = followed()
    payload = b"\x01\x00\x00\x00\x02\x01\x00\x00\x00\x00\x00x"
    held.take(piece(1, 2, [(5, 9, payload)]))
    held.take(piece(2, 2, [(6, 9, payload)]))
    assert [each.last_seq for each in held.live.current.memtables] == [6, 5, 4]
