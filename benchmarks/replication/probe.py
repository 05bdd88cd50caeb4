"""How long until a follower shows a write, asked from outside, in a process of its own.

``python -m benchmarks.replication.probe PRIMARY FOLLOWER PER_SECOND SECONDS SEED``

A probe writes a key of its own to the primary, durably, and when that is acknowledged asks the
follower for it with ``seerdb-min-seq``: the lag is from the acknowledgement to the answer, which
holds the value. Probes begin at random moments, so that they hit the intervals of shipping and
looking anywhere. Prints a line of JSON: every lag in milliseconds, in order.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys

import uvloop

from benchmarks.replication.client import Pool, get, put
from benchmarks.servers.base import ServerFailedError

DEADLINE_SECONDS = 30


async def probe(primary: Pool, follower: Pool, key: str) -> float:
    """The lag of one write in ms. Raises: ``ServerFailedError``."""
    now = asyncio.get_running_loop().time
    written = await primary.request(put(key, key))
    acknowledged = now()
    read = await follower.request(
        get(key, seerdb_min_seq=written.seq, seerdb_deadline=DEADLINE_SECONDS)
    )
    lag = now() - acknowledged
    if read.status != 200 or read.body.decode() != key:
        raise ServerFailedError(f"the follower answers {read.status} {read.body!r} for {key}")
    return lag * 1e3


async def _probe_all(
    primary: str, follower: str, per_second: float, seconds: float, seed: int
) -> list[float]:
    source = random.Random(seed)
    pools = Pool(primary), Pool(follower)

    async def one(number: int, at: float) -> float:
        await asyncio.sleep(at)
        return await probe(*pools, f"p{number:06}")

    moments = [source.uniform(0, seconds) for _ in range(round(per_second * seconds))]
    return list(await asyncio.gather(*(one(n, at) for n, at in enumerate(moments))))


def probe_follower(
    primary: str, follower: str, *, per_second: float, seconds: float, seed: int
) -> list[float]:
    """Run the process; every lag in ms. Raises: ``ServerFailedError``."""
    words = map(str, (primary, follower, per_second, seconds, seed))
    command = [sys.executable, "-m", "benchmarks.replication.probe", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerFailedError(f"the probes failed: {done.stderr}")
    lags: list[float] = json.loads(done.stdout)
    return lags


def main(primary: str, follower: str, per_second: str, seconds: str, seed: str) -> None:
    """See the module docstring."""
    probes = _probe_all(primary, follower, float(per_second), float(seconds), int(seed))
    print(json.dumps(uvloop.run(probes)))


if __name__ == "__main__":
    main(*sys.argv[1:])
