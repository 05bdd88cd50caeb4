"""What shipping the log costs a primary: durable PUTs by ``wrk`` with it, and without.

Each round starts two fresh servers, one after the other, in turns one or the other first: one with
the default interval of shipping, one with the setting ``ship_interval`` at 0.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import wrk
from benchmarks.processes import family_seconds
from benchmarks.replication.bucket import Bucket
from benchmarks.replication.requests import Requests
from benchmarks.replication.writer import key_of
from benchmarks.results import REPLICATION, Sample
from benchmarks.servers.base import ServerFailedError
from benchmarks.servers.seerdb import SeerDBServer

SHIPPING = "shipping"
CONNECTIONS = 32
KEYS = 100_000
_WARM_SECONDS = 2.0
_VALUE = "v" * 100


def measure_shipping(
    bucket: Bucket, name: str, work: Path, seconds: float, *, on_first: bool
) -> Sample:
    """One round: the rate with shipping over the rate without."""
    loads = {}
    for ships in (on_first, not on_first):
        directory = work / ("on" if ships else "off")
        directory.mkdir()
        settings = bucket.settings(f"{name}-{directory.name}")
        settings |= {} if ships else {"ship_interval": 0}
        with SeerDBServer(directory, settings) as server:
            loads[directory.name] = _load(server, directory, seconds, ships=ships)
    detail = {f"{name}_{way}": v for way, load in loads.items() for name, v in load.items()}
    ratio = detail["per_second_on"] / detail["per_second_off"]
    requests = round(seconds * detail["per_second_on"])
    return Sample(REPLICATION, SHIPPING, "seerdb", None, "of the rate", ratio, requests, detail)


def _load(
    server: SeerDBServer, directory: Path, seconds: float, *, ships: bool
) -> dict[str, float]:
    requests = directory / "put"
    wrk.write_requests(requests, (server.put_request(key_of(n), _VALUE) for n in range(KEYS)))
    for length in (_WARM_SECONDS, seconds):
        used = family_seconds(server.process_id)
        seen = wrk.run_load(
            server.url, requests, connections=CONNECTIONS, seconds=length, seed=round(length)
        )
        used = family_seconds(server.process_id) - used
    shipped = Requests.of(server).rows.get(("wal", "put_if_absent"), {"bytes_out": 0})["bytes_out"]
    if bool(shipped) != ships:
        raise ServerFailedError(f"{shipped} bytes of log were shipped into {directory}")
    return {
        "per_second": seen.per_second,
        "p99_us": seen.p99_us,
        "cpu_us": used * 1e6 / seen.requests,
        "shipped_mib": shipped / (1 << 20),
    }
