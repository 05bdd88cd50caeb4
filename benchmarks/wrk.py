"""Load by ``wrk``: ready-made requests in a file, drawn at random; the outcome as JSON.

The requests in the file end with a NUL byte each, which no request of ours contains.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers.base import ServerFailedError

_SCRIPT = """\
local requests, count = {}, 0

function init(args)
  math.randomseed(tonumber(args[2]))
  local file = assert(io.open(args[1], "rb"))
  for one in file:read("*a"):gmatch("[^%z]+") do
    count = count + 1
    requests[count] = one
  end
  file:close()
end

function request()
  return requests[math.random(count)]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "failed": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What one run of ``wrk`` saw."""

    requests: int
    per_second: float
    p50_us: float
    p99_us: float


def missing() -> str | None:
    """What is not installed here, if anything."""
    return None if shutil.which("wrk") else "wrk not installed"


def write_requests(path: Path, requests: Iterable[str]) -> None:
    """Keep ``requests`` in ``path`` for ``run_load``."""
    path.write_bytes("\0".join(requests).encode())


def run_load(url: str, requests: Path, *, connections: int, seconds: float, seed: int) -> Load:
    """Send what is in ``requests`` over ``connections`` from one thread for whole ``seconds``.

    Raises: ``ServerFailedError`` if any request failed or was not answered with success.
    """
    script = requests.with_suffix(".lua")
    script.write_text(_SCRIPT)
    command = [
        *("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"),
        *("-s", str(script), url, "--", str(requests), str(seed)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise ServerFailedError(f"wrk failed: {done.stdout}{done.stderr}")
    seen = json.loads(lines[-1])
    if seen["failed"] or not seen["requests"]:
        raise ServerFailedError(f"{seen['failed']} requests failed:\n{done.stdout}")
    return Load(
        seen["requests"],
        seen["requests"] / (seen["duration_us"] / 1e6),
        seen["p50_us"],
        seen["p99_us"],
    )
