"""How soon a follower of a large database answers: from the start of its process on an empty
directory to its first reply, and what it has fetched by then."""

from __future__ import annotations

from pathlib import Path

import httpx

from benchmarks.bulk import count_of, key_of
from benchmarks.replication.bucket import Bucket
from benchmarks.replication.requests import Requests
from benchmarks.results import REPLICATION, Sample
from benchmarks.servers.base import ServerFailedError, http_client
from benchmarks.servers.seerdb import SeerDBServer
from seerdb.clock import SystemClock

FIRST_READ = "first_read"
_POLL_SECONDS = 0.005
_LONGEST_SECONDS = 60.0


def measure_first_read(bucket: Bucket, name: str, work: Path, mebibytes: int, seed: int) -> Sample:
    """One round: the database ``name`` is there, and of ``mebibytes``."""
    key = key_of(seed * 7919 % count_of(mebibytes)).decode()
    server = SeerDBServer(work, {**bucket.settings(name), "replica": True})
    clock = SystemClock()
    try:
        with http_client(server.url) as client:
            begun = clock.monotonic()
            server.start()
            reply = _first_reply(client, f"/v1/kv/{key}", begun + _LONGEST_SECONDS)
            seconds = clock.monotonic() - begun
        if reply.status_code != 200:
            raise ServerFailedError(f"the follower answers {reply.status_code}: {reply.text}")
        requests = Requests.of(server)
    finally:
        server.stop()
    detail = {
        "fetched_mb": requests.total("bytes_in") / 1e6,
        "requests": requests.total("requests"),
        "mebibytes": float(mebibytes),
    }
    return Sample(REPLICATION, FIRST_READ, server.name, None, "ms", seconds * 1e3, 1, detail)


def _first_reply(client: httpx.Client, path: str, deadline: float) -> httpx.Response:
    clock = SystemClock()
    while True:
        try:
            return client.get(path)
        except httpx.TransportError as error:
            if clock.monotonic() > deadline:
                raise ServerFailedError("the follower does not answer") from error
            clock.sleep(_POLL_SECONDS)
