"""A real server for the commands, and ways to run them inside and outside this process."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seerdb.cli.main import app

SEERDB = [sys.executable, "-m", "seerdb"]


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Commands:
    """Runs commands in this process, against one server."""

    def __init__(self, url: str = "http://127.0.0.1:1") -> None:
        self.url = url

    def __call__(self, *arguments: str, stdin: bytes = b"", expect: int = 0) -> Outcome:
        """Run ``seerdb arguments``; it must exit with ``expect``."""
        result = CliRunner(env={"SEERDB_URL": self.url, "TERM": "dumb"}).invoke(
            app, list(arguments), input=stdin
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        outcome = Outcome(result.exit_code, result.stdout_bytes, result.stderr)
        assert outcome.code == expect, outcome
        return outcome


class Process:
    """A ``seerdb`` process with pipes."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        stdout: int = subprocess.PIPE,
    ) -> None:
        self.popen = subprocess.Popen(
            [*SEERDB, *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": "", **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )

    def end(self, timeout: float = 60.0) -> Outcome:
        """Wait for its end."""
        out, err = self.popen.communicate(timeout=timeout)
        return Outcome(self.popen.returncode, out, err.decode())


def start_server(directory: Path, *arguments: str) -> tuple[Process, str]:
    """A server on a free port, and its URL once it listens."""
    settings = {"SEERDB_BACKGROUND": "thread", "SEERDB_MIN_FREE_DISK": "0"}
    process = Process("serve", str(directory), "--port", "0", *arguments, environment=settings)
    assert process.popen.stdout is not None
    line = process.popen.stdout.readline().decode()
    found = re.match(r"serving (http://127\.0\.0\.1:\d+) ", line)
    if not found:
        process.popen.kill()
        raise AssertionError(f"{line!r}: {process.end()}")
    return process, found[1]


def stop_server(process: Process) -> Outcome:
    """End it as an operator would."""
    process.popen.terminate()
    outcome = process.end()
    assert outcome.code == 0, outcome
    return outcome


@pytest.fixture(scope="session")
def server_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of the shared server."""
    return tmp_path_factory.mktemp("server") / "data"


@pytest.fixture(scope="session")
def server_url(server_data: Path) -> Iterator[str]:
    """A server that all tests share; :func:`seerdb` empties it for each."""
    process, url = start_server(server_data)
    yield url
    stop_server(process)


@pytest.fixture
def seerdb(server_url: str) -> Commands:
    """Commands that talk to an empty server."""
    commands = Commands(server_url)
    commands("delete", "--hex", "--start", "00", "--end", "ff" * 20)
    return commands


class FakeServer(http.server.ThreadingHTTPServer):
    """Answers each request with the next of its ``replies``, and remembers what was asked."""

    daemon_threads = True

    def __init__(self, answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> None:
        requests = self.requests = list[tuple[str, bytes]]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                requests.append((f"{self.command} {self.path}", self.rfile.read(length)))
                answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - their names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                """Keep the test quiet."""

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def commands(self) -> Commands:
        """Commands that talk to it."""
        return Commands(f"http://127.0.0.1:{self.server_port}")


@contextmanager
def fake_server(
    answer: Callable[[http.server.BaseHTTPRequestHandler], None],
) -> Iterator[FakeServer]:
    """A server in a thread of this process."""
    with FakeServer(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def reply(
    handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes, **headers: str
) -> None:
    """Send a reply as a database does; ``_`` in the names of headers is ``-``."""
    handler.send_response(status)
    handler.send_header("seerdb-seq", "1")
    handler.send_header("content-length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def reply_problem(
    handler: http.server.BaseHTTPRequestHandler, status: int, name: str, **headers: str
) -> None:
    """Send a problem document."""
    document = {"type": f"urn:seerdb:{name}", "title": "A title", "detail": "the detail"}
    body = json.dumps({**document, "status": status, "retryable": False}).encode()
    reply(handler, status, body, content_type="application/problem+json", **headers)
