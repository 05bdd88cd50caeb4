"""Where jobs run, and what becomes of their results, errors and request counts."""

from __future__ import annotations

import multiprocessing.spawn
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seerdb.clock import SystemClock
from seerdb.errors import ClosedError, CorruptionError, NotFoundError, WorkerError
from seerdb.storage.jobs import runners as jobs_module
from seerdb.storage.jobs.control import JobControl
from seerdb.storage.jobs.runners import MOST_STORES, LocalRunner, ProcessRunner
from seerdb.storage.local.files import FileSystem
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.meter import Operation, Purpose, RequestMeter
from seerdb.storage.workers import job_process
from seerdb.storage.workers.job_process import promptly
from seerdb.storage.workers.pace import Pace
from seerdb.storage.workers.processes import (
    PROCESSES,
    Pool,
    WorkerProcesses,
    patiently,
)
from seerdb.storage.workers.threads import Workers
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


def test_a_job_has_its_place_but_while_it_waits_for_its_store() -> None:
    """One that waited for its bucket kept the place in which others could have built."""
    places, free = threading.Semaphore(1), []

    class Store(MemoryObjectStore):
        def get(self, name: str) -> bytes:
            free.append(places.acquire(blocking=False))
            places.release()
            return super().get(name)

    def run(job: str, files: FileSystem, store: ObjectStore, pace: Pace) -> None:
        free.append(places.acquire(blocking=False))
        store.get(job)

    store = Store()
    runner = LocalRunner(CrashableFileSystem(), lambda _: store, flushes=places)
    with pytest.raises(NotFoundError):
        runner.run(run, "none", Purpose.FLUSH)
    assert free == [False, True]
    assert places.acquire(blocking=False), "it has left its place"


def runner_on(tmp_path: Path, workers: Workers) -> tuple[ProcessRunner, ObjectStore, RequestMeter]:
    location = StoreLocation(str(tmp_path / "bucket"))
    meter = RequestMeter()
    store = location.open()
    here = LocalRunner(OsFileSystem(), lambda _: store)
    return ProcessRunner(workers, location, meter, lambda _: False, here), store, meter


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
    assert sum(row.requests for row in meter.statistics()) == 4


def read_whole(path: Path, files: FileSystem, store: ObjectStore, pace: Pace) -> str:
    """Of a named pipe: until whoever opened it for writing closes it."""
    return path.read_text()


def test_a_flush_runs_here_when_others_have_all_processes(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two databases whose bucket stalled kept all others from flushing."""
    monkeypatch.setattr(jobs_module, "FLUSH_PATIENCE", 0)
    runner, store, _ = runner_on(tmp_path, workers)
    store.put("a", b"12345")
    gates = [tmp_path / str(number) for number in range(PROCESSES[Pool.PROMPT])]
    for gate in gates:
        os.mkfifo(gate)
    with ThreadPoolExecutor(len(gates) + 1) as callers, ExitStack() as opened:
        for gate in gates:
            callers.submit(runner.run, read_whole, gate, Purpose.INGEST)
            opened.enter_context(gate.open("w"))  # once the job reads
        flush = callers.submit(runner.run, run_copy, Copy("a", "b"), Purpose.FLUSH)
        assert flush.result(60) == (5, os.getpid())


def test_a_flush_runs_here_where_no_process_can_be_started(tmp_path: Path) -> None:
    """An interpreter that was replaced under a running server kept it from flushing for ever."""
    workers = Workers("process", SystemClock())
    runner, store, _ = runner_on(tmp_path, workers)
    store.put("a", b"12345")
    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable("/no/such/python")
    try:
        assert runner.run(run_copy, Copy("a", "b"), Purpose.FLUSH) == (5, os.getpid())
        with pytest.raises(WorkerError, match=r"no worker process can be started: .*python"):
            runner.run(run_copy, Copy("a", "c"), Purpose.COMPACTION)
    finally:
        multiprocessing.set_executable(before)
    size, process = runner.run(run_copy, Copy("a", "c"), Purpose.COMPACTION)
    assert (size, process != os.getpid()) == (5, True)
    workers.close()


@pytest.mark.parametrize("program", ["exit 3", "exec sleep 60"])
def test_a_flush_runs_here_where_processes_do_not_come_to_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """Those that ended at their start, as without memory, threads or the modules that were there
    before an upgrade, kept it from flushing for ever."""
    monkeypatch.setattr(job_process, "ASK_SECONDS", 0.01)
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\n{program}\n")
    interpreter.chmod(0o700)
    with closing(Workers("process", SystemClock())) as workers:
        runner, store, _ = runner_on(tmp_path, workers)
        store.put("a", b"12345")
        with monkeypatch.context() as patch:
            patch.setattr(job_process, "get_executable", lambda: str(interpreter))
            workers.prepare()
            assert runner.run(run_copy, Copy("a", "b"), Purpose.FLUSH) == (5, os.getpid())
            with pytest.raises(WorkerError, match="no worker process can be started: process"):
                runner.run(run_copy, Copy("a", "c"), Purpose.COMPACTION)
        monkeypatch.undo()
        size, process = runner.run(run_copy, Copy("a", "c"), Purpose.FLUSH)
        assert (size, process != os.getpid()) == (5, True)


def test_a_worker_keeps_the_stores_that_it_opened_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It kept one for each location it ever had a job for, and for each debt of a clone."""
    monkeypatch.setattr(jobs_module, "_stores", jobs_module._stores.copy())
    locations = [StoreLocation(str(tmp_path / str(n))) for n in range(MOST_STORES + 1)]
    first = weakref.ref(jobs_module._store_at(locations[0]))
    for location in locations[1:]:
        assert first() is jobs_module._store_at(locations[0])
        jobs_module._store_at(location)
    assert first() is None
    kept = jobs_module._store_at(locations[1])
    assert kept is jobs_module._store_at(locations[1])


class AskedProcesses(WorkerProcesses):
    """Run nothing, and tell where it was to be run, and how."""

    def run(self, pool: Pool, function: Callable[..., Any], *args: Any, **patience: Any) -> Any:
        return (pool, function if function in (patiently, promptly) else None), ()


@pytest.mark.parametrize("control", [None, JobControl()])
@pytest.mark.parametrize("purpose", Purpose)
def test_merges_have_processes_of_their_own_and_jobs_give_way_unless_urgent(
    purpose: Purpose, control: JobControl | None
) -> None:
    workers, urgent = Workers("process", SystemClock()), set[Purpose]()
    workers.processes = AskedProcesses()
    here = LocalRunner(OsFileSystem(), lambda _: MemoryObjectStore())
    location = StoreLocation("/")
    runner = ProcessRunner(workers, location, RequestMeter(), urgent.__contains__, here)
    pool = Pool.MERGES if purpose is Purpose.COMPACTION else Pool.PROMPT
    asked: list[Any] = [runner.run(run_copy, Copy("a", "b"), purpose, control)]
    urgent.add(purpose)
    asked.append(runner.run(run_copy, Copy("a", "b"), purpose, control))
    patient = patiently if purpose is Purpose.COMPACTION else None
    prompt = promptly if purpose is Purpose.FLUSH else None
    assert asked == [(pool, patient), (pool, prompt)]
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
    store.put("tables/a", b"12345")
    control = JobControl()
    with ThreadPoolExecutor(1) as caller:
        watched = Watched("tables/a")
        job = caller.submit(runner.run, run_watched, watched, Purpose.COMPACTION, control)
        while control.counts.entries < 30 and not job.done():
            pass
        control.cancel()
        with pytest.raises(ClosedError, match="cancelled"):
            job.result(60)
    assert control.counts.read >= 20
    again = JobControl()
    again.rate = 1 << 20
    runner.run(run_copy, Copy("tables/a", "b"), Purpose.COMPACTION, again)
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
    with pytest.raises(WorkerError, match="a worker process died; its job runs again"):
        runner.run(run_copy, Copy("a", "b", "die"), Purpose.FLUSH)
    assert runner.run(run_copy, Copy("a", "b"), Purpose.FLUSH)[0] == 1
