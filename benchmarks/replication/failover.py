"""A primary that dies under load, and its standby: how long until writes are accepted again, and
what became of those that were acknowledged.

Both run as ``serve --standby`` with default settings. Every acknowledged write is asked for
afterwards. What is missing was of level ``local``; the client that presents it by its seq is to
hear that it is lost, and that is done for a sample. The standby is read all the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import httpx

from benchmarks.replication.bucket import Bucket
from benchmarks.replication.reader import reading
from benchmarks.replication.writer import key_of, level_of, writing
from benchmarks.results import REPLICATION, Sample
from benchmarks.servers.base import ServerFailedError, http_client
from benchmarks.servers.seerdb import SeerDBServer
from seerdb.clock import SystemClock

FAILOVER = "failover"
WRITES_PER_SECOND = 2_000
OBJECT_EVERY = 50
WATCH_SECONDS = 8.0
"""Of load before the end: longer than a lease, so that the standby has seen renewals."""
_POLL_SECONDS = 0.02
_LONGEST_SECONDS = 60.0
_KEYS_AT_ONCE = 500
_SAMPLE = 100


def measure_failover(bucket: Bucket, name: str, work: Path) -> Sample:
    """One round. Raises: ``ServerFailedError`` where the standby does not take over."""
    settings = {**bucket.settings(name), "standby": True}
    for directory in (work / "a", work / "b"):
        directory.mkdir()
    with SeerDBServer(work / "a", settings) as primary:
        _wait_until_it_writes(primary)
        with SeerDBServer(work / "b", settings) as standby:
            return _fail_over(primary, standby, work)


def _fail_over(primary: SeerDBServer, standby: SeerDBServer, work: Path) -> Sample:
    load = writing(
        primary.url,
        work,
        per_second=WRITES_PER_SECOND,
        seconds=_LONGEST_SECONDS,
        object_every=OBJECT_EVERY,
    )
    with load as writer, reading(standby.url) as reader:
        SystemClock().sleep(WATCH_SECONDS)
        primary.kill()
        seconds = _wait_until_it_writes(standby)
        outcome = writer.outcome()
    acknowledged = writer.acknowledged()
    with http_client(standby.url) as client:
        report = client.post("/v1/admin/promote").raise_for_status().json()
        kept = set(_kept(client, acknowledged))
        missing = {n: seq for n, seq in acknowledged.items() if n not in kept}
        lost_object = [n for n in missing if level_of(n, OBJECT_EVERY) == "object"]
        epoch = report["previous"]["epoch"]
        told = [_is_told(client, epoch, missing[n]) for n in sorted(missing)[:: _step(missing)]]
    lost = report["lost"] or {"from": 0, "to": -1}
    detail = {
        "acknowledged": float(outcome.acknowledged),
        "writes_per_second": outcome.per_second,
        "object_lost": float(len(lost_object)),
        "local_lost": float(len(missing) - len(lost_object)),
        "in_report": float(sum(lost["from"] <= seq <= lost["to"] for seq in missing.values())),
        "reads": float(reader.reads),
        "reads_failed": float(reader.failed),
        "reads_went_back": float(reader.went_back),
        "longest_read_ms": reader.longest_ms,
        "untold": float(told.count(False)),
        "missing_below_seq": float(sum(seq <= report["seq"] for seq in missing.values())),
    }
    return Sample(
        REPLICATION, FAILOVER, standby.name, None, "s", seconds, outcome.acknowledged, detail
    )


def _step(missing: dict[int, int]) -> int:
    """So that about a sample of them is asked for."""
    return max(1, len(missing) // _SAMPLE)


def _wait_until_it_writes(server: SeerDBServer) -> float:
    """Write until that is accepted; the seconds it took."""
    clock = SystemClock()
    begun = clock.monotonic()
    with http_client(server.url) as client:
        while clock.monotonic() - begun < _LONGEST_SECONDS:
            try:
                if client.put("/v1/kv/probe", content=b"v").is_success:
                    return clock.monotonic() - begun
            except httpx.TransportError:
                pass  # it may be starting, or stopping
            clock.sleep(_POLL_SECONDS)
    raise ServerFailedError(f"no write was accepted in {_LONGEST_SECONDS} s")


def _kept(client: httpx.Client, numbers: Iterable[int]) -> Iterable[int]:
    """Those whose keys are there."""
    wanted = list(numbers)
    for start in range(0, len(wanted), _KEYS_AT_ONCE):
        chunk = wanted[start : start + _KEYS_AT_ONCE]
        reply = client.post("/v1/mget", json={"keys": [key_of(number) for number in chunk]})
        for number, item in zip(chunk, reply.raise_for_status().json()["items"], strict=True):
            if item["value"] is not None:
                yield number


def _is_told(client: httpx.Client, epoch: int, seq: int) -> bool:
    """Whether a client that relies on that commit hears that it is lost."""
    token = {"seerdb-epoch": str(epoch), "seerdb-min-seq": str(seq)}
    reply = client.get("/v1/kv/probe", headers=token)
    return reply.status_code == 409 and reply.json()["type"] == "urn:seerdb:lost"
