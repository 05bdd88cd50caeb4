"""Commits and groups of them: their order, what is synced, what is expected."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from seerdb.errors import (
    ConflictError,
    PoisonedError,
    UnavailableError,
)
from seerdb.ids import MAX_SEQ
from seerdb.storage import memtable
from seerdb.storage.batch import Batch
from seerdb.storage.value import unpack_expiring
from seerdb.storage.wal.reader import scan_segment
from seerdb.storage.write import commit
from seerdb.storage.write.request import INTERVAL, LOCAL, MEMORY, OBJECT
from seerdb.testing.clock import FakeClock
from tests.unit.storage.commit_rig import Rig


def test_a_commit_is_logged_synced_applied_and_published() -> None:
    rig = Rig(seq=41)
    assert rig.put(b"a") == 42
    assert rig.live.visible_seq == 42
    assert rig.live.current.active.find(b"a", MAX_SEQ) == (42, b"v")
    assert rig.log.position == rig.log.synced
    [record] = scan_segment(rig.files, "wal", 1).records
    assert (record[0], record[1]) == (42, rig.clock.now_ns() // 1000)


@pytest.mark.parametrize(("level", "syncs"), [(MEMORY, 0), (INTERVAL, 0), (LOCAL, 1), (OBJECT, 1)])
def test_only_what_must_be_durable_is_synced(level: int, syncs: int) -> None:
    rig = Rig()
    rig.put(b"warm")
    before = rig.syncs
    rig.put(b"a", level=level)
    assert rig.syncs - before == syncs
    assert rig.put_alone(b"b", b"v", level) == 3
    assert rig.syncs - before == 2 * syncs


def test_writers_that_wait_become_one_group_and_one_sync() -> None:
    rig = Rig()
    rig.put(b"warm")
    syncs, groups = rig.syncs, rig.committer.statistics().groups
    calls = [lambda n=n: rig.put(b"%02d" % n) for n in range(12)]
    with rig.waiting(*calls) as futures:
        assert rig.committer.statistics().queued == 12
    assert [future.result() for future in futures] == list(range(2, 14))
    assert rig.syncs - syncs == 1
    statistics = rig.committer.statistics()
    assert (statistics.groups - groups, statistics.largest_group) == (1, 12)
    assert (statistics.commits, statistics.operations, statistics.queued) == (13, 13, 0)


def test_a_group_syncs_as_its_most_careful_writer_asks() -> None:
    rig = Rig()
    rig.put(b"warm")
    before = rig.syncs
    with rig.waiting(
        lambda: rig.put(b"a", level=MEMORY),
        lambda: rig.put(b"b", level=LOCAL),
        lambda: rig.put(b"c", level=MEMORY),
    ):
        pass
    assert rig.syncs - before == 1
    assert rig.log.position == rig.log.synced


def test_a_group_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    rig.put(b"warm")
    monkeypatch.setattr(commit, "MAX_GROUP_REQUESTS", 4)
    with rig.waiting(*[lambda n=n: rig.put(b"%02d" % n) for n in range(10)]):
        pass
    assert rig.committer.statistics().largest_group == 4
    monkeypatch.setattr(commit, "MAX_GROUP_REQUESTS", 1000)
    monkeypatch.setattr(commit, "MAX_GROUP_BYTES", 2500)
    with rig.waiting(
        *[lambda n=n: rig.put(b"%02d" % n, bytes(1000)) for n in range(10)]
    ) as futures:
        pass
    assert rig.committer.statistics().largest_group == 4, "two of a thousand bytes fit"
    assert [future.result() for future in futures] == list(range(12, 22))


def test_an_expectation_is_checked_in_its_turn() -> None:
    rig = Rig()
    with rig.waiting(
        lambda: rig.put(b"k", b"1"),
        lambda: rig.put(b"k", b"2", expect=1),
        lambda: rig.put(b"k", b"3", expect=1),
        lambda: rig.put(b"k", b"4", expect=0),
        lambda: rig.put(b"l", b"5"),
        lambda: rig.put(b"k", b"6", expect=2),
    ) as futures:
        pass
    outcomes = [future.exception() or future.result() for future in futures]
    assert [type(outcome) for outcome in outcomes] == [
        int,
        int,
        ConflictError,
        ConflictError,
        int,
        int,
    ]
    assert rig.entries() == {b"k": (4, b"6"), b"l": (3, b"5")}
    assert "its seq is 2" in str(outcomes[2])
    assert "expected it to be absent" in str(outcomes[3])
    with pytest.raises(ConflictError, match="but it is absent"):
        rig.put(b"none", expect=7)
    assert rig.live.visible_seq == 4


def test_an_expectation_that_cannot_be_checked_concerns_only_its_write() -> None:
    """It may need the bucket, which the other writes of the group do not."""
    rig = Rig()
    rig.put(b"warm")
    rig.env.unreadable = UnavailableError("no bucket")
    with rig.waiting(
        lambda: rig.put(b"k", expect=1), lambda: rig.put(b"a"), lambda: rig.put(b"b")
    ) as futures:
        pass
    outcomes = [future.exception() or future.result() for future in futures]
    assert outcomes == [rig.env.unreadable, 2, 3]
    assert rig.entries().keys() == {b"warm", b"a", b"b"}


def test_a_lone_put_waits_while_somebody_leads() -> None:
    rig = Rig()
    put, queue = rig.put_alone, rig.committer._queue
    assert [put(b"warm", b"v", MEMORY), put(b"alone", b"v", MEMORY)] == [1, 2]
    with ThreadPoolExecutor(1) as pool:
        with rig.committer._mutex, rig.committer._leading:
            future = pool.submit(put, b"a", b"v", MEMORY)
            while not (queue or future.done()):
                pass
            assert (len(queue), rig.live.visible_seq) == (1, 2)
        assert future.result() == 3
    assert rig.committer.statistics().commits == 3


def test_what_a_batch_makes_is_told_before_anybody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig()
    held: list[bool] = []

    def unpack(stored: bytes) -> tuple[bytes, int]:
        held.append(rig.committer._mutex.locked() or rig.live.lock.locked())
        return unpack_expiring(stored)

    monkeypatch.setattr(memtable, "unpack_expiring", unpack)
    batch = Batch()
    for number in range(10):
        batch.put(b"%d" % number, b"v", ttl=60)
    batch.delete(b"a")
    batch.delete_range(b"b", b"c")
    rig.committer.commit(batch, LOCAL, None)
    assert held == [False] * 10
    assert rig.live.current.active.find(b"9", 1) is not None


def test_time_in_the_log_never_goes_back() -> None:
    rig = Rig(timestamp=FakeClock().now_ns() // 1000 + 5_000_000)
    rig.put(b"a")
    rig.clock.advance(60)
    rig.put(b"b")
    rig.clock.set_now(1.0)
    rig.put(b"c")
    rig.put_alone(b"d", b"v", MEMORY)
    stamps = [record[1] for record in scan_segment(rig.files, "wal", 1).records]
    start = FakeClock().now_ns() // 1000
    assert stamps == [start + 5_000_000, *[start + 60_000_000] * 3]


def test_the_interval_is_kept_by_a_timer_that_runs_once() -> None:
    rig = Rig()
    rig.put(b"warm")
    before = rig.syncs
    for number in range(5):
        rig.put(b"%d" % number, level=INTERVAL)
    [(seconds, call)] = rig.env.later
    assert (seconds, rig.syncs) == (0.5, before)
    call()
    assert rig.syncs == before + 1
    assert rig.log.position == rig.log.synced
    rig.put(b"again", level=INTERVAL)
    assert len(rig.env.later) == 2
    rig.clock.advance(0.6)
    rig.put(b"late", level=INTERVAL)
    assert rig.syncs == before + 2, "the interval is over, so at once"
    rig.files.fail_sync()
    rig.put(b"lost", level=INTERVAL)
    rig.clock.advance(0.1)
    rig.env.later[1][1]()
    with pytest.raises(PoisonedError):
        rig.put(b"after")
