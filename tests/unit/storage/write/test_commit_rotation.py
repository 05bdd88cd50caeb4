"""When a memtable is sealed with its segment, and what happens when that is refused."""

from __future__ import annotations

import pytest

from seerdb.errors import (
    BusyError,
    PoisonedError,
    SeerDBError,
)
from seerdb.storage.wal.replay import replay_sealed
from seerdb.storage.workers.pace import at_full_speed
from seerdb.storage.write.request import LOCAL, MEMORY
from seerdb.storage.write.sync_schedule import SYNC_AHEAD_BYTES
from tests.unit.storage.commit_rig import Rig
from tests.unit.storage.memtables import versions


def test_a_full_memtable_is_sealed_before_the_write_that_overflows_it() -> None:
    rig = Rig(capacity=1000)
    for number in range(10):
        rig.put(b"%d" % number, bytes(300))
    assert rig.env.admitted == len(rig.env.memtables) == 4
    for sealed, segment in zip(rig.env.memtables, (1, 2, 3, 4), strict=True):
        assert sealed.segments == [segment]
        replayed = replay_sealed(rig.files, "wal", sealed.segments, at_full_speed)
        assert (versions(replayed), replayed.last_seq) == (versions(sealed), sealed.last_seq)
    assert sorted(rig.entries()) == [b"%d" % number for number in range(10)]
    assert rig.live.current.active.segments == [5]


@pytest.mark.parametrize("level", [MEMORY, LOCAL])
def test_a_full_segment_is_sealed_with_its_memtable(level: int) -> None:
    rig = Rig(segment_size=16 << 10)
    for number in range(100):
        rig.put_alone(b"%03d" % number, bytes(1000), level)
    assert len(rig.env.memtables) >= 6
    assert len(rig.entries()) == 100
    for memtable in rig.env.memtables:
        replayed = replay_sealed(rig.files, "wal", memtable.segments, at_full_speed)
        assert versions(replayed) == versions(memtable)


def test_a_refused_memtable_refuses_the_write_and_changes_nothing() -> None:
    rig = Rig(capacity=1)
    rig.put(b"a")
    rig.env.refusal = BusyError("slow down", retry_after_seconds=2.0)
    for level in (LOCAL, MEMORY):
        with pytest.raises(BusyError, match="slow down"):
            rig.put_alone(b"b", b"v", level)
    assert (rig.live.visible_seq, rig.env.memtables) == (1, [])
    rig.env.refusal = None
    assert rig.put_alone(b"b", b"v", MEMORY) == 2
    assert len(rig.env.memtables) == 1


def test_a_segment_that_cannot_be_started_is_tried_again() -> None:
    rig = Rig()
    rig.files.no_space = True
    for _ in range(2):
        with pytest.raises(SeerDBError) as error:
            rig.put(b"a")
        assert not isinstance(error.value, PoisonedError)
    rig.files.no_space = False
    assert rig.put(b"a") == 1


def test_rotation_by_hand() -> None:
    rig = Rig()
    assert rig.committer.rotate() == 0
    assert rig.env.memtables == []
    rig.put(b"a")
    assert rig.committer.rotate() == rig.committer.rotate() == 1
    assert len(rig.env.memtables) == 1
    assert rig.put(b"b") == 2
    assert rig.committer.position() == (2, rig.log.position, 2)


def test_an_empty_memtable_is_never_sealed() -> None:
    rig = Rig(capacity=1, segment_size=16 << 10)
    assert rig.put(b"huge", bytes(100_000)) == 1
    assert rig.env.memtables == []
    assert rig.put(b"next", bytes(100_000)) == 2
    assert [memtable.last_seq for memtable in rig.env.memtables] == [1]


def test_a_sync_ahead_leaves_little_for_the_end_of_a_segment() -> None:
    rig = Rig(segment_size=64 << 20, capacity=1 << 30)
    value = bytes(1 << 20)
    for _ in range(SYNC_AHEAD_BYTES >> 21):
        rig.put(b"a", value, level=MEMORY)
    rig.committer.syncs.ahead()
    assert rig.syncs == 0, "it is not worth it yet"
    while rig.log.unsynced < SYNC_AHEAD_BYTES:
        rig.put(b"a", value, level=MEMORY)
    rig.committer.syncs.ahead()
    assert (rig.syncs, rig.log.unsynced) == (1, 0)
    rig.put(b"a", value, level=MEMORY)
    rig.committer.rotate()
    assert rig.log.synced == rig.log.position
