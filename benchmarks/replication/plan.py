"""What a run on followers and failover consists of: rounds of each case, in turns."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.bulk import build, clear
from benchmarks.replication.bucket import DIRECTORY, Bucket, open_bucket
from benchmarks.replication.failover import FAILOVER, measure_failover
from benchmarks.replication.first_read import FIRST_READ, measure_first_read
from benchmarks.replication.idle import measure_idle
from benchmarks.replication.lag import measure_lag
from benchmarks.replication.shipping import SHIPPING, measure_shipping
from benchmarks.results import Results, Sample
from benchmarks.servers.base import ServerFailedError
from seerdb import SeerDBError

LAG, IDLE = "lag", "idle"
CASES = (LAG, SHIPPING, IDLE, FAILOVER, FIRST_READ)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """``cases`` in turns, ``rounds`` times; loads and idleness for ``seconds``; idleness once."""

    cases: tuple[str, ...]
    rounds: int
    seconds: float
    idle_seconds: float
    mebibytes: int
    """Of the database that a follower is to open."""
    store: str = DIRECTORY
    seed: int = 1


def measure_plan(plan: Plan, results: Results, work: Path, progress: Progress) -> None:
    """Run ``plan`` below ``work`` and add what it found to ``results``. A case that fails is noted
    there and left out of later rounds."""
    samples: list[Sample] = []
    options = results.settings["store_options"]
    with open_bucket(plan.store, options, work) as bucket:
        run = _Run(plan, bucket, work, results.tag)
        for number in range(plan.rounds):
            for case in plan.cases:
                if case in results.failed or (case == IDLE and number):
                    continue
                progress(f"round {number + 1} of {plan.rounds}: {case}")
                try:
                    samples += run.round_of(case, number, progress)
                except (ServerFailedError, SeerDBError, httpx.HTTPError, OSError) as error:
                    results.failed[case] = f"{type(error).__name__}: {error}"
    results.add(samples)


class _Run:
    def __init__(self, plan: Plan, bucket: Bucket, work: Path, tag: str) -> None:
        self._plan = plan
        self._bucket = bucket
        self._work = work
        self._tag = tag

    def round_of(self, case: str, number: int, progress: Progress) -> list[Sample]:
        """Run one round of a case, in a new directory and a new database; neither stays."""
        bucket = self._bucket
        with self._directory() as work:
            name = f"{work.name}-{self._tag}"
            try:
                return self._measure(case, number, name, work, progress)
            finally:
                clear(bucket.url, bucket.options, name)

    def _measure(
        self, case: str, number: int, name: str, work: Path, progress: Progress
    ) -> list[Sample]:
        plan, bucket = self._plan, self._bucket
        if case == LAG:
            return list(measure_lag(bucket, name, work, plan.seconds, plan.seed + number))
        if case == SHIPPING:
            on_first = number % 2 == 0
            return [measure_shipping(bucket, name, work, plan.seconds, on_first=on_first)]
        if case == IDLE:
            return list(measure_idle(bucket, name, work, plan.idle_seconds))
        if case == FAILOVER:
            return [measure_failover(bucket, name, work)]
        large = f"large-{plan.mebibytes}"
        self._build(large, progress)
        seed = plan.seed + number
        return [measure_first_read(bucket, large, work, plan.mebibytes, seed)]

    def _build(self, name: str, progress: Progress) -> None:
        bucket = self._bucket
        path = self._work / f"{self._plan.store.replace('/', '_')}-{name}"
        store = f"{bucket.url}/{name}"
        build(path, self._plan.mebibytes, progress, store=store, store_options=bucket.options)

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        os.sync()
        with tempfile.TemporaryDirectory(dir=self._work) as name:
            yield Path(name)
