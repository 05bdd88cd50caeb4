"""What the bucket of a database is asked, and what that costs at the default prices.

Requests are counted by the database itself; a bucket in a directory is asked what one at Amazon
would be. What is kept and what is transferred costs on top of it.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.cases import BATCH_SIZE, COST_IDLE, IDLE_ENTRIES, Task, Timing
from benchmarks.processes import wait_until_quiet
from benchmarks.workload import overwriting
from seerdb import DB
from seerdb.clock import SystemClock

MONTH_SECONDS = 730 * 3_600.0

SLATEDB_IDLE_DOLLARS = 4.8
"""A month, published by the slatedb-benchmark project for version 0.15.0 on S3 Standard in
us-east-1: idle, 3.57 GETs and 0.08 LISTs a second ($3.75 and $1.05 at the prices we use). SlateDB's
own blog says less than $5, and $40 before they reduced it."""

Requests = dict[str, tuple[int, float]]
"""``<purpose>_<operation>`` -> how many, and their price in dollars."""


def requests(db: DB) -> Requests:
    """All since the database was opened, in worker processes too."""
    rows = db.statistics().store_requests
    return {f"{row.purpose}_{row.operation}": (row.requests, row.dollars) for row in rows}


def since(before: Requests, after: Requests) -> Requests:
    """What came on top, kinds that did not left out."""
    more = {}
    for kind, (count, dollars) in after.items():
        old_count, old_dollars = before.get(kind, (0, 0.0))
        if count > old_count:
            more[kind] = (count - old_count, dollars - old_dollars)
    return more


def total(counted: Requests) -> tuple[int, float]:
    """All requests, and all dollars."""
    return sum(count for count, _ in counted.values()), sum(cost for _, cost in counted.values())


def cost_idle(task: Task) -> Timing:
    """A database that was written to, flushed and merged, and then is open and nothing else.

    The operations are its requests while it is watched; ``dollars_per_month`` is what they come
    to if all months go on like that.
    """
    with DB.open(str(Path(task.directory) / "idle")) as db:
        for pairs in overwriting(IDLE_ENTRIES, IDLE_ENTRIES // 2, BATCH_SIZE, task.seed):
            with db.batch() as batch:
                for key, value in pairs:
                    batch.put(key, value)
        db.flush()
        wait_until_quiet()
        before = requests(db)
        SystemClock().sleep(task.idle_seconds)
        seen = since(before, requests(db))
        count, dollars = total(seen)
        detail: dict[str, float] = {kind: seen[kind][0] for kind in seen}
        detail["dollars_per_month"] = dollars * MONTH_SECONDS / task.idle_seconds
        detail["slatedb_dollars_per_month"] = SLATEDB_IDLE_DOLLARS
        return Timing(COST_IDLE, count, task.idle_seconds, detail)
