"""What every measured server offers: start on a free loopback port, load, name its requests.

Requests are written out here as the bytes that ``wrk`` sends, so that the load generator does
the same work for all servers.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO, ClassVar, Self

import httpx

from seerdb.clock import SystemClock

HOST = "127.0.0.1"
_START_SECONDS = 30.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.05

Pair = tuple[str, str]


class ServerFailedError(Exception):
    """A server did not start, or ended early; the text holds what it wrote."""


class Server(ABC):
    """A server with its own processes and directory; a context manager that starts and ends it."""

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]] = ()
    """What has to be on the path."""
    writes: ClassVar[bool] = True
    """Takes PUTs, each durable before it is answered."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []

    @classmethod
    def missing(cls) -> str | None:
        """What is not installed here, if anything."""
        absent = [program for program in cls.programs if shutil.which(program) is None]
        return f"{', '.join(absent)} not installed" if absent else None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    @property
    def ports(self) -> tuple[int, ...]:
        """Those on which all of its processes listen once it is up."""
        return (self.port,)

    @abstractmethod
    def start(self) -> None:
        """Start every process with ``spawn``."""

    @abstractmethod
    def load(self, pairs: Sequence[Pair]) -> None:
        """Store ``pairs`` by the fastest way the server has."""

    @abstractmethod
    def get_request(self, key: str) -> str:
        """The request that reads ``key``."""

    def put_request(self, key: str, value: str) -> str:
        """The request that stores ``value`` under ``key``."""
        raise NotImplementedError(f"{self.name} takes no writes")

    def in_answer(self, value: str) -> str:
        """How ``value`` looks in the answer to its ``get_request``."""
        return value

    def spawn(self, *command: str) -> None:
        """Start one process; what it writes goes to a file beside its data."""
        log = self._directory / f"process-{len(self.processes)}.log"
        with log.open("wb") as output:
            self.processes.append(_popen(command, output))

    def __enter__(self) -> Self:
        try:
            self.start()
            self._wait_until_listening()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_listening(self) -> None:
        clock = SystemClock()
        deadline = clock.monotonic() + _START_SECONDS
        while clock.monotonic() < deadline:
            for number, process in enumerate(self.processes):
                if process.poll() is not None:
                    raise ServerFailedError(f"{self.name} ended at start:\n{self._log(number)}")
            if self._listens():
                return
            clock.sleep(_POLL_SECONDS)
        logs = "\n".join(self._log(number) for number in range(len(self.processes)))
        raise ServerFailedError(f"{self.name} did not listen in {_START_SECONDS} s:\n{logs}")

    def _listens(self) -> bool:
        try:
            for port in self.ports:
                with socket.create_connection((HOST, port), timeout=1):
                    pass
        except OSError:
            return False
        return True

    def _log(self, number: int) -> str:
        return (self._directory / f"process-{number}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End every process."""
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _popen(command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def http_request(method: str, target: str, body: str = "") -> str:
    """An HTTP/1.1 request as it goes over the wire, for a connection that stays open."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n{length}\r\n{body}"


def http_client(url: str) -> httpx.Client:
    """A client for loading: patient, and not looking at proxies."""
    return httpx.Client(base_url=url, timeout=60, trust_env=False)
