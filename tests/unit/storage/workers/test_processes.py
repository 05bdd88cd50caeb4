"""Worker processes: how many there are, to whom they give way, and what their ends mean. Nothing
here waits for time to pass: a job that is to last reads a named pipe that the test holds open."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from seerdb.clock import SystemClock
from seerdb.errors import ClosedError
from seerdb.storage.workers import job_process, shared_numbers
from seerdb.storage.workers.job_process import JobProcess, ProcessDied, promptly
from seerdb.storage.workers.processes import (
    JOB_NICENESS,
    PATIENT_NICENESS,
    PROCESSES,
    NotStarted,
    Pool,
    patiently,
)
from seerdb.storage.workers.shared_numbers import Board
from seerdb.storage.workers.threads import Workers

PATIENCE = 60


@pytest.fixture(scope="module")
def processes() -> Iterator[Workers]:
    workers = Workers("process", SystemClock())
    yield workers
    workers.close()


@pytest.mark.parametrize("pool", Pool)
def test_worker_processes_run_return_raise_and_come_back(processes: Workers, pool: Pool) -> None:
    worker = processes.processes.run(pool, os.getpid)
    assert worker != os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        processes.processes.run(pool, int, "x")
    with pytest.raises(ProcessDied):
        processes.processes.run(pool, os._exit, 1)
    assert processes.processes.run(pool, os.getpid) not in (worker, os.getpid())


def test_one_that_died_while_it_was_idle_is_replaced_unnoticed(processes: Workers) -> None:
    worker = processes.processes.run(Pool.PROMPT, os.getpid)
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    assert processes.processes.run(Pool.PROMPT, os.getpid) != worker


@pytest.mark.parametrize("pool", Pool)
def test_a_worker_that_dies_leaves_all_others_alone(pool: Pool, tmp_path: Path) -> None:
    workers, gate = Workers("process", SystemClock()), tmp_path / "gate"
    os.mkfifo(gate)
    run = workers.processes.run
    [other] = set(Pool) - {pool}
    elsewhere = run(other, os.getpid)
    with ThreadPoolExecutor(1) as caller:
        beside = caller.submit(run, pool, read_whole, str(gate))
        with gate.open("w") as held:  # waits until the job reads
            with pytest.raises(ProcessDied):
                run(pool, patiently, os._exit, 1)
            assert run(other, os.getpid) == elsewhere
            held.write("done")
        assert beside.result(PATIENCE) == "done"
    workers.close()


@pytest.mark.parametrize("pool", [*Pool, None])
def test_calls_that_are_cut_off_raise_as_of_a_worker_that_died(
    pool: Pool | None, tmp_path: Path
) -> None:
    workers, gate = Workers("process", SystemClock()), tmp_path / "gate"
    os.mkfifo(gate)
    processes = workers.processes
    with ThreadPoolExecutor(1) as caller:
        if pool is None:
            call = caller.submit(processes.run_alone, read_whole, str(gate))
        else:
            call = caller.submit(processes.run, pool, read_whole, str(gate))
        with gate.open("w"):  # waits until the job reads
            processes.cut_off()
            with pytest.raises(ProcessDied):
                call.result(PATIENCE)
    with pytest.raises(ClosedError):
        processes.run(pool or Pool.PROMPT, os.getpid)
    workers.close()


NICENESS = os.PRIO_PROCESS, 0
"""Of who asks; on Linux that is a thread."""


@pytest.mark.parametrize("pool", Pool)
def test_a_patient_job_is_behind_all_others_and_the_next_one_where_it_was(
    processes: Workers, pool: Pool
) -> None:
    here = os.getpriority(*NICENESS)
    job, patient = min(here + JOB_NICENESS, 19), PATIENT_NICENESS
    worker = processes.processes.run(pool, os.getpid)
    assert [
        processes.processes.run(pool, os.getpriority, *NICENESS),
        processes.processes.run(pool, patiently, os.getpriority, *NICENESS),
        processes.processes.run(pool, os.getpriority, *NICENESS),
    ] == [job, patient, job]
    assert processes.processes.run(pool, patiently, os.getpid) == worker
    assert os.getpriority(os.PRIO_PROCESS, worker) == job
    assert processes.processes.run_alone(os.getpriority, *NICENESS) == patient
    assert os.getpriority(*NICENESS) == here


@pytest.mark.parametrize("pool", Pool)
def test_a_prompt_job_gives_way_to_nobody_and_the_next_one_does(
    processes: Workers, pool: Pool
) -> None:
    here = os.getpriority(*NICENESS)
    job = min(here + JOB_NICENESS, 19)
    worker = processes.processes.run(pool, os.getpid)
    assert [
        processes.processes.run(pool, promptly, os.getpriority, *NICENESS),
        processes.processes.run(pool, os.getpriority, *NICENESS),
        processes.processes.run(pool, promptly, os.getpriority, *NICENESS),
    ] == [here, job, here]
    assert processes.processes.run(pool, promptly, os.getpid) == worker
    assert promptly(os.getpriority, *NICENESS) == here


@pytest.mark.parametrize("way", [patiently, promptly])
def test_a_job_raises_what_it_raised_however_it_gives_way(
    processes: Workers, way: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        processes.processes.run(Pool.MERGES, way, int, "x")


def test_a_worker_that_dies_in_a_prompt_job_is_replaced(processes: Workers) -> None:
    with pytest.raises(ProcessDied):
        processes.processes.run(Pool.PROMPT, promptly, os._exit, 1)
    assert processes.processes.run(Pool.PROMPT, promptly, int, "1") == 1


def read_whole(path: str) -> str:
    """Of a named pipe: until whoever opened it for writing closes it."""
    return Path(path).read_text()


def test_nobody_prepares_for_jobs_while_all_processes_have_some(tmp_path: Path) -> None:
    """It waited for the ingests of other databases that share the processes."""
    workers, most = Workers("process", SystemClock()), PROCESSES[Pool.PROMPT]
    gates = [tmp_path / str(number) for number in range(most)]
    for gate in gates:
        os.mkfifo(gate)
    run = workers.processes.run
    with ThreadPoolExecutor(most + 1) as callers, ExitStack() as opened:
        jobs = [callers.submit(run, Pool.PROMPT, read_whole, str(gate)) for gate in gates]
        held = [opened.enter_context(gate.open("w")) for gate in gates]  # until the job reads
        callers.submit(workers.prepare).result(PATIENCE)
        assert not any(job.done() for job in jobs)
        for each in held:
            each.close()
        assert [job.result(PATIENCE) for job in jobs] == [""] * most
    workers.close()


def test_merges_in_all_of_their_processes_keep_no_flush_waiting(tmp_path: Path) -> None:
    workers, most = Workers("process", SystemClock()), PROCESSES[Pool.MERGES]
    gates = [tmp_path / str(number) for number in range(most)]
    for gate in gates:
        os.mkfifo(gate)
    run = workers.processes.run
    with ThreadPoolExecutor(most + 1) as callers, ExitStack() as opened:
        merges = [callers.submit(run, Pool.MERGES, read_whole, str(gate)) for gate in gates]
        held = [opened.enter_context(gate.open("w")) for gate in gates]  # until the merge reads
        assert callers.submit(run, Pool.PROMPT, max, 1, 2).result(PATIENCE) == 2
        assert not any(merge.done() for merge in merges)
        for each in held:
            each.write("merged")
            each.close()
        assert [merge.result(PATIENCE) for merge in merges] == ["merged"] * most
    workers.close()


def children() -> set[int]:
    """The processes that this one has started and not waited for."""
    listed = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return {int(pid) for each in listed for pid in each}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux for its children")
def test_processes_are_started_when_they_are_needed_and_ended_by_the_close() -> None:
    before, workers = children(), Workers("process", SystemClock())
    assert children() == before
    for _ in range(3):
        workers.processes.run(Pool.PROMPT, os.getpid)
    assert len(children() - before) == 1, "one is enough for one after the other"
    started = {workers.processes.run(pool, os.getpid) for pool in Pool}
    assert children() - before == started
    workers.close()
    assert children() == before
    for pool in Pool:
        for _ in range(PROCESSES[pool] + 1):
            with pytest.raises(ClosedError, match="close it after its databases"):
                workers.processes.run(pool, os.getpid)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux for its children")
def test_a_process_that_was_prepared_takes_the_first_job() -> None:
    before, workers = children(), Workers("process", SystemClock())
    for _ in range(2):
        workers.processes.prepare(Pool.PROMPT)
    [prepared] = children() - before
    assert workers.processes.run(Pool.PROMPT, os.getpid) == prepared
    workers.close()
    workers.processes.prepare(Pool.PROMPT)
    assert children() == before


def test_nothing_is_prepared_where_no_process_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error of Python's came out of it, and ``seerdb serve`` did not start."""
    with closing(Workers("process", SystemClock())) as workers:
        with monkeypatch.context() as patch:
            patch.setattr(job_process, "get_executable", lambda: "/no/such/python")
            workers.prepare()
            with pytest.raises(NotStarted, match="/no/such/python"):
                workers.processes.run(Pool.PROMPT, int, "1")
            with pytest.raises(NotStarted, match="/no/such/python"):
                workers.processes.run_alone(int, "1")
        assert workers.processes.run(Pool.PROMPT, int, "1") == 1


def test_an_outcome_that_nobody_takes_ends_its_process_without_a_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A worker whose server was killed printed a stack of Python."""
    with closing(Board()) as board, closing(JobProcess(board.fileno(), 0)) as process:
        process.call(int)
        with socket.socket(fileno=os.dup(process._calls.fileno())) as end:
            end.shutdown(socket.SHUT_RD)
        process._calls.send_bytes(pickle.dumps((int, ())))
        assert process._process.wait(PATIENCE) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux for its descriptors")
def test_numbers_without_room_are_told_as_no_process_and_leave_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A merge asked to be reported as a bug, and each attempt left a descriptor."""

    def no_memory(descriptor: int) -> memoryview:
        raise OSError(errno.ENOMEM, "no memory")

    with closing(Workers("process", SystemClock())) as workers:
        before = len(list(Path("/proc/self/fd").iterdir()))
        with monkeypatch.context() as patch:
            patch.setattr(shared_numbers, "_numbers_in", no_memory)
            with pytest.raises(NotStarted, match="no memory"):
                workers.processes.run(Pool.PROMPT, int, "1")
            with pytest.raises(NotStarted, match="no memory"), workers.processes.shared_numbers():
                pass
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert workers.processes.run(Pool.PROMPT, int, "1") == 1
