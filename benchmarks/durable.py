"""Synced writes: the engines' durable puts, and the bare system calls they cannot beat."""

from __future__ import annotations

import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, perf_counter_ns

from benchmarks.cases import DURABLE_PUTS_PER_THREAD, DURABLE_SECONDS, Timing
from benchmarks.engines.base import Sync, SyncEngine
from benchmarks.workload import Workload

_BLOCK = 4_096


def bare_sync(directory: Path) -> Timing:
    """One thread's ``pwrite`` of 4 KiB and ``fdatasync``, again and again, moving forward.

    The file was written full of zeros and synced before, so no write makes it grow: the least
    that a durable put can cost on this disk.
    """
    path = directory / "bare"
    block = os.urandom(_BLOCK)
    latencies = []
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, bytes(_BLOCK * DURABLE_PUTS_PER_THREAD), 0)
        os.fsync(descriptor)
        begun = perf_counter()
        for index in range(DURABLE_PUTS_PER_THREAD):
            started = perf_counter_ns()
            os.pwrite(descriptor, block, index * _BLOCK)
            os.fdatasync(descriptor)
            latencies.append(perf_counter_ns() - started)
            if perf_counter() - begun > DURABLE_SECONDS:
                break
        seconds = perf_counter() - begun
    finally:
        os.close(descriptor)
        path.unlink()
    return Timing("durable_put_1", len(latencies), seconds, percentiles(latencies))


def durable_put(
    engine_type: type[SyncEngine], path: Path, threads: int, workload: Workload
) -> Timing:
    """Puts of disjoint keys by ``threads`` threads at once, bounded in number and in time."""
    count = max(1, min(DURABLE_PUTS_PER_THREAD, workload.entries // threads))
    shares = [slice(at * count, (at + 1) * count) for at in range(threads)]
    with engine_type(path, Sync.DURABLE) as engine, ThreadPoolExecutor(threads) as pool:
        begun = perf_counter()

        def write(share: slice) -> list[int]:
            latencies = []
            for key, value in zip(workload.keys[share], workload.values[share], strict=True):
                started = perf_counter_ns()
                engine.put(key, value)
                latencies.append(perf_counter_ns() - started)
                if perf_counter() - begun > DURABLE_SECONDS:
                    break
            return latencies

        latencies = [nanoseconds for part in pool.map(write, shares) for nanoseconds in part]
        seconds = perf_counter() - begun
    return Timing(f"durable_put_{threads}", len(latencies), seconds, percentiles(latencies))


def percentiles(latencies: list[int]) -> dict[str, float]:
    """Median and 99th percentile, in microseconds, of ``latencies`` in nanoseconds."""
    p99 = statistics.quantiles(latencies, n=100)[98]
    return {"p50_us": statistics.median(latencies) / 1e3, "p99_us": p99 / 1e3}
