"""Threads and processes that databases share: who closes waits for nobody else's work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from seerdb.clock import SystemClock
from seerdb.storage.workers.lanes import Lane
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
