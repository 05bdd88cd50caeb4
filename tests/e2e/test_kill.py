"""``kill -9`` of a real server under concurrent writers: no acknowledged write is ever lost."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Server, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROUNDS = 20
WRITERS = 6
KEYS = 40


@dataclass
class Writer:
    """Writes its own keys over HTTP and remembers what was promised."""

    number: int
    url: str
    random: random.Random
    acknowledged: dict[str, bytes | None] = field(default_factory=dict)
    attempted: dict[str, list[bytes | None]] = field(default_factory=dict)
    count: int = 0

    def run(self) -> None:
        """Write until the server dies."""
        with httpx.Client(base_url=self.url, timeout=60.0) as client:
            try:
                while True:
                    self._write(client)
            except httpx.TransportError:
                return

    def _write(self, client: httpx.Client) -> None:
        key = f"{self.number}-{self.random.randrange(KEYS)}"
        value = None
        if self.random.random() < 0.85:
            value = f"{key}:{self.count}:".encode() + b"x" * self.random.randrange(2000)
        self.count += 1
        self.attempted.setdefault(key, []).append(value)
        if value is None:
            reply = client.delete(f"/v1/kv/{key}")
        else:
            reply = client.put(f"/v1/kv/{key}", content=value)
        if reply.is_success:
            self.acknowledged[key] = value
            self.attempted[key] = []

    def check(self, client: httpx.Client) -> None:
        """Each key holds what was last acknowledged, or something attempted after that."""
        for key in self.acknowledged.keys() | self.attempted.keys():
            reply = client.get(f"/v1/kv/{key}")
            found = reply.content if reply.status_code == httpx.codes.OK else None
            allowed = [self.acknowledged.get(key), *self.attempted.get(key, [])]
            assert found in allowed, f"{key}: found {found!r:.60}, allowed {allowed!r:.300}"
            self.acknowledged[key], self.attempted[key] = found, []


def wait_for_more(writers: list[Writer], count: int) -> None:
    """Until they have tried so many writes more."""
    before = sum(writer.count for writer in writers)
    wait_for(lambda: sum(writer.count for writer in writers) >= before + count, "the writers")


def test_kill_nine_under_concurrent_writers(server: Server) -> None:
    writers = [Writer(n, server.url, random.Random(n)) for n in range(WRITERS)]
    load = random.Random(0)
    newest = 0
    server.start()
    for _ in range(ROUNDS):
        threads = [threading.Thread(target=writer.run) for writer in writers]
        for thread in threads:
            thread.start()
        wait_for_more(writers, load.randrange(100, 1500))
        server.kill()
        for thread in threads:
            thread.join()
        server.start()
        with httpx.Client(base_url=server.url, timeout=60.0) as client:
            for writer in writers:
                writer.check(client)
            seq = int(client.get("/v1/kv/none").headers["seerdb-seq"])
            assert seq >= newest, "sequence numbers went back"
            newest = seq
    assert server.stop() == 0
    verified = server.run("verify", str(server.data))
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_stop_and_start_keeps_everything_and_replays_nothing(server: Server) -> None:
    server.start()
    with httpx.Client(base_url=server.url, timeout=60.0) as client:
        for number in range(500):
            assert client.put(f"/v1/kv/{number:04}", content=b"v" * 500).is_success
    assert server.stop() == 0
    server.start()
    with httpx.Client(base_url=server.url, timeout=60.0) as client:
        status = client.get("/v1/admin/status").json()
        assert status["recovery"]["records"] == 0
        items = client.get("/v1/kv", params={"limit": 1000}).json()["items"]
        assert [item["key"] for item in items] == [f"{number:04}" for number in range(500)]


def test_object_writes_survive_the_loss_of_the_machine(server: Server, tmp_path: str) -> None:
    server.start()
    with httpx.Client(base_url=server.url, timeout=60.0) as client:
        assert client.put("/v1/kv/local", content=b"1").is_success
        reply = client.put("/v1/kv/safe", params={"durability": "object"}, content=b"2")
        assert (reply.status_code, reply.headers["seerdb-durability"]) == (204, "object")
    server.kill()
    server.data = server.data.parent / "another-machine"
    server.start()
    with httpx.Client(base_url=server.url, timeout=60.0) as client:
        assert client.get("/v1/kv/safe").content == b"2"
        assert client.get("/v1/kv/local").content == b"1", "everything before it is there too"


def test_what_was_shipped_survives_the_loss_of_the_machine(server: Server) -> None:
    """Writes that waited for nothing but the local disk, a little later."""
    server.start()
    with httpx.Client(base_url=server.url, timeout=60.0) as client:
        for number in range(700):
            assert client.put(f"/v1/kv/{number:04}", content=b"v" * 1000).is_success
        wait_for(lambda: _shipping(client)["unshipped_seq"] == 0)
        assert _shipping(client)["shipped_seq"] == 700, "also what tables hold already"
        objects = _shipping(client)["objects"]
        threading.Event().wait(2.5)
        assert _shipping(client)["objects"] == objects, "idle costs nothing"
    server.kill()
    server.data = server.data.parent / "another-machine"
    server.start()
    with httpx.Client(base_url=server.url, timeout=60.0) as client:
        items = client.get("/v1/kv", params={"limit": 1000}).json()["items"]
        assert [item["key"] for item in items] == [f"{number:04}" for number in range(700)]


def _shipping(client: httpx.Client) -> dict[str, Any]:
    shipping: dict[str, Any] = client.get("/v1/admin/status").json()["shipping"]
    return shipping
