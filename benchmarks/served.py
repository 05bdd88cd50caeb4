"""The HTTP suite: every server in turn, in rounds, under the same load.

A round starts a server in an empty directory, stores 100,000 pairs, checks that it answers
with what was stored, loads it, and ends it. The order is A B C D A B C D ….
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path

import httpx

from benchmarks import wrk
from benchmarks.compacting import fill, merging, warm
from benchmarks.ingest import measure_ingest
from benchmarks.results import HTTP, Results, Sample
from benchmarks.servers import SERVER_NAMES, SERVERS
from benchmarks.servers.base import HOST, Pair, Server, ServerFailedError
from benchmarks.servers.seerdb import SeerDBServer
from benchmarks.workload import VALUE_SIZE, Workload
from seerdb.clock import SystemClock

Progress = Callable[[str], None]

PUT_CONNECTIONS = (1, 32, 128)
GET_CONNECTIONS = (32, 128)
PEER_CASES = (
    *(f"http_put_{connections}" for connections in PUT_CONNECTIONS),
    *(f"http_get_{connections}" for connections in GET_CONNECTIONS),
)
OWN_CASES = (
    "http_get_idle",
    "http_get_busy",
    "http_get_rest",
    "http_get_compacting",
    "ingest",
)
"""Measured on our server alone."""

BUSY_CONNECTIONS = 32
BUSY_SETTINGS = {"memtable_capacity": 4 << 20}
"""Small, so that flushes and compactions follow each other while it is measured: the work per
byte written is the same, in more and smaller pieces."""

MERGED_ENTRIES = 100_000
"""Of 1 KiB, beside the pairs that are read: what each merge of the compacting case rewrites. All
of it fits into the block cache."""

_WARM_SECONDS = 1.0
_CHECKED = 100
_SETTLE_SECONDS = 2.0
"""Between the start of the writer and that of the load beside it."""


@dataclass(frozen=True)
class Plan:
    """How long and how often: each load for ``seconds``, in each of ``rounds``."""

    rounds: int = 3
    seconds: float = 5.0
    pairs: int = 100_000
    ingest_mib: int = 2_048
    servers: tuple[str, ...] = SERVER_NAMES
    seed: int = 1

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.servers) - set(SERVER_NAMES)):
            raise ValueError(f"unknown server {', '.join(unknown)}; known are {SERVER_NAMES}")

    def chosen(self) -> list[type[Server]]:
        """The servers to measure, ours first."""
        return [server for server in SERVERS if server.name in self.servers]


def measure_http(plan: Plan, results: Results, work: Path, progress: Progress) -> None:
    """Run ``plan`` below ``work`` and add what it found to ``results``.

    A server that is absent or fails is noted there and left out of later rounds.
    """
    if lack := wrk.missing():
        results.absent["wrk"] = lack
        return
    suite = _Suite(plan, work, progress)
    samples: list[Sample] = []
    for round_number in range(1, plan.rounds + 1):
        for server in plan.chosen():
            if server.name in results.absent or server.name in results.failed:
                continue
            if lack := server.missing():
                results.absent[server.name] = lack
                continue
            progress(f"round {round_number}/{plan.rounds}: {server.name}")
            with _failure_noted(server, results):
                samples += suite.round_of(server)
                if server is SeerDBServer:
                    samples += suite.busy_round()
                    samples += suite.compacting_round()
    ours = SeerDBServer.name
    if ours in plan.servers and ours not in results.absent and ours not in results.failed:
        with _failure_noted(SeerDBServer, results):
            samples.append(suite.ingest())
    results.add(samples)


@contextmanager
def _failure_noted(server: type[Server], results: Results) -> Iterator[None]:
    """Keep what the other servers showed when one fails."""
    try:
        yield
    except (ServerFailedError, httpx.HTTPError, LookupError, OSError) as error:
        results.failed[server.name] = f"{type(error).__name__}: {error}"


class _Suite:
    """The loads, and what they draw from."""

    def __init__(self, plan: Plan, work: Path, progress: Progress) -> None:
        self._plan = plan
        self._work = work
        self._progress = progress
        keys = [key.decode() for key in Workload(plan.pairs, plan.seed).keys]
        self._stored = list(zip(keys, _values(plan, "stored"), strict=True))
        self._written = list(zip(keys, _values(plan, "written"), strict=True))

    def round_of(self, server_type: type[Server]) -> Iterator[Sample]:
        """Every load of one server, started afresh."""
        with self._directory() as directory, server_type(directory) as server:
            self._prepare(server, directory)
            if server.writes:
                for connections in PUT_CONNECTIONS:
                    yield self._load(server, f"http_put_{connections}", directory, connections)
            for connections in GET_CONNECTIONS:
                yield self._load(server, f"http_get_{connections}", directory, connections)

    def busy_round(self) -> Iterator[Sample]:
        """GETs from our server alone, then with a second process writing beside them."""
        with self._directory() as directory, SeerDBServer(directory, BUSY_SETTINGS) as server:
            self._prepare(server, directory)
            yield self._load(server, "http_get_idle", directory, BUSY_CONNECTIONS)
            seconds = self._plan.seconds + _WARM_SECONDS + 2 * _SETTLE_SECONDS
            command = [sys.executable, "-m", "benchmarks.writer", server.url, str(seconds)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
                assert writer.stdout is not None
                if writer.stdout.readline() != "ready\n":
                    raise ServerFailedError("the writer beside the GETs did not start")
                SystemClock().sleep(_SETTLE_SECONDS)
                before = server.maintenance()
                sample = self._load(server, "http_get_busy", directory, BUSY_CONNECTIONS)
                after = server.maintenance()
                outcome = writer.stdout.readline()
            if writer.returncode:
                raise ServerFailedError("the writer beside the GETs failed")
            sample.detail.update(json.loads(outcome))
            sample.detail.update({name: after[name] - before[name] for name in after})
            yield sample

    def compacting_round(self) -> Iterator[Sample]:
        """GETs from our server with a tree at rest, then while it is merged as a whole, again and
        again; nothing else is written but an entry before each merge, without which there would
        be nothing to do."""
        with self._directory() as directory, SeerDBServer(directory) as server:
            self._prepare(server, directory)
            fill(server, MERGED_ENTRIES)
            warm(server, [key for key, _ in self._stored])
            yield self._load(server, "http_get_rest", directory, BUSY_CONNECTIONS)
            with merging(server) as merges:
                SystemClock().sleep(_SETTLE_SECONDS)
                before = server.maintenance()
                sample = self._load(server, "http_get_compacting", directory, BUSY_CONNECTIONS)
                after = server.maintenance()
            sample.detail.update({name: after[name] - before[name] for name in after})
            sample.detail["merging_share"] = merges.share
            yield sample

    def ingest(self) -> Sample:
        """The large load; once, for its memory does not depend on the round."""
        with self._directory() as directory, SeerDBServer(directory) as server:
            return measure_ingest(server, self._plan.ingest_mib, self._progress)

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        os.sync()
        with tempfile.TemporaryDirectory(dir=self._work) as name:
            yield Path(name)

    def _prepare(self, server: Server, directory: Path) -> None:
        server.load(self._stored)
        wrk.write_requests(directory / "get", [server.get_request(k) for k, _ in self._stored])
        if server.writes:
            _check(server, self._stored[:_CHECKED])
            requests = [server.put_request(*pair) for pair in self._written]
            wrk.write_requests(directory / "put", requests)
            _answer(server, requests[0])
            _check(server, self._written[:1])

    def _load(self, server: Server, case: str, directory: Path, connections: int) -> Sample:
        requests = directory / ("put" if "put" in case else "get")
        for seconds in (_WARM_SECONDS, self._plan.seconds):
            seen = wrk.run_load(
                server.url,
                requests,
                connections=connections,
                seconds=seconds,
                seed=self._plan.seed + round(seconds),
            )
        detail = {"p50_us": seen.p50_us, "p99_us": seen.p99_us}
        return Sample(
            HTTP, case, server.name, None, "req/s", seen.per_second, seen.requests, detail
        )


def _values(plan: Plan, purpose: str) -> Iterator[str]:
    """A value of 100 bytes for each pair, half of it random digits."""
    source = random.Random(f"{plan.seed}/{purpose}")
    half = VALUE_SIZE // 2
    digits = source.randbytes(plan.pairs * half // 2).hex()
    for start in range(0, len(digits), half):
        yield digits[start : start + half] + "x" * (VALUE_SIZE - half)


def _check(server: Server, pairs: list[Pair]) -> None:
    """Ask for ``pairs`` by the very requests that are timed.

    Raises: ``ServerFailedError`` where an answer does not hold the value.
    """
    for key, value in pairs:
        answer = _answer(server, server.get_request(key))
        if server.in_answer(value).encode() not in answer:
            raise ServerFailedError(f"{server.name} answers {answer!r} for {key}")


def _answer(server: Server, request: str) -> bytes:
    """The body that comes back for ``request``."""
    with socket.create_connection((HOST, server.port), timeout=10) as connection:
        connection.sendall(request.encode())
        response = HTTPResponse(connection)
        response.begin()
        return response.read()
