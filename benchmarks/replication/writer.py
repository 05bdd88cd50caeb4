"""Durable writes at a fixed pace, in a process of their own.

``python -m benchmarks.replication.writer URL PER_SECOND SECONDS OBJECT_EVERY FILE``

Each write has its own key and its own moment, and goes out over one of the connections that stay
open; its latency counts from that moment, so a server that stalls shows. Where all connections
wait, later writes wait too. One write in ``OBJECT_EVERY`` (0: none) is of level ``object``, the
others of level ``local``. Prints ``ready`` when it is connected and, at the end, a line of JSON:
see ``Paced``. It ends early when the server hangs up. ``FILE`` gets what was acknowledged: a list
of write and seq.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import uvloop

from benchmarks.replication.client import Connection, Reply, put
from benchmarks.servers.base import ServerFailedError

CONNECTIONS = 64
TICK_SECONDS = 0.001
_VALUE = "v" * 100


@dataclass(frozen=True)
class Paced:
    """What the writes came to. ``failed`` were refused; times from when each was due, in ms."""

    acknowledged: int
    failed: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_seconds: float


def key_of(number: int) -> str:
    """The key of a write."""
    return f"w{number:012}"


def level_of(number: int, object_every: int) -> str:
    """The level of a write."""
    return "object" if object_every and number % object_every == 0 else "local"


class Pacer:
    """Writes over ``connections``, so many a second. Belongs to its event loop."""

    def __init__(self, connections: list[Connection], per_second: float, object_every: int) -> None:
        self._idle = deque(connections)  # each in turn, so that none is closed for being idle
        self._count = len(connections)
        self._per_second = per_second
        self._object_every = object_every
        self._latencies: list[float] = []
        self._failed = 0
        self._is_over = False
        self.acknowledged: list[tuple[int, int]] = []

    async def run(self, seconds: float) -> Paced:
        """Write for so long, or until the server is gone."""
        loop = asyncio.get_running_loop()
        begun, sent = loop.time(), 0
        while (passed := loop.time() - begun) < seconds and not self._is_over:
            due = int(passed * self._per_second)
            while sent < due and self._idle:
                self._send(sent, begun + sent / self._per_second)
                sent += 1
            await asyncio.sleep(TICK_SECONDS)
        while len(self._idle) < self._count and not self._is_over:
            await asyncio.sleep(TICK_SECONDS)
        passed = loop.time() - begun
        p50, p99 = np.percentile(self._latencies or [0.0], [50, 99]) * 1e3
        done = len(self.acknowledged)
        return Paced(done, self._failed, done / passed, p50, p99, time.process_time())

    def _send(self, number: int, due: float) -> None:
        connection = self._idle.popleft()
        level = level_of(number, self._object_every)
        answer = connection.request(put(key_of(number), _VALUE, level))
        answer.add_done_callback(partial(self._answered, connection, number, due))

    def _answered(
        self, connection: Connection, number: int, due: float, answer: asyncio.Future[Reply]
    ) -> None:
        if answer.exception() is not None:
            self._is_over = True
            return
        self._idle.append(connection)
        reply = answer.result()
        if reply.status != 204:
            self._failed += 1
            return
        self._latencies.append(asyncio.get_running_loop().time() - due)
        self.acknowledged.append((number, reply.seq))


async def _write(
    url: str, per_second: float, seconds: float, object_every: int, file: Path
) -> Paced:
    connections = [await Connection.open(url) for _ in range(CONNECTIONS)]
    pacer = Pacer(connections, per_second, object_every)
    print("ready", flush=True)
    outcome = await pacer.run(seconds)
    file.write_text(json.dumps(pacer.acknowledged))
    return outcome


class Writer:
    """The process, seen from outside."""

    def __init__(self, output: IO[str], file: Path) -> None:
        self._output = output
        self._file = file

    def outcome(self) -> Paced:
        """Wait for its end. Raises: ``ServerFailedError``."""
        line = self._output.readline()
        if not line:
            raise ServerFailedError("the writer failed")
        return Paced(**json.loads(line))

    def acknowledged(self) -> dict[int, int]:
        """Each write that was acknowledged, and its seq. Requires: it has ended."""
        return dict(json.loads(self._file.read_text()))


@contextmanager
def writing(
    url: str, directory: Path, *, per_second: float, seconds: float, object_every: int = 0
) -> Iterator[Writer]:
    """A writer that has begun; it is ended with the context at the latest."""
    file = directory / "acknowledged.json"
    words = (url, per_second, seconds, object_every, file)
    command = [sys.executable, "-m", "benchmarks.replication.writer", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise ServerFailedError("the writer did not start")
            yield Writer(process.stdout, file)
        finally:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
            process.kill()


def main(url: str, per_second: str, seconds: str, object_every: str, file: str) -> None:
    """See the module docstring."""
    outcome = uvloop.run(
        _write(url, float(per_second), float(seconds), int(object_every), Path(file))
    )
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main(*sys.argv[1:])
