"""The service as a process: where it listens, how it stops, what real connections get."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVE = """
import json, sys
from seerdb_api.server import serve
from seerdb_api.settings import ServiceSettings
sys.exit(serve(ServiceSettings.build(json.loads(sys.argv[1]))))
"""
TAKE_IT = """
import socket
from seerdb_api import server
def opened(settings, opened=server.open_database):
    global other
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(("127.0.0.1", {port}))
    other.listen()
    return opened(settings)
server.open_database = opened
"""
OPENING = """
import signal
from seerdb.events import Recovered
from seerdb_api import database
class Dropped:
    def __del__(self):
        signal.raise_signal({number})
def told(event, log_event=database.log_event):
    log_event(event)
    if isinstance(event, Recovered):
        {how}
database.log_event = told
"""
"""The signal comes in the middle of opening."""
LIMIT = 1 << 20


def start(directory: Path, *, before: str = "", **settings: object) -> subprocess.Popen[str]:
    values = {
        "data_dir": str(directory),
        "port": 0,
        "body_limit": LIMIT,
        "background": "thread",
        "min_free_disk": 0,
        "log_format": "json",
        **settings,
    }
    return subprocess.Popen(
        [sys.executable, "-c", before + SERVE, json.dumps(values)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.fullmatch(r"serving http://127\.0\.0\.1:(\d+) \(data \S+, bucket \S+\)\n", line)
    assert match, line or process.communicate()[1]
    return int(match[1])


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> list[str]:
    """Stop it and return its log; it must end well."""
    process.send_signal(number)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    return log.splitlines()


@contextmanager
def connection_to(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


def ask(
    connection: http.client.HTTPConnection, method: str, target: str, body: bytes | None = None
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection.request(method, target, body)
    reply = connection.getresponse()
    return reply.status, reply.read(), reply.headers


def test_probes_may_ask_by_head(tmp_path: Path) -> None:
    server = start(tmp_path)
    with connection_to(port_of(server)) as connection:
        for target in ("/livez", "/readyz", "/metrics", "/version"):
            whole, head = ask(connection, "GET", target), ask(connection, "HEAD", target)
            assert (whole[0], head[0], head[1]) == (200, 200, b"")
            assert whole[2]["content-type"] == head[2]["content-type"]
    stop(server)


def test_where_the_bucket_is_is_told_without_a_password(tmp_path: Path) -> None:
    server = start(tmp_path, store="memory://me:hunter2@host/bucket")
    assert server.stdout is not None
    line = server.stdout.readline()
    assert "bucket memory://***@host/bucket" in line
    assert "hunter2" not in "".join(stop(server))


def test_a_stopped_server_kept_everything(tmp_path: Path) -> None:
    first = start(tmp_path)
    with connection_to(port_of(first)) as connection:
        status, _, headers = ask(connection, "PUT", "/v1/kv/a%2Fb", b"1")
        assert (status, headers["etag"], headers["seerdb-durability"]) == (204, '"1"', "local")
        assert headers["server"] is None
    log = [json.loads(line) for line in stop(first, signal.SIGTERM)]
    assert [entry["event"] for entry in log if entry["level"] != "info"] == []
    second = start(tmp_path)
    with connection_to(port_of(second)) as connection:
        assert ask(connection, "GET", "/v1/kv/a/b")[:2] == (200, b"1")
    stop(second, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("how", ["signal.raise_signal({number})", "Dropped()"])
def test_a_server_that_is_stopped_while_it_opens_ends_well(
    tmp_path: Path, number: signal.Signals, how: str
) -> None:
    """It died by the signal, and as the first process of a container did not heed it at all."""
    how = how.format(number=int(number))
    process = start(tmp_path, before=OPENING.format(number=int(number), how=how))
    out, log = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, ""), log
    assert "told to stop while the database was being opened" in log
    again = start(tmp_path)
    with connection_to(port_of(again)) as connection:
        assert ask(connection, "PUT", "/v1/kv/a", b"1")[0] == 204
    stop(again)


def test_a_server_that_is_stopped_waits_for_no_merge(tmp_path: Path) -> None:
    """At this rate it would take hours."""
    process = start(tmp_path, compaction_rate=1)
    number = port_of(process)
    with connection_to(number) as writing, connection_to(number) as compacting:
        for value in ("x", "y"):
            ops = [{"op": "put", "key": f"k{n:05}", "value": value * 100} for n in range(2_000)]
            ask(writing, "POST", "/v1/batch", json.dumps({"ops": ops}).encode())
            ask(writing, "POST", "/v1/admin/flush")
        compacting.request("POST", "/v1/admin/compact")
        while not json.loads(ask(writing, "GET", "/v1/admin/status")[1])["jobs"]:
            pass
        process.send_signal(signal.SIGTERM)
        reply = compacting.getresponse()
        assert (reply.status, json.loads(reply.read())["type"]) == (503, "urn:seerdb:closed")
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    process = start(tmp_path_factory.mktemp("db"))
    yield port_of(process)
    stop(process)


def test_a_connection_is_used_again_after_every_kind_of_reply(port: int) -> None:
    with connection_to(port) as connection:
        ask(connection, "PUT", "/v1/kv/k", b"0123")
        local = connection.sock.getsockname()
        for method, target, expected in (
            ("GET", "/v1/kv/k", 200),
            ("HEAD", "/v1/kv/k", 200),
            ("GET", "/v1/kv/none", 404),
            ("HEAD", "/v1/kv/none", 404),
            ("GET", "/v1/kv?prefix=k", 200),
            ("PUT", "/v1/kv/k?ttl=0", 400),
            ("PATCH", "/v1/kv/k", 405),
            ("GET", "/metrics", 200),
            ("DELETE", "/v1/kv/none", 204),
            ("GET", "/v1/kv/k", 200),
        ):
            status, body, _ = ask(connection, method, target, b"x" if method == "PUT" else None)
            assert status == expected
            assert not body or method != "HEAD"
        assert connection.sock.getsockname() == local


def test_the_longest_request_line(port: int) -> None:
    """The parser's URLs end at 65,535 bytes; longer keys have to come in JSON."""
    target = "/v1/kv/" + "k" * (65_535 - len("/v1/kv/"))
    with connection_to(port) as connection:
        assert ask(connection, "PUT", target, b"long")[0] == 204
        assert ask(connection, "GET", target)[:2] == (200, b"long")
        assert ask(connection, "GET", target + "k")[0] == 414
    longest = {"op": "put", "key": "k" * 65_535, "value": "longest"}
    with connection_to(port) as connection:
        body = json.dumps({"ops": [longest]}).encode()
        assert ask(connection, "POST", "/v1/batch", body)[0] == 200
        body = json.dumps({"keys": [longest["key"]]}).encode()
        _, found, _ = ask(connection, "POST", "/v1/mget", body)
        assert json.loads(found)["items"][0]["value"] == "longest"


def test_a_large_body_is_refused_before_it_is_sent(port: int) -> None:
    head = (
        b"PUT /v1/kv/big HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
        b"content-length: %d\r\n\r\n" % (LIMIT + 1)
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head)
        reply = b""
        while part := connection.recv(4096):
            reply += part
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in reply
    assert b"connection: close" in reply


def test_a_stream_ends_when_its_reader_leaves(port: int) -> None:
    with connection_to(port) as connection:
        ops = [{"op": "put", "key": f"s{n:05}", "value": "x" * 100} for n in range(5_000)]
        ask(connection, "POST", "/v1/batch", json.dumps({"ops": ops}).encode())
        connection.putrequest("GET", "/v1/kv?prefix=s")
        connection.putheader("accept", "application/x-ndjson")
        connection.endheaders()
        reply = connection.getresponse()
        assert reply.readline().startswith(b'{"key":"s00000"')
    with connection_to(port) as connection:
        assert ask(connection, "GET", "/readyz")[0] == 200


def test_a_port_that_is_taken_is_a_failure(tmp_path: Path, port: int) -> None:
    data = tmp_path / "data"
    process = start(data, port=port)
    output, log = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in log
    assert not data.exists()


def test_a_port_that_is_taken_meanwhile_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        program = SERVE.replace("sys.exit", TAKE_IT.format(port=port) + "sys.exit", 1)
        monkeypatch.setattr(f"{__name__}.SERVE", program)
        output, log = start(tmp_path / "data", port=port).communicate(timeout=60)
    assert output == ""
    assert f"SeerDBError: cannot listen on 127.0.0.1 port {port}: Address already in use" in log
