"""Which runs press on writes: those that wait for a merge, and nobody merges."""

from __future__ import annotations

from seerdb.errors import UnavailableError
from seerdb.storage.manifest.version import Run
from seerdb.storage.write.pressure import MAX_RUNS, URGENT_RUNS
from tests.unit.storage.admission_rig import Rig
from tests.unit.storage.compaction.toy import table
from tests.unit.storage.write.test_admission import hold_back, pressed_rig


def test_runs_that_nobody_would_merge_press_nobody() -> None:
    rig = pressed_rig()
    rig.pile_up(MAX_RUNS * 2)
    hold_back(rig, 1 << 20)
    rig.admission.admit()
    assert (rig.clock.slept, rig.events) == (0, [])


def test_runs_that_other_processes_merge_wait_for_nothing() -> None:
    """The last one takes long, and while only these are many, fresh ones are merged beside."""
    rig = Rig(merges_here=False)
    rig.compaction.has_work = True
    tables = [table(number) for number in range(MAX_RUNS + 5)]
    rig.show([Run(0, number, (each,)) for number, each in enumerate(reversed(tables), 1)])
    rig.merging = {each.id for each in tables[:5]}
    assert rig.gauges.obstacle() is not None
    rig.merging |= {tables[5].id}
    assert rig.gauges.obstacle() is None
    rig.merging = {each.id for each in tables[: MAX_RUNS + 5 - URGENT_RUNS]}
    assert rig.admission.statistics().slowed == ""
    rig.compaction.error = UnavailableError("no bucket")
    assert f"{MAX_RUNS + 5} runs wait" in rig.admission.statistics().slowed


def test_a_run_of_which_a_part_is_merged_waits_with_the_rest() -> None:
    rig = Rig(merges_here=False)
    rig.compaction.has_work = True
    tables = [table(number) for number in range(2 * (URGENT_RUNS + 1))]
    halves = zip(tables[::2], tables[1::2], strict=True)
    rig.show([Run(0, number, pair) for number, pair in enumerate(halves, 1)])
    rig.merging = {each.id for each in tables[::2]}
    assert rig.admission.statistics().slowed
    rig.merging |= {tables[1].id}
    assert not rig.admission.statistics().slowed
