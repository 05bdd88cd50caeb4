"""When the committer asks for the pressure, and what it does before it is made to wait."""

from __future__ import annotations

from itertools import pairwise

from seerdb.storage.commit import INTERVAL, MEMORY
from tests.unit.storage.test_commit import Rig


def test_the_pressure_is_asked_for_by_bytes_of_log() -> None:
    rig = Rig()
    rig.env.unhindered = 1000
    for number in range(100):
        rig.committer.put(b"%03d" % number, b"v" * 10, MEMORY)
    rig.put(b"group")
    asked = rig.env.held_back
    assert asked[0] == 0
    steps = [after - before for before, after in pairwise(asked)]
    assert all(1000 <= step < 1200 for step in steps)
    assert len(steps) > 5


def test_a_put_at_level_memory_asks_for_nothing_while_it_has_room() -> None:
    rig = Rig()
    rig.committer.put(b"a", b"v", MEMORY)
    rig.env.held_back.clear()
    for number in range(100):
        rig.committer.put(b"%03d" % number, b"v", MEMORY)
    assert rig.env.held_back == []


def test_what_is_due_is_synced_before_a_writer_waits() -> None:
    rig = Rig()
    rig.env.waits, rig.env.unhindered = True, 0
    rig.put(b"warm")
    before = rig.syncs
    rig.put(b"a", level=INTERVAL)
    rig.put(b"b", level=MEMORY)
    assert rig.syncs == before + 1
    rig.put(b"c", level=MEMORY)
    assert rig.syncs == before + 1


def test_the_timer_does_not_wait_for_a_writer_that_leads_for_long() -> None:
    rig = Rig()
    rig.env.unhindered = 0
    rig.put(b"warm")
    rig.put(b"a", level=INTERVAL)
    before, late = rig.syncs, rig.env.later.pop()[1]
    rig.env.while_leading = late
    rig.put(b"b", level=MEMORY)
    assert (rig.syncs, len(rig.env.later)) == (before, 1)
    rig.env.while_leading = lambda: None
    rig.env.later.pop()[1]()
    assert (rig.syncs, rig.env.later) == (before + 1, [])
