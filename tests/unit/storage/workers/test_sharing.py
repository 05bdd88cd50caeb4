"""Threads and processes that databases share: who closes waits for nobody else's work."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from seerdb.clock import SystemClock
from seerdb.errors import ClosedError
from seerdb.storage.workers.cluster import Cluster
from seerdb.storage.workers.lanes import Lane
from seerdb.storage.workers.processes import PROCESSES, Pool, WorkerProcesses
from seerdb.storage.workers.threads import COMPACTION_THREADS, Workers

PATIENCE = 60


def goes_on(*_: object) -> bool:
    return True


def test_a_lane_closes_though_others_have_all_threads() -> None:
    """A database did not close before merges of others were done, be it in hours."""
    workers = Workers("thread", SystemClock())
    all_at_work, gate = threading.Barrier(COMPACTION_THREADS + 1), threading.Event()

    def hold() -> bool:
        all_at_work.wait(PATIENCE)
        gate.wait(PATIENCE)
        return False

    def lane(work: Callable[[], bool]) -> Lane:
        return Lane("compaction", work, workers, goes_on, submit=workers.submit_compaction)

    holding = [lane(hold) for _ in range(COMPACTION_THREADS)]
    for each in holding:
        each.wake()
    all_at_work.wait(PATIENCE)
    worked = threading.Event()

    def work() -> bool:
        worked.set()
        return False

    late = lane(work)
    late.wake()
    with ThreadPoolExecutor(1) as closer:
        closed = closer.submit(late.close)
        try:
            closed.result(PATIENCE / 6)
        finally:
            gate.set()
    for each in holding:
        each.close()
    workers.close()
    assert not worked.is_set()


def read_whole(path: str) -> str:
    return Path(path).read_text()


def test_two_that_close_at_once_both_come_to_an_end(tmp_path: Path) -> None:
    """Each had taken one process, and waited for that of the other."""
    processes, most = WorkerProcesses(), PROCESSES[Pool.PROMPT]
    gates = [tmp_path / f"gate{number}" for number in range(most)]
    with ThreadPoolExecutor(2 * most) as threads, ExitStack() as stack:
        for gate in gates:
            os.mkfifo(gate)
        jobs = [threads.submit(processes.run, Pool.PROMPT, read_whole, str(g)) for g in gates]
        held = [stack.enter_context(gate.open("w")) for gate in gates]
        closers = [threads.submit(processes.close) for _ in range(most)]
        for pipe, job in zip(held, jobs, strict=True):
            SystemClock().sleep(0.1)  # so that all who close wait
            pipe.write("done")
            pipe.close()
            assert job.result(PATIENCE) == "done"
        try:
            for closer in closers:
                closer.result(PATIENCE / 6)
        except TimeoutError:
            for _ in range(most):
                processes._pools[Pool.PROMPT]._idle.put(None)  # or this test would never end
            raise


def test_a_connection_that_is_closed_twice_at_once_ends_once() -> None:
    pytest.importorskip("distributed")
    workers = Workers("inline", SystemClock())
    cluster = Cluster("127.0.0.1:1", workers.start_thread)
    cluster._running_loop()
    thread = cast(threading.Thread, cluster._thread)

    class Slow:
        def join(self) -> None:
            cluster.close()  # as another thread does meanwhile
            thread.join()

    cluster._thread = cast(threading.Thread, Slow())
    cluster.close()
    assert not thread.is_alive()
    workers.close()


def test_nothing_begins_alone_after_the_close() -> None:
    processes = WorkerProcesses()
    processes.close()
    with pytest.raises(ClosedError, match="close it after its databases"):
        processes.run_alone(os.getpid)
