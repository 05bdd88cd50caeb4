"""What servers ask of their buckets while nobody asks anything of them, counted.

Two databases: a primary as it is by default, with a follower of each kind; and a primary that keeps
a lease, as ``serve --standby`` does, with its standby. Some writes, a flush, and then nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.replication.bucket import Bucket
from benchmarks.replication.requests import Requests, dollars_a_month
from benchmarks.results import REPLICATION, Sample
from benchmarks.servers.base import http_client
from benchmarks.servers.seerdb import SeerDBServer
from seerdb.clock import SystemClock

PRIMARY, LEASED = "idle_primary", "idle_lease"
FOLLOWER, LIVE_FOLLOWER, STANDBY = "idle_follower", "idle_live_follower", "idle_standby"
CASES = (PRIMARY, FOLLOWER, LIVE_FOLLOWER, LEASED, STANDBY)
REST_SECONDS = 15.0
"""After the writes, until what they began has come to its end: flushes, merges, and followers that
look more often while log comes."""
_WRITES = 1_000
MINUTE = 60.0


def measure_idle(bucket: Bucket, name: str, work: Path, seconds: float) -> Iterator[Sample]:
    """All servers side by side, watched for so long."""
    with ExitStack() as stack:

        def serve(case: str, database: str, **settings: Any) -> SeerDBServer:
            (work / case).mkdir()
            whole = {**bucket.settings(f"{name}-{database}"), **settings}
            return stack.enter_context(SeerDBServer(work / case, whole))

        primary, leased = serve(PRIMARY, "plain"), serve(LEASED, "leased", standby=True)
        for server in (primary, leased):
            _write_and_flush(server)
        servers = {
            PRIMARY: primary,
            FOLLOWER: serve(FOLLOWER, "plain", replica=True),
            LIVE_FOLLOWER: serve(LIVE_FOLLOWER, "plain", replica=True, primary=primary.url),
            LEASED: leased,
            STANDBY: serve(STANDBY, "leased", standby=True),
        }
        clock = SystemClock()
        clock.sleep(REST_SECONDS)
        before = {case: Requests.of(server) for case, server in servers.items()}
        begun = clock.monotonic()
        clock.sleep(seconds)
        for case, server in servers.items():
            after = Requests.of(server)
            passed = clock.monotonic() - begun
            seen = after.since(before[case])
            dollars = dollars_a_month(before[case], after, passed)
            count = sum(seen.values())
            detail = {**seen, "dollars_per_month": dollars}
            a_minute = count * MINUTE / passed
            yield Sample(
                REPLICATION, case, server.name, None, "requests/min", a_minute, int(count), detail
            )


def _write_and_flush(server: SeerDBServer) -> None:
    server.load([(f"k{number:06}", "v" * 100) for number in range(_WRITES)])
    with http_client(server.url) as client:
        client.post("/v1/admin/flush").raise_for_status()
