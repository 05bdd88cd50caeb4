"""When the committer asks for the pressure, and what it does before it is made to wait."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from seerdb.storage.write.request import INTERVAL, MEMORY
from tests.unit.storage.commit_rig import Rig


class Pressure:
    """Notes when it is asked, and lets so many bytes be ``unhindered``."""

    def __init__(self, rig: Rig, unhindered: int = 0) -> None:
        self.unhindered = unhindered
        self.asked: list[int] = []
        self.waits = False
        self.while_leading: Callable[[], None] = lambda: None
        rig.env.pressure = self

    def __call__(self, appended: int, before_waiting: Callable[[], None]) -> int:
        self.asked.append(appended)
        if self.waits:
            before_waiting()
        self.while_leading()
        return self.unhindered


def test_the_pressure_is_asked_for_by_bytes_of_memtables() -> None:
    rig = Rig()
    pressure = Pressure(rig, 1000)
    for number in range(100):
        rig.put_alone(b"%03d" % number, b"v" * 10, MEMORY)
    rig.put(b"group")
    asked = pressure.asked
    assert asked[0] == 0
    steps = [after - before for before, after in pairwise(asked)]
    assert all(200 < step < 1000 for step in steps), "of log, which has fewer"
    assert len(steps) > 5


def test_a_put_at_level_memory_asks_for_nothing_while_it_has_room() -> None:
    rig = Rig()
    pressure = Pressure(rig, 1 << 40)
    rig.put_alone(b"a", b"v", MEMORY)
    pressure.asked.clear()
    for number in range(100):
        rig.put_alone(b"%03d" % number, b"v", MEMORY)
    assert pressure.asked == []


def test_what_is_due_is_synced_before_a_writer_waits() -> None:
    rig = Rig()
    Pressure(rig).waits = True
    rig.put(b"warm")
    before = rig.syncs
    rig.put(b"a", level=INTERVAL)
    rig.put(b"b", level=MEMORY)
    assert rig.syncs == before + 1
    rig.put(b"c", level=MEMORY)
    assert rig.syncs == before + 1


def test_what_is_due_is_synced_before_a_writer_waits_for_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may wait for 20 seconds, and the level promises some milliseconds."""
    rig = Rig(capacity=2000)
    rig.put(b"warm", b"v" * 100)
    rig.put(b"a", b"v" * 2000, level=INTERVAL)
    before, found = rig.syncs, list[int]()
    monkeypatch.setattr(rig.env, "admit", lambda: found.append(rig.syncs))
    rig.put(b"b", level=MEMORY)
    assert found == [before + 1]


def test_the_timer_does_not_wait_for_a_writer_that_leads_for_long() -> None:
    rig = Rig()
    pressure = Pressure(rig)
    rig.put(b"warm")
    rig.put(b"a", level=INTERVAL)
    before, late = rig.syncs, rig.env.later.pop()[1]
    pressure.while_leading = late
    rig.put(b"b", level=MEMORY)
    assert (rig.syncs, len(rig.env.later)) == (before, 1)
    pressure.while_leading = lambda: None
    rig.env.later.pop()[1]()
    assert (rig.syncs, rig.env.later) == (before + 1, [])
