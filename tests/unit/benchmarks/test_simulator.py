"""The simulator of compaction policies: its trees hold what was written, its numbers are right."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from benchmarks.results import Results
from benchmarks.simulator.loads import CHANGING, LOADS, Load
from benchmarks.simulator.simulate import (
    COMPACTION,
    COST,
    RUNS,
    SPACE,
    SPACE_BOUND,
    WRITE,
    simulate,
)
from benchmarks.simulator.tree import PUT_SIZE, SimulatedTree
from seerdb.storage.compaction.policy.adaptive import SHAPES
from seerdb.storage.compaction.policy.given import LAZY_LEVELED, LEVELED, TIERED

FLUSHES = 250


def grown(load: Load, policy: str, flushes: int) -> SimulatedTree:
    tree, random = SimulatedTree(policy), Random(1)
    for number in range(flushes):
        step = load.step(random, number, flushes)
        tree.flush(step.writes)
        tree.settle(len(step.writes), step.gets, step.scans)
    return tree


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
@pytest.mark.parametrize("policy", SHAPES)
def test_a_tree_holds_what_is_live_wherever_it_was_merged(load: Load, policy: str) -> None:
    tree = grown(load, policy, 40)
    held: dict[int, bool] = {}
    for run in reversed(tree.version.runs):
        for table in run.tables:
            held |= tree._rows[table.id]
    assert {key for key, is_put in held.items() if is_put} == tree.live
    assert tree.merges + tree.moves > 0
    assert set(tree._rows) == {table.id for table in tree.version.tables}
    assert tree.stored >= PUT_SIZE * len(tree.live)
    for key in sorted(tree.live)[::500]:
        assert 1 <= tree.tables_asked(key) <= len(tree.version.runs)


def test_what_is_moved_is_not_written() -> None:
    tree = grown(LOADS[-1], LAZY_LEVELED, 40)
    assert (tree.merged, tree.merges) == (0, 0)
    assert tree.moves > 5
    assert tree.stored == tree.flushed


@pytest.fixture(scope="module")
def results() -> Results:
    return simulate(FLUSHES, 1, "test", lambda _: None)


def value(results: Results, case: str, policy: str) -> float:
    found = results.find(case, policy, suite=COMPACTION)
    assert found is not None
    return found.value


def test_the_policies_differ_as_the_textbook_says(results: Results) -> None:
    for load in LOADS[:3]:
        for measure, most_first in ((WRITE, True), (RUNS, False)):
            values = [
                value(results, f"{load.name}: {measure}", policy)
                for policy in (LEVELED, LAZY_LEVELED, TIERED)
            ]
            assert values == sorted(values, reverse=most_first)
    assert value(results, f"{LOADS[1].name}: {SPACE}", TIERED) > 1.2


def test_measured_and_textbook_are_near(results: Results) -> None:
    for load in LOADS[:3]:
        for policy in (LEVELED, LAZY_LEVELED):
            found = results.find(f"{load.name}: {WRITE}", policy, suite=COMPACTION)
            assert found is not None
            assert found.value == pytest.approx(found.detail["textbook"], rel=0.25)


def test_lazy_leveling_keeps_its_bound_of_space(results: Results) -> None:
    assert len(results.goals) == len(LOADS)
    for goal in results.goals:
        assert goal["verdict"] == "PASS"
        assert 1 <= goal["measured"] <= SPACE_BOUND


def test_adaptive_costs_less_than_any_shape_under_a_load_that_changes(results: Results) -> None:
    case = f"{CHANGING.name}: {COST}"
    adaptive = results.find(case, "adaptive", suite=COMPACTION)
    assert adaptive is not None
    assert adaptive.value < min(value(results, case, shape) for shape in SHAPES)
    assert 3 <= adaptive.detail["changes"] <= 6


def test_a_simulation_is_saved_printed_and_drawn(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from rich.console import Console

    from benchmarks.simulator.picture import draw
    from benchmarks.simulator.report import print_simulation

    file = results.save(tmp_path)
    assert file.name.endswith("-test-compaction.json")
    loaded = Results.load(file)
    assert loaded.measurements == results.measurements
    console = Console(record=True, width=140)
    print_simulation(console, loaded)
    text = console.export_text()
    assert all(load.title in text for load in LOADS)
    assert "PASS" in text
    assert draw(loaded, file).stat().st_size > 10_000
