"""Runs the embedded cases of one engine in this process, and times them.

Every read case counts what it found and fails if that is not what was stored, so no engine
is fast by answering wrongly. Reads run on a database that was loaded, flushed, closed and
opened again; each is preceded by an untimed run over another sample of the same kind.
The garbage collector stays on, as users have it; what the harness itself holds is frozen.
"""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time

from benchmarks.cases import (
    BARE,
    BATCH_SIZE,
    COMPACT,
    COMPACT_PROCESS,
    COST_IDLE,
    DURABLE_THREADS,
    INGEST_CASES,
    MULTI_GET_SIZE,
    READ_CASES,
    READS,
    RECOVERY_ENTRIES,
    Task,
    Timing,
)
from benchmarks.costs import cost_idle
from benchmarks.durable import bare_sync, durable_put
from benchmarks.engines import OURS, engine_class
from benchmarks.engines.base import Engine, Sync, SyncEngine
from benchmarks.merging import compact, compact_process
from benchmarks.processes import wait_until_quiet
from benchmarks.sustained import sustained_ingest
from benchmarks.workload import Workload

_CHECKED_VALUES = 100


_TREE: dict[str, Callable[[Task], Timing]] = {
    COMPACT: compact,
    COMPACT_PROCESS: compact_process,
    **{case: partial(sustained_ingest, case) for case in INGEST_CASES},
    COST_IDLE: cost_idle,
}
"""What each of ``TREE_CASES`` does."""


class WrongAnswerError(Exception):
    """An engine did not return what was stored."""


def run_task(task: Task) -> list[Timing]:
    """Every timing of ``task``. Raises: ``ImportError`` where the engine is not installed."""
    if task.engine == BARE:
        return [bare_sync(Path(task.directory))]
    timings = _Bench(task, engine_class(task.engine)).timings()
    found = [timing for timing in timings if timing.case in task.cases]
    return found + [_TREE[case](task) for case in task.cases if _takes_part(task.engine, case)]


def _takes_part(engine: str, case: str) -> bool:
    """In a case of the tree: SeerDB in all of them, others where they can be asked to merge."""
    return case in _TREE and (engine == OURS or (case == COMPACT and engine_class(engine).merges))


class _Bench:
    """One engine and its directories. The order of the cases is fixed by what they need."""

    def __init__(self, task: Task, engine: type[Engine]) -> None:
        self._task = task
        self._engine = engine
        self._root = Path(task.directory)
        self._workload = Workload(self._limited("load", task.entries), task.seed)

    def timings(self) -> Iterator[Timing]:
        """Run the wanted cases and those they need, yielding each as it ends."""
        wanted = self._task.cases
        if "put" in wanted:
            yield self._put()
        if {"batch_put", "reopen", *READ_CASES} & set(wanted):
            loaded = self._root / "loaded"
            yield self._load(loaded)
            yield from self._reopen_and_read(loaded)
        for threads in DURABLE_THREADS:
            case = f"durable_put_{threads}"
            if case in wanted and self._engine.durable and issubclass(self._engine, SyncEngine):
                yield durable_put(self._engine, self._root / case, threads, self._workload)
        if "recovery" in wanted and self._engine.replays_log:
            yield self._recovery()

    def _limited(self, what: str, count: int) -> int:
        return min(count, self._engine.limits.get(what, count))

    def _put(self) -> Timing:
        count = self._limited("put", self._workload.entries)
        keys, values = self._workload.keys[:count], self._workload.values[:count]
        path = self._root / "put"
        timing = self._write("put", path, count, lambda engine: engine.put_each(keys, values))
        shutil.rmtree(path)
        return timing

    def _load(self, path: Path) -> Timing:
        batches = self._workload.batches(BATCH_SIZE)
        count = self._workload.entries
        return self._write("batch_put", path, count, lambda engine: engine.put_batches(batches))

    def _write(self, case: str, path: Path, count: int, action: Callable[[Engine], None]) -> Timing:
        with _harness_frozen(), self._engine(path, Sync.MEMORY) as engine:
            writing = _Stopwatch()
            action(engine)
            timing = writing.timing(case, count)
            engine.flush()
            flushed = writing.timing(case, count)
            wait_until_quiet()  # an engine that is closed first gives up the merges it has begun
        if self._engine.has_tables:
            timing.detail["to_tables_per_second"] = count / flushed.seconds
        return timing

    def _reopen_and_read(self, path: Path) -> Iterator[Timing]:
        keys, values = self._workload.keys, self._workload.values
        started = perf_counter()
        engine = self._engine(path, Sync.MEMORY)
        opened = perf_counter()
        requests = engine.store_requests()
        with engine:
            first = engine.read(keys[0])
            detail = {"first_get_ms": (perf_counter() - started) * 1e3}
            if requests is not None:
                detail["store_requests"] = requests
            yield Timing("reopen", 1, opened - started, detail)
            answers = [first, *map(engine.read, keys[1:_CHECKED_VALUES])]
            if answers != values[:_CHECKED_VALUES]:
                raise WrongAnswerError(f"{self._engine.name}: values differ from what was stored")
            for case in READ_CASES:
                if case in self._task.cases:
                    yield self._read(case, engine)

    def _read(self, case: str, engine: Engine) -> Timing:
        if case in ("scan", "scan_reverse"):
            walk = engine.scan if case == "scan" else engine.scan_reverse
            entries = self._workload.entries
            return _warmed(case, walk, walk, operations=entries, expected=entries)
        count = self._limited("read", min(self._workload.entries, READS))
        draw = {
            "get_hot": self._workload.hot,
            "get_uniform": self._workload.uniform,
            "get_missing": self._workload.missing,
            "multi_get": self._workload.uniform,
        }[case]
        warm, timed = draw(count, 1), draw(count, 2)
        if case == "multi_get":
            first, second = _groups(warm), _groups(timed)
            return _warmed(
                case,
                lambda: engine.multi_get_each(first),
                lambda: engine.multi_get_each(second),
                operations=count,
                expected=count,
            )
        return _warmed(
            case,
            lambda: engine.get_each(warm),
            lambda: engine.get_each(timed),
            operations=count,
            expected=0 if case == "get_missing" else count,
        )

    def _recovery(self) -> Timing:
        count = min(self._workload.entries, RECOVERY_ENTRIES)
        keys = Workload(count, self._task.seed).keys
        path = self._root / "recovery"
        arguments = (self._task.engine, str(path), str(count), str(self._task.seed))
        subprocess.run([sys.executable, "-m", "benchmarks.fill_and_die", *arguments], check=True)
        started = perf_counter()
        engine = self._engine(path, Sync.MEMORY)
        seconds = perf_counter() - started
        with engine:
            replayed = engine.replayed_records()
            _expect("recovery", engine.get_each(keys), count)
        return Timing("recovery", count if replayed is None else replayed, seconds)


def _warmed(
    case: str,
    warm: Callable[[], int],
    timed: Callable[[], int],
    *,
    operations: int,
    expected: int,
) -> Timing:
    with _harness_frozen():
        _expect(case, warm(), expected)
        watch = _Stopwatch()
        found = timed()
        timing = watch.timing(case, operations)
    _expect(case, found, expected)
    return timing


class _Stopwatch:
    """Runs from when it is made; also counts this thread's time on a processor.

    Where that is less than the time that passed, the thread waited: for a disk, for other
    threads of the engine, or because the machine was busy with something else.
    """

    def __init__(self) -> None:
        self._started = perf_counter()
        self._cpu_started = thread_time()

    def timing(self, case: str, operations: int) -> Timing:
        """What it shows now."""
        seconds = perf_counter() - self._started
        on_cpu = thread_time() - self._cpu_started
        return Timing(
            case, operations, seconds, {"cpu_us_per_operation": on_cpu / operations * 1e6}
        )


def _groups(keys: list[bytes]) -> list[list[bytes]]:
    return [keys[start : start + MULTI_GET_SIZE] for start in range(0, len(keys), MULTI_GET_SIZE)]


def _expect(case: str, found: int, expected: int) -> None:
    if found != expected:
        raise WrongAnswerError(f"{case}: found {found} keys where {expected} are stored")


@contextmanager
def _harness_frozen() -> Iterator[None]:
    """Keep the harness's own lists out of the collector's work, without turning it off."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
