"""How much background work in threads gives way, by what presses on writes and who waits."""

from __future__ import annotations

import pytest

from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.workers.pace import (
    LONG_REST,
    NO_REST,
    REST,
    SHORT_STRETCH_SECONDS,
    STRETCH_SECONDS,
)
from seerdb.storage.write.pressure import URGENT_RUNS
from tests.unit.storage.admission_rig import Rig


def test_a_flush_gives_way_until_another_memtable_waits_and_the_next_fills() -> None:
    rig = Rig(memtable_capacity=1024)
    rig.seal(2)
    assert (rig.gauges.rests_of_flush(), rig.gauges.rests_of_compaction()) == (REST, REST)
    rig.live.current.active.put(1, b"k", b"v", 300)
    assert rig.gauges.flush_is_behind()
    assert (rig.gauges.rests_of_flush(), rig.gauges.rests_of_compaction()) == (NO_REST, LONG_REST)


def test_a_flush_hurries_while_somebody_waits_for_it() -> None:
    rig = Rig()
    rig.lane.is_awaited = True
    assert rig.gauges.rests_of_flush() == NO_REST
    assert not rig.gauges.flush_is_behind()


def test_bringing_tables_into_memory_gives_way_unless_writers_would_wait() -> None:
    rig = Rig(memtable_capacity=1024)
    rig.pile_up(URGENT_RUNS + 1)
    rig.compaction.is_awaited = True
    rig.seal(2)
    assert rig.gauges.rests_of_warming() == REST
    rig.live.current.active.put(1, b"k", b"v", 300)
    assert rig.gauges.flush_is_behind()
    assert rig.gauges.rests_of_warming() == NO_REST


def test_a_database_that_closes_does_not_wait_for_rests() -> None:
    rig = Rig()
    rig.compaction.tries_again = False
    assert rig.gauges.rests_of_warming() == NO_REST


@pytest.mark.parametrize(
    ("purpose", "stretch", "rest"),
    [
        (Purpose.READ, SHORT_STRETCH_SECONDS, REST),
        (Purpose.FLUSH, STRETCH_SECONDS, NO_REST),
        (Purpose.COMPACTION, STRETCH_SECONDS, LONG_REST),
    ],
)
def test_each_kind_of_work_has_a_pace_of_its_own(
    purpose: Purpose, stretch: float, rest: int
) -> None:
    rig = Rig()
    rig.lane.is_awaited = True
    pace = rig.gauges.pace_for(purpose, rig.clock)
    rig.clock.advance(stretch / 2)
    pace()
    assert rig.clock.slept == 0
    rig.clock.advance(stretch / 2)
    pace()
    assert rig.clock.slept == pytest.approx(rest * stretch)


def test_a_compaction_gives_way_until_there_are_many_runs_or_somebody_waits() -> None:
    rig = Rig()
    rig.pile_up(URGENT_RUNS)
    assert rig.gauges.rests_of_compaction() == REST
    rig.pile_up(URGENT_RUNS + 1)
    assert rig.gauges.rests_of_compaction() == NO_REST
    rig.pile_up(1)
    rig.compaction.is_awaited = True
    assert rig.gauges.rests_of_compaction() == NO_REST
