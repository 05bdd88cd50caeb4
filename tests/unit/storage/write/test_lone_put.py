"""Puts that take no leader: what they need, what they leave alone, and that they are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.memtable import ENTRY_OVERHEAD
from seerdb.storage.wal import writer
from seerdb.storage.wal.reader import scan_segment
from seerdb.storage.wal.replay import replay_sealed
from seerdb.storage.write.lone_put import led_put
from seerdb.storage.write.request import MEMORY, Request
from tests.unit.storage.commit_rig import Rig
from tests.unit.storage.memtables import versions
from tests.unit.storage.test_batch import batch_of


@pytest.fixture(params=["written", "mapped"])
def settings(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Of a rig, whose log is on a disk that can map files or on one that cannot."""
    monkeypatch.chdir(tmp_path)
    return {"files": OsFileSystem()} if request.param == "mapped" else {}


def warm_rig(**settings: Any) -> Rig:
    """A committer that gives way to lone puts."""
    rig = Rig(**settings)
    rig.put(b"warm", level=MEMORY)
    return rig


def state_of(rig: Rig) -> object:
    """All that a put changes."""
    active = rig.live.current.active
    columns = list(active.seqs), list(active.values), dict(active.newest)
    return rig.live.visible_seq, rig.log.position, active.size, active.last_seq, columns


def test_it_needs_no_leader_and_is_a_commit_like_any_other(settings: dict[str, Any]) -> None:
    rig = warm_rig(**settings)
    with rig.committer._mutex:
        assert rig.committer.head.lone_put(b"k", b"value") == 2
        assert rig.committer.head.lone_put(b"k", b"") == 3
    assert rig.entries() == {b"warm": (1, b"v"), b"k": (3, b"")}
    statistics = rig.committer.statistics()
    assert (statistics.commits, statistics.operations, statistics.groups) == (3, 3, 3)
    assert statistics.user_bytes == len(b"warmvkvaluek")
    rig.committer.rotate()
    [sealed] = rig.env.memtables
    replayed = replay_sealed(rig.files, "wal", [1], lambda entries=0: None)
    assert versions(replayed) == versions(sealed)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"", b"v"),
        (b"k" * 65_536, b"v"),
        ("k", b"v"),
        (b"k", "v"),
        (None, b"v"),
        (b"k", None),
        (bytearray(b"k"), b"v"),
        (b"k", memoryview(b"v")),
    ],
)
def test_what_is_no_key_or_value_is_left_to_others(key: Any, value: Any) -> None:
    rig = warm_rig(segment_size=1 << 20)
    before = state_of(rig)
    assert rig.committer.head.lone_put(key, value) == 0
    assert state_of(rig) == before
    assert rig.committer.head.lone_put(b"k" * 65_535, b"v") == 2


def test_a_value_of_more_than_a_gibibyte_is_left_to_others() -> None:
    rig = warm_rig(capacity=1 << 40, segment_size=1 << 20)
    rig.live.current.active.limit = 1 << 50
    before = state_of(rig)
    assert rig.committer.head.lone_put(b"k", bytes((1 << 30) + 1)) == 0
    assert state_of(rig) == before


@pytest.mark.parametrize("space", ["memtable", "log", "pressure"])
def test_it_takes_no_more_than_there_is_room_for(space: str) -> None:
    settings = {"memtable": {"capacity": 4000}, "log": {"segment_size": 4096 + 2000}}
    rig = Rig(**settings.get(space, {}))
    rig.env.pressure = lambda *_: 3000 if space == "pressure" else 1 << 40
    rig.put(b"warm", level=MEMORY)
    taken = 0
    while rig.committer.head.lone_put(b"%03d" % taken, b"v" * 40):
        taken += 1
    active = rig.live.current.active
    assert taken > 3
    assert {
        "memtable": active.size < 4000 <= active.size + 43 + ENTRY_OVERHEAD,
        "log": rig.log.fits(0) and taken * (43 + ENTRY_OVERHEAD) < 2000,
        "pressure": taken * (43 + ENTRY_OVERHEAD) < 3000,
    }[space]
    before = state_of(rig)
    assert rig.committer.head.lone_put(b"k", b"v" * 40) == 0
    assert state_of(rig) == before
    assert rig.put_alone(b"k", b"v" * 40) == taken + 2


def test_what_was_made_for_a_sealed_memtable_leaves_it_alone() -> None:
    rig = warm_rig()
    former = rig.committer.head.lone_put
    rig.committer.rotate()
    assert rig.committer.head.lone_put is led_put, "so that nothing holds on to the memtable"
    assert rig.put(b"next", level=MEMORY) == 2
    [sealed] = rig.env.memtables
    before, entries = state_of(rig), versions(sealed)
    assert former(b"k", b"v") == 0
    assert (state_of(rig), versions(sealed)) == (before, entries)
    assert rig.committer.head.lone_put(b"k", b"v") == 3


def test_it_overtakes_nothing_that_waits() -> None:
    rig = warm_rig()
    batch = batch_of([("put", b"first", b"v")])
    rig.committer.enqueue([Request(rig.committer.ready(batch), MEMORY, None)])
    assert rig.committer.head.lone_put(b"k", b"v") == 0
    assert rig.put_alone(b"k", b"v") == 3
    assert rig.entries()[b"first"] == (2, b"v")


def test_its_time_is_never_before_one_that_was_committed_or_told() -> None:
    rig = warm_rig()
    start = rig.clock.now_ns() // 1000
    rig.clock.advance(5)
    assert rig.committer.head.lone_put(b"a", b"v") == 2
    rig.clock.set_now(start / 1e6 + 1)
    assert rig.committer.head.lone_put(b"b", b"v") == 3
    rig.clock.advance(9)
    told = rig.committer._clock.now_us()
    rig.clock.set_now(start / 1e6 + 2)
    assert rig.committer.head.lone_put(b"c", b"v") == 4
    records = scan_segment(rig.files, "wal", 1).records
    assert [record[1] - start for record in records] == [0, 5_000_000, 5_000_000, told - start]
    assert told - start == 10_000_000


def test_under_a_lease_somebody_leads() -> None:
    rig = Rig(lease=_SureLease())
    rig.put(b"warm", level=MEMORY)
    assert rig.committer.head.lone_put is led_put
    assert rig.put_alone(b"k", b"v") == 2


class _SureLease:
    """A lease that never runs out."""

    is_sure = True

    def require(self) -> None:
        """It is held."""

    confirm = require


def test_it_keeps_what_a_snapshot_needs() -> None:
    rig = warm_rig()
    assert rig.committer.head.lone_put(b"k", b"old") == 2
    state, seq = rig.live.snapshot()
    assert rig.committer.head.lone_put(b"k", b"new") == 3
    assert state.active.find(b"k", seq) == (2, b"old")
    assert state.active.find(b"k", 3) == (3, b"new")


def test_puts_of_more_sizes_than_are_kept_are_the_same(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_FRAMES_KEPT", 3)
    rig = warm_rig(**settings)
    sizes = [*range(1, 9), *range(8, 0, -1)]
    for size in sizes:
        assert rig.committer.head.lone_put(b"k" * size, b"v" * size)
    records = scan_segment(rig.files, "wal", 1).records
    assert [(seq, payload[11:]) for seq, _, payload in records[1:]] == [
        (seq, b"k" * size + b"v" * size) for seq, size in enumerate(sizes, 2)
    ]


def test_its_time_is_no_earlier_than_any_that_was_told(settings: dict[str, Any]) -> None:
    """What a read has seen to expire would be back after a crash."""
    rig = warm_rig(**settings)
    rig.clock.advance(100)
    told = rig.committer._clock.now_us()
    rig.clock.set_now(rig.clock.now() - 50)
    assert rig.committer.head.lone_put(b"k", b"v") == 2
    assert scan_segment(rig.files, "wal", 1).records[-1][1] >= told
