"""Full merges of a loaded tree: how fast on one processor, and with how much memory in a worker.

The tree is made by a process of its own (``fill_runs.py``), so that its memory is not counted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter, process_time

from benchmarks.cases import COMPACT, COMPACT_PROCESS, Task, Timing
from benchmarks.engines import engine_class
from benchmarks.engines.base import Engine
from benchmarks.engines.seerdb import SeerDBEngine
from benchmarks.fill_runs import RUNS, parts
from benchmarks.processes import MIB, descendants, memory

_CHECKED = 100


def compact(task: Task) -> Timing:
    """Merge ``RUNS`` runs into one, with every thread of the engine on the same processor.

    ``cpu_seconds`` and ``peak_rss_mib`` are those of the whole process.
    """
    path = _filled(task)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with engine_class(task.engine).quiet(path) as engine:
        before = process_time()
        timing = _merge(engine, COMPACT, task)
        timing.detail["cpu_seconds"] = process_time() - before
        timing.detail["peak_rss_mib"] = memory(os.getpid(), "VmHWM") / MIB
        _check(engine, task)
    return timing


def compact_process(task: Task) -> Timing:
    """The same by worker processes, on any processor.

    ``worker_rss_mib`` is the most that one of them ever had in memory, ``rss_mib`` the most that
    the process had whose database it is.
    """
    path = _filled(task)
    with SeerDBEngine.quiet(path, background="process") as engine:
        timing = _merge(engine, COMPACT_PROCESS, task)
        here = os.getpid()
        workers = [memory(child, "VmHWM") for child in descendants(here)]
        timing.detail["worker_rss_mib"] = max(workers) / MIB
        timing.detail["rss_mib"] = memory(here, "VmHWM") / MIB
        _check(engine, task)
    return timing


def _filled(task: Task) -> Path:
    """Where a process of its own has left the runs, written back."""
    path = Path(task.directory) / "runs"
    arguments = (task.engine, str(path), str(task.entries), str(task.seed))
    subprocess.run([sys.executable, "-m", "benchmarks.fill_runs", *arguments], check=True)
    os.sync()
    return path


def _merge(engine: Engine, case: str, task: Task) -> Timing:
    detail = {"input_mib": engine.table_bytes() / MIB}
    started = perf_counter()
    engine.merge()
    seconds = perf_counter() - started
    detail["output_mib"] = engine.table_bytes() / MIB
    return Timing(case, task.entries // RUNS * RUNS, seconds, detail)


def _check(engine: Engine, task: Task) -> None:
    """Some pairs of every run are there. Raises: ``ValueError`` where one is not."""
    for part in parts(task.entries, task.seed):
        for key, value in zip(part.keys[:_CHECKED], part.values[:_CHECKED], strict=True):
            if engine.read(key) != value:
                raise ValueError(f"{engine.name} lost {key!r} in a merge")
