"""A large load through ``POST /v1/batch``, and how much memory the server's processes took."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from time import perf_counter

import httpx
import msgspec

from benchmarks.processes import MIB, descendants_memory, memory
from benchmarks.results import HTTP, Sample
from benchmarks.servers.base import http_client
from benchmarks.servers.seerdb import SeerDBServer
from seerdb.clock import SystemClock

BATCH_ENTRIES = 1_000
VALUE_BYTES = 1_024
_HELD_BACK = (429, 503)


def batch_bodies(count: int, entries: int, seed: int) -> Iterator[bytes]:
    """``count`` request bodies of ``entries`` puts: new random keys, values of 1 KiB.

    Half of a value is random hexadecimal digits, half is one repeated letter.
    """
    source = random.Random(f"ingest/{seed}")
    half = VALUE_BYTES // 2
    digits = source.randbytes(64 * half).hex()
    rest = "v" * (VALUE_BYTES - half)
    encode = msgspec.json.Encoder().encode
    for _ in range(count):
        ops = []
        for _ in range(entries):
            start = source.randrange(len(digits) - half)
            key = f"{source.getrandbits(64):016x}"
            ops.append({"op": "put", "key": key, "value": digits[start : start + half] + rest})
        yield encode({"ops": ops})


def post_batch(client: httpx.Client, body: bytes) -> int:
    """Post until it is acknowledged; returns how often the server asked to wait."""
    for held_back in range(1_000):
        reply = client.post("/v1/batch", content=body, headers={"content-type": "application/json"})
        if reply.status_code not in _HELD_BACK:
            reply.raise_for_status()
            return held_back
        SystemClock().sleep(float(reply.headers.get("retry-after", 1)))
    reply.raise_for_status()
    return held_back


def measure_ingest(server: SeerDBServer, mebibytes: int, progress: Callable[[str], None]) -> Sample:
    """Load ``mebibytes`` of values into a started ``server`` and flush.

    ``server_rss_mib`` is the largest resident memory of the serving process,
    ``workers_rss_mib`` the largest sum over its child processes at one moment.
    """
    count = mebibytes * MIB // (BATCH_ENTRIES * VALUE_BYTES)
    workers_rss = held_back = 0
    seconds = 0.0
    with http_client(server.url) as client:
        for number, body in enumerate(batch_bodies(count, BATCH_ENTRIES, seed=4)):
            started = perf_counter()
            held_back += post_batch(client, body)
            seconds += perf_counter() - started
            workers_rss = max(workers_rss, descendants_memory(server.process_id))
            if number % 100 == 0:
                progress(f"ingest: {number}/{count} batches")
        client.post("/v1/admin/flush").raise_for_status()
    workers_rss = max(workers_rss, descendants_memory(server.process_id))
    detail = {
        "server_rss_mib": memory(server.process_id, "VmHWM") / MIB,
        "workers_rss_mib": workers_rss / MIB,
        "held_back": held_back,
    }
    written = count * BATCH_ENTRIES * VALUE_BYTES / MIB
    return Sample(HTTP, "ingest", server.name, None, "MiB/s", written / seconds, count, detail)
