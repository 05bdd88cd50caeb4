"""Real processes for the end-to-end tests: servers of ours, on a real S3 server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.ports import free_port
from tests.fixtures.stores import S3Server, find_minio, start_minio

READY_SECONDS = 120.0
SEERDB = str(Path(sys.executable).parent / "seerdb")

http = httpx.Client(timeout=120.0, limits=httpx.Limits(max_keepalive_connections=0))
"""One for all: making one takes longer than a request, and the S3 server may be in this process."""


class Server:
    """A ``seerdb serve`` process; ended by process id."""

    def __init__(self, data: Path, s3: S3Server, url: str, **settings: Any) -> None:
        self.data = data
        self._environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": s3.endpoint,
            "AWS_ACCESS_KEY_ID": s3.key,
            "AWS_SECRET_ACCESS_KEY": s3.secret,
            "SEERDB_STORE": url,
            **{f"SEERDB_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._environment.pop("AWS_EC2_METADATA_DISABLED", None)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, until: str = "/readyz") -> None:
        """Start and wait until it is ready, or answers 200 under another path."""
        log = (self.data.parent / "server.log").open("ab")
        command = [SEERDB, "serve", str(self.data), "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if http.get(f"{self.url}{until}", timeout=10.0).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the server did not come up:\n{self.log()[-4000:]}")

    def log(self) -> str:
        """What the server has written so far."""
        return (self.data.parent / "server.log").read_text(errors="replace")

    def pause(self) -> None:
        """Stop it from running, as SIGSTOP, a paused container or heavy swapping does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would; its worker processes must not outlive it."""
        assert self.process is not None
        workers = _children(self.process.pid)
        self.process.kill()
        self.process.wait()
        deadline = time.monotonic() + 60
        while alive := [worker for worker in workers if _is_alive(worker)]:
            assert time.monotonic() < deadline, f"orphans: {alive}"
            time.sleep(0.02)

    def stop(self) -> int:
        """End it as an operator would; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=120)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A ``seerdb`` command in the server's environment."""
        return subprocess.run(
            [SEERDB, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def _children(parent: int) -> list[int]:
    found = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool], what: str = "it") -> None:
    """Until the condition holds, two minutes at most."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def s3(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Server]:
    """MinIO where there is a binary, else moto's server."""
    if find_minio() is None:
        print("no MinIO binary: these tests run on moto's S3 server")
        yield request.getfixturevalue("moto_server")
    else:
        with start_minio(tmp_path_factory.mktemp("minio")) as server:
            yield server


@pytest.fixture
def server(s3: S3Server, tmp_path: Path) -> Iterator[Server]:
    """A server that is not started yet, small enough to flush and compact all the time."""
    server = Server(
        tmp_path / "data",
        s3,
        f"{s3.create_bucket()}/db",
        memtable_capacity="256KiB",
        wal_segment_size="256KiB",
        min_free_disk="0",
    )
    yield server
    if server.process is not None and server.process.poll() is None:
        server.kill()
