"""The embedded suite: rounds of fresh processes, one per engine, each after the other.

The order is A B C A B C …, so that what changes on the machine during the run changes for
all. Nothing else is started meanwhile, and what one engine left to write back is synced
before the next one starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import (
    BARE,
    CASES,
    DURABLE_CASES,
    IDLE_SECONDS,
    TREE_CASES,
    UNSCALED_CASES,
    Task,
    Timing,
)
from benchmarks.engines import ENGINES, OURS, PEERS
from benchmarks.results import EMBEDDED, Results, Sample

_PROCESS_SECONDS = 1_800
"""How long one round of one engine may take."""

LEAST_ENTRIES = 100
"""With fewer some cases have nothing to take percentiles of."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure: ``rounds`` times, each case of each engine at each number of entries."""

    entries: tuple[int, ...] = (200_000,)
    rounds: int = 3
    engines: tuple[str, ...] = (OURS, *PEERS)
    cases: tuple[str, ...] = CASES
    seed: int = 1
    idle_seconds: float = IDLE_SECONDS

    def __post_init__(self) -> None:
        if min(self.entries, default=0) < LEAST_ENTRIES:
            raise ValueError(f"numbers of entries are {LEAST_ENTRIES} or more")
        for what, chosen, known in (
            ("engine", self.engines, ENGINES),
            ("case", self.cases, (*CASES, *TREE_CASES)),
        ):
            unknown = sorted(set(chosen) - set(known))
            if unknown:
                raise ValueError(f"unknown {what} {', '.join(unknown)}; known are {known}")

    def tasks(self) -> Iterator[tuple[int, str, tuple[str, ...]]]:
        """Entries, engine and cases of every process, in order.

        Cases of fixed size go with the first number of entries.
        """
        for position, entries in enumerate(self.entries):
            cases = [c for c in self.cases if position == 0 or c not in UNSCALED_CASES]
            bare = [BARE] if DURABLE_CASES[0] in cases else []
            for _round in range(self.rounds):
                for engine in [*self.engines, *bare]:
                    yield entries, engine, tuple(cases) if engine != BARE else DURABLE_CASES[:1]


def measure_embedded(plan: Plan, results: Results, work: Path, progress: Progress) -> None:
    """Run ``plan`` below ``work`` and add what it found to ``results``.

    An engine that is absent or fails is noted there and left out of later rounds.
    """
    samples: list[Sample] = []
    tasks = [task for task in plan.tasks() if task[2]]
    for number, (entries, engine, cases) in enumerate(tasks, 1):
        if engine in results.absent or engine in results.failed:
            continue
        progress(f"{number}/{len(tasks)}: {engine}, {entries:,} entries")
        with tempfile.TemporaryDirectory(dir=work) as directory:
            os.sync()
            task = Task(engine, entries, cases, directory, plan.seed, plan.idle_seconds)
            samples += [_sample(timing, task) for timing in _run_process(task, results)]
    results.add(samples)


def _run_process(task: Task, results: Results) -> list[Timing]:
    """The timings of ``task``; none, and a note in ``results``, where it could not be run."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.worker"],
            input=json.dumps(task.to_json()),
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROCESS_SECONDS,
        )
    except subprocess.TimeoutExpired:
        results.failed[task.engine] = f"still running after {_PROCESS_SECONDS} s"
        return []
    if done.returncode:
        results.failed[task.engine] = done.stderr.strip()
        return []
    answer = json.loads(done.stdout)
    if "timings" in answer:
        return [Timing(**timing) for timing in answer["timings"]]
    notes = results.failed if task.engine == OURS else results.absent
    notes[task.engine] = answer["absent"]
    return []


def _sample(timing: Timing, task: Task) -> Sample:
    scale = task.entries if timing.case not in UNSCALED_CASES else None
    if timing.case == "reopen":
        unit, value = "ms", timing.seconds * 1e3
    else:
        unit, value = "ops/s", timing.operations / timing.seconds
    return Sample(
        EMBEDDED, timing.case, task.engine, scale, unit, value, timing.operations, timing.detail
    )
