"""A load that does not end: does a database stay as fast and as small as it began?

All settings are defaults but for where the work is done: every batch is synced, the tree is
lazy leveled. Half as many keys as entries, drawn at random, so that most of what is written
replaces something. Only the time in calls of the database counts; what is done in the background
goes on meanwhile, and between the calls.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter

from benchmarks import costs
from benchmarks.cases import BATCH_SIZE, INGEST_CASES, Task, Timing
from benchmarks.processes import MIB, family_memory, wait_until_quiet
from benchmarks.workload import overwriting
from benchmarks.write_model import BYTES_A_GIGABYTE, WriteModel
from seerdb import DB

TENTHS = 10
KEY_SHARE = 0.5
"""Keys for each entry that is written."""

_WARM_TENTHS = 3
_LOOK_EVERY = 10
"""Batches between two looks at the size of the tree."""
_WEIGH_EVERY = 50
"""Batches between two looks at the memory: that of workers comes and goes with their jobs."""

Batches = Iterator[list[tuple[bytes, bytes]]]


def sustained_ingest(case: str, task: Task) -> Timing:
    """Load in tenths, each with its rate and its memory, then let the tree come to rest.

    ``rss_mib_..`` is the most that this process and its workers were seen to have. ``write..`` are,
    after three tenths, bytes written to tables for each that a flush wrote: counted, and by the
    models of ``write_model.py``. ``space`` is the tables' size over what a full merge leaves of
    them, at rest; ``space_at_end`` the same right after the last flush.
    """
    tenth = max(1, task.entries // BATCH_SIZE // TENTHS)
    entries = tenth * TENTHS * BATCH_SIZE
    batches = overwriting(entries, int(entries * KEY_SHARE), BATCH_SIZE, task.seed)
    path = str(Path(task.directory) / case)
    with DB.open(path, background=INGEST_CASES[case]) as db:
        model = WriteModel(db, KEY_SHARE)
        opened = costs.requests(db)
        detail: dict[str, float] = {}
        rates, memories = [], []
        for number in range(1, TENTHS + 1):
            if number == _WARM_TENTHS + 1:
                model.begin()
            seconds, most = _write(db, islice(batches, tenth), model)
            rates.append(tenth * BATCH_SIZE / seconds)
            memories.append(most / MIB)
            detail[f"rate_{number:02}"], detail[f"rss_mib_{number:02}"] = rates[-1], memories[-1]
        db.flush()
        model.look()
        at_end = db.statistics().table_bytes
        detail["rest_seconds"] = wait_until_quiet()
        detail |= _after(db, model, entries, at_end, opened)
    detail["last_over_first"] = rates[-1] / rates[0]
    half = TENTHS // 2
    detail["rss_growth"] = max(memories[half:]) / max(memories[:half])
    return Timing(case, entries, sum(tenth * BATCH_SIZE / rate for rate in rates), detail)


def _write(db: DB, batches: Batches, model: WriteModel) -> tuple[float, int]:
    """Seconds spent in calls of the database, and the most bytes in memory meanwhile."""
    seconds, most = 0.0, 0
    for number, pairs in enumerate(batches):
        started = perf_counter()
        with db.batch() as batch:
            put = batch.put
            for key, value in pairs:
                put(key, value)
        seconds += perf_counter() - started
        if number % _LOOK_EVERY == 0:
            model.look()
        if number % _WEIGH_EVERY == 0:
            most = max(most, family_memory(os.getpid()))
    return seconds, most


def _after(
    db: DB, model: WriteModel, entries: int, at_end: int, opened: costs.Requests
) -> dict[str, float]:
    """What the database has counted, at rest; merges all of it for an exact measure of space."""
    statistics = db.statistics()
    asked = costs.since(opened, costs.requests(db))
    _count, dollars = costs.total(asked)
    gigabytes = statistics.amplifications.user_bytes / BYTES_A_GIGABYTE
    at_rest = statistics.table_bytes
    stalls = statistics.stalls
    db.compact()
    live = db.statistics()
    return {
        **{f"{kind}_per_gb": asked[kind][0] / gigabytes for kind in asked},
        "dollars_per_gb": dollars / gigabytes,
        **model.amplifications(statistics),
        "write_with_compression": statistics.amplifications.write,
        "space": at_rest / live.table_bytes,
        "space_at_end": at_end / live.table_bytes,
        "space_estimate": statistics.amplifications.space,
        "runs": statistics.runs,
        "flushes": statistics.flushes.flushes,
        "compactions": statistics.compactions.compactions,
        "stalled_seconds": stalls.stalled_seconds + stalls.slowed_seconds,
        "overwritten": 1 - live.table_entries / entries,
    }
