"""Trees under loads: their amplifications beside those of the model, as results of a run.

The model is ``seerdb/storage/compaction/policy/cost.py``. The value of a measurement is the
mean after a warm-up, ``detail`` has ``textbook``, the model's value for trees of these sizes,
and ``most``, the largest seen. Space is also counted right after each flush, before anything
was merged: that is its ``most``. The rounds of a cost are what it came to after every tenth
flush.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from statistics import fmean

from benchmarks.goals import Verdict
from benchmarks.results import Measurement, Results
from benchmarks.simulator.loads import CHANGING, FLUSH_ENTRIES, LOADS, Load
from benchmarks.simulator.tree import BLOCK_ENTRIES, OPTIONS, PUT_SIZE, SimulatedTree
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.compaction.policy.adaptive import SHAPES
from seerdb.storage.compaction.policy.cost import (
    levels,
    runs,
    space_amplification,
    write_amplification,
)
from seerdb.storage.compaction.policy.given import LAZY_LEVELED

COMPACTION = "compaction"
WRITE, SPACE, RUNS, ASKED, COST = "write", "space", "runs", "asked", "cost"
"""What is measured: bytes written for each that came in; bytes stored for each that is live;
runs; tables asked for a stored key; blocks read and written, in thousands."""

SPACE_BOUND = 1.3
"""For lazy leveling, at any time."""

SAMPLE_EVERY = 10
_SAMPLED_KEYS = 20


@dataclass
class _Seen:
    """What one tree showed, a value a flush, after the warm-up."""

    space: list[float]
    most_space: float
    runs: list[int]
    levels: list[float]
    asked: list[int]
    write: float
    costs: list[float]
    """Of all flushes, the warm-up too, summed up."""
    shapes: list[str]


def simulate(flushes: int, seed: int, tag: str, progress: Callable[[str], None]) -> Results:
    """Every policy under every load."""
    settings = {"flushes": flushes, "seed": seed, "flush_entries": FLUSH_ENTRIES}
    results = Results(COMPACTION, tag, {}, settings)
    for load in LOADS:
        for shape in SHAPES:
            progress(f"{load.title}, {shape}")
            seen = _watch(SimulatedTree(shape), load, flushes, seed)
            results.measurements += _amplifications(load, shape, seen)
    for policy in POLICIES:
        progress(f"{CHANGING.title}, {policy}")
        seen = _watch(SimulatedTree(policy), CHANGING, flushes, seed)
        results.measurements.append(_cost(policy, seen))
    results.goals = [verdict.to_json() for verdict in _verdicts(results)]
    return results


def _watch(tree: SimulatedTree, load: Load, flushes: int, seed: int) -> _Seen:
    random = Random(seed)
    seen = _Seen([], 0.0, [], [], [], 0.0, [], [])
    warm = flushes // 4
    flushed = merged = 0
    cost = 0.0
    for number in range(flushes):
        if number == warm:
            flushed, merged = tree.flushed, tree.merged
        step = load.step(random, number, flushes)
        before = tree.flushed + tree.merged
        tree.flush(step.writes)
        just_flushed = tree.space_amplification
        tree.settle(len(step.writes), step.gets, step.scans)
        written = (tree.flushed + tree.merged - before) / PUT_SIZE / BLOCK_ENTRIES
        probes = step.gets * OPTIONS.false_positives + step.scans
        cost += 2 * written + probes * len(tree.version.runs)
        seen.costs.append(cost)
        seen.shapes.append(tree.shape)
        if number >= warm:
            seen.space.append(tree.space_amplification)
            seen.most_space = max(seen.most_space, just_flushed)
            seen.runs.append(len(tree.version.runs))
            seen.levels.append(levels(tree.stored, OPTIONS))
            if number % SAMPLE_EVERY == 0:
                keys = random.sample(sorted(tree.live), _SAMPLED_KEYS)
                seen.asked += [tree.tables_asked(key) for key in keys]
    seen.write = 1 + (tree.merged - merged) / (tree.flushed - flushed)
    return seen


def _amplifications(load: Load, shape: str, seen: _Seen) -> Iterator[Measurement]:
    ratio = OPTIONS.size_ratio

    def mean(model: Callable[[str, float, int], float]) -> float:
        return fmean(model(shape, count, ratio) for count in seen.levels)

    moved = load.name == "rise"
    for name, value, textbook, most in (
        (WRITE, seen.write, 1.0 if moved else mean(write_amplification), seen.write),
        (SPACE, fmean(seen.space), space_amplification(shape, ratio), seen.most_space),
        (RUNS, fmean(seen.runs), mean(runs), max(seen.runs)),
        (ASKED, fmean(seen.asked), None, max(seen.asked)),
    ):
        detail = {"most": float(most)}
        if textbook is not None:
            detail["textbook"] = textbook
        yield _measurement(f"{load.name}: {name}", shape, value, detail)


def _cost(policy: str, seen: _Seen) -> Measurement:
    changes = sum(a != b for a, b in zip(seen.shapes, seen.shapes[1:], strict=False))
    detail = {"changes": float(changes)} if policy not in SHAPES else {}
    costs = [round(cost / 1000, 3) for cost in seen.costs[SAMPLE_EVERY - 1 :: SAMPLE_EVERY]]
    measured = _measurement(f"{CHANGING.name}: {COST}", policy, costs[-1], detail)
    measured.rounds[:] = costs
    return measured


def _measurement(case: str, engine: str, value: float, detail: dict[str, float]) -> Measurement:
    return Measurement(COMPACTION, case, engine, None, "x", value, 1, detail, [value])


def _verdicts(results: Results) -> Iterator[Verdict]:
    for load in LOADS:
        case = f"{load.name}: {SPACE}"
        found = results.find(case, LAZY_LEVELED, suite=COMPACTION)
        if found is not None:
            most = found.detail["most"]
            yield Verdict(
                COMPACTION,
                case,
                None,
                "most",
                None,
                most,
                "<=",
                SPACE_BOUND,
                "x",
                most <= SPACE_BOUND,
            )
