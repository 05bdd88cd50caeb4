"""Where jobs run, and what becomes of their results, errors and request counts."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seerdb.clock import SystemClock
from seerdb.errors import ClosedError, CorruptionError, NotFoundError, UnavailableError
from seerdb.storage.control import JobControl
from seerdb.storage.files import FileSystem
from seerdb.storage.jobs import LocalRunner, ProcessRunner
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Operation, Purpose, RequestMeter
from seerdb.storage.pace import Pace
from seerdb.storage.worker_processes import (
    PROCESSES,
    Pool,
    WorkerProcesses,
    patiently,
)
from seerdb.storage.workers import Workers
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import MemoryObjectStore


@dataclass(frozen=True)
class Copy:
    """Copy an object; ``fate`` is what else happens."""

    source: str
    target: str
    fate: str = ""


def run_copy(job: Copy, files: FileSystem, store: ObjectStore, pace: Pace) -> tuple[int, int]:
    """The size of the object and the process that copied it."""
    if job.fate == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.fate == "damaged":
        raise CorruptionError("bad bytes", name=job.source, offset=7, expected=1, found=2)
    data = store.get(job.source)
    store.put(job.target, data)
    return len(data), os.getpid()


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    workers = Workers("process", SystemClock())
    yield workers
    workers.close()


def test_a_local_job_runs_here_on_the_ports_of_the_database() -> None:
    store, files, asked = MemoryObjectStore(), CrashableFileSystem(), []

    def store_for(purpose: Purpose) -> ObjectStore:
        asked.append(purpose)
        return store

    store.put("a", b"12345")
    runner = LocalRunner(files, store_for)
    assert runner.run(run_copy, Copy("a", "b"), Purpose.FLUSH) == (5, os.getpid())
    assert (store.get("b"), asked) == (b"12345", [Purpose.FLUSH])


def runner_on(tmp_path: Path, workers: Workers) -> tuple[ProcessRunner, ObjectStore, RequestMeter]:
    location = StoreLocation(str(tmp_path / "bucket"))
    meter = RequestMeter()
    return ProcessRunner(workers, location, meter, lambda: False), location.open(), meter


def test_a_process_job_runs_elsewhere_and_its_requests_are_counted(
    tmp_path: Path, workers: Workers
) -> None:
    runner, store, meter = runner_on(tmp_path, workers)
    store.put("a", b"12345")
    size, process = runner.run(run_copy, Copy("a", "b"), Purpose.COMPACTION)
    assert size == 5
    assert process != os.getpid()
    assert store.get("b") == b"12345"
    counted = {(row.purpose, row.operation): row for row in meter.statistics()}
    assert counted.keys() == {
        (Purpose.COMPACTION, Operation.GET),
        (Purpose.COMPACTION, Operation.PUT),
    }
    assert counted[Purpose.COMPACTION, Operation.GET].bytes_in == 5
    runner.run(run_copy, Copy("a", "c"), Purpose.COMPACTION)
    assert meter.total_requests() == 4


class AskedProcesses(WorkerProcesses):
    """Run nothing, and tell where it was to be run."""

    def run(self, pool: Pool, function: Callable[..., Any], *args: Any) -> Any:
        return (pool, function is patiently), ()


@pytest.mark.parametrize("control", [None, JobControl()])
@pytest.mark.parametrize("purpose", Purpose)
def test_merges_have_processes_of_their_own_and_are_patient_unless_urgent(
    purpose: Purpose, control: JobControl | None
) -> None:
    workers, urgent = Workers("process", SystemClock()), False
    workers.processes = AskedProcesses()
    runner = ProcessRunner(workers, StoreLocation("/"), RequestMeter(), lambda: urgent)
    is_merge = purpose is Purpose.COMPACTION
    pool = Pool.MERGES if is_merge else Pool.PROMPT
    asked: list[Any] = [runner.run(run_copy, Copy("a", "b"), purpose, control)]
    urgent = True
    asked.append(runner.run(run_copy, Copy("a", "b"), purpose, control))
    assert asked == [(pool, is_merge), (pool, False)]
    workers.close()


def test_as_many_merges_run_at_once_as_have_processes(tmp_path: Path, workers: Workers) -> None:
    runner, _, _ = runner_on(tmp_path, workers)
    assert runner.at_once == PROCESSES[Pool.MERGES]


@dataclass(frozen=True)
class Watched:
    """Read an object again and again until the job is cancelled."""

    source: str


def run_watched(job: Watched, files: FileSystem, store: ObjectStore, pace: Pace) -> None:
    while True:
        store.get_range(job.source, 0, 2)
        pace(3)


def test_a_process_tells_how_far_it_is_and_can_be_stopped(tmp_path: Path, workers: Workers) -> None:
    runner, store, _ = runner_on(tmp_path, workers)
    store.put("a", b"12345")
    control = JobControl()
    with ThreadPoolExecutor(1) as caller:
        job = caller.submit(runner.run, run_watched, Watched("a"), Purpose.COMPACTION, control)
        while control.counts.entries < 30 and not job.done():
            pass
        control.cancel()
        with pytest.raises(ClosedError, match="cancelled"):
            job.result(60)
    assert control.counts.read >= 20
    again = JobControl()
    again.rate = 1 << 20
    runner.run(run_copy, Copy("a", "b"), Purpose.COMPACTION, again)
    assert again.counts == (0, 5, 0)


def test_errors_come_back_whole(tmp_path: Path, workers: Workers) -> None:
    runner, _, _ = runner_on(tmp_path, workers)
    with pytest.raises(CorruptionError, match="bad bytes") as error:
        runner.run(run_copy, Copy("a", "b", "damaged"), Purpose.FLUSH)
    assert (error.value.name, error.value.offset, error.value.expected) == ("a", 7, 1)
    with pytest.raises(NotFoundError):
        runner.run(run_copy, Copy("none", "b"), Purpose.FLUSH)


def test_a_worker_that_dies_costs_an_attempt(tmp_path: Path, workers: Workers) -> None:
    runner, store, _ = runner_on(tmp_path, workers)
    store.put("a", b"1")
    with pytest.raises(UnavailableError, match="a worker process died; its job runs again"):
        runner.run(run_copy, Copy("a", "b", "die"), Purpose.FLUSH)
    assert runner.run(run_copy, Copy("a", "b"), Purpose.FLUSH)[0] == 1
