"""How far followers are behind a primary that takes durable writes at a fixed pace.

A round: a primary in an empty directory, a follower of it that reads live or through the bucket,
the paced writer and the probes, each a process of its own. Rounds of the two kinds take turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import family_seconds
from benchmarks.replication.bucket import Bucket
from benchmarks.replication.probe import probe_follower
from benchmarks.replication.requests import Requests, seconds_each
from benchmarks.replication.writer import writing
from benchmarks.results import REPLICATION, Sample
from benchmarks.servers.base import ServerFailedError
from benchmarks.servers.seerdb import SeerDBServer
from seerdb.clock import SystemClock

LIVE, BUCKET = "lag_live", "lag_bucket"
WRITES_PER_SECOND = 5_000
PROBES_PER_SECOND = 30
SHIP_INTERVAL = 1.0
"""The default, in seconds."""
SETTLE_SECONDS = 2.0
"""Of writes before the first probe."""
_READY_SECONDS = 30.0


def measure_lag(
    bucket: Bucket, name: str, work: Path, seconds: float, seed: int
) -> Iterator[Sample]:
    """One round of each kind."""
    for case in (LIVE, BUCKET):
        (work / case).mkdir()
        yield _Round(bucket, f"{name}-{case}", work / case, case).measure(seconds, seed)


class _Round:
    def __init__(self, bucket: Bucket, name: str, work: Path, case: str) -> None:
        self._settings = bucket.settings(name)
        self._work = work
        self._case = case

    def measure(self, seconds: float, seed: int) -> Sample:
        primary_directory, follower_directory = self._work / "primary", self._work / "follower"
        primary_directory.mkdir()
        follower_directory.mkdir()
        with SeerDBServer(primary_directory, self._settings) as primary:
            primary.load([("first", "1")])
            following: dict[str, Any] = {**self._settings, "replica": True}
            if self._case == LIVE:
                following["primary"] = primary.url
            with SeerDBServer(follower_directory, following) as follower:
                _wait_until_following(follower, live=self._case == LIVE)
                return self._under_load(primary, follower, seconds, seed)

    def _under_load(
        self, primary: SeerDBServer, follower: SeerDBServer, seconds: float, seed: int
    ) -> Sample:
        clock = SystemClock()
        load = 2 * SETTLE_SECONDS + seconds
        with writing(primary.url, self._work, per_second=WRITES_PER_SECOND, seconds=load) as writer:
            clock.sleep(SETTLE_SECONDS)
            used = [family_seconds(server.process_id) for server in (primary, follower)]
            begun = clock.monotonic()
            lags = probe_follower(
                primary.url,
                follower.url,
                per_second=PROBES_PER_SECOND,
                seconds=seconds,
                seed=seed,
            )
            passed = clock.monotonic() - begun
            cpu = [
                (family_seconds(server.process_id) - before) / passed
                for server, before in zip((primary, follower), used, strict=True)
            ]
            written = writer.outcome()
        detail = {
            **summary(lags),
            **allowed(Requests.of(primary), Requests.of(follower)),
            "writes_per_second": written.acknowledged / load,
            "write_p50_ms": written.p50_ms,
            "write_p99_ms": written.p99_ms,
            "write_failed": float(written.failed),
            "writer_cpu": written.cpu_seconds / load,
            "primary_cpu": cpu[0],
            "follower_cpu": cpu[1],
        }
        p99 = detail["p99_ms"]
        return Sample(REPLICATION, self._case, follower.name, None, "ms", p99, len(lags), detail)


def summary(lags: list[float]) -> dict[str, float]:
    """What many lags come to."""
    p50, p90, p99 = (float(found) for found in np.percentile(lags, [50, 90, 99]))
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "max_ms": max(lags)}


def allowed(primary: Requests, follower: Requests) -> dict[str, float]:
    """What the log needs through the bucket: the interval of shipping, the mean of the requests
    that put it there, and of those that get it, which are the two round trips."""
    put = seconds_each(primary, "wal", "put_if_absent")
    got = seconds_each(follower, "wal", "get")
    trips = {"put_ms": put * 1e3, "get_ms": got * 1e3}
    return {**trips, "allowed_ms": SHIP_INTERVAL * 1e3 + sum(trips.values())}


def _wait_until_following(follower: SeerDBServer, *, live: bool) -> None:
    clock = SystemClock()
    deadline = clock.monotonic() + _READY_SECONDS
    while not (follower.is_ready() and follower.status()["is_live"] == live):
        if clock.monotonic() > deadline:
            raise ServerFailedError("the follower does not follow")
        clock.sleep(0.05)
