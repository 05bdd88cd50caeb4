"""Replicas over HTTP: lag, refusals, reads that wait for a commit, and the stream of the log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from seerdb import DB, ClosedError, ReadOnlyError, Replica
from seerdb.clock import SystemClock
from seerdb_api.app import App, create_app
from seerdb_api.fast import FastPath
from seerdb_api.metrics import ENGINE, REPLICA
from seerdb_api.routes import replication
from seerdb_api.settings import ServiceSettings
from tests.api.client import Client
from tests.api.fake_database import FakeCursor, FakeDatabase
from tests.api.wire import WAIT, connected, request, serving
from tests.fixtures.database import ROOMY, World
from tests.fixtures.follower import follow, stream


@pytest.fixture
def primary() -> DB:
    world = World(**ROOMY)
    db = world.open()
    db.put(b"a", b"1", durability="object")
    return db


@pytest.fixture
def replica(primary: DB) -> Replica:
    engine = primary._engine
    world = World(bucket=engine.components.object_store, clock=engine.components.clock, **ROOMY)  # type: ignore[arg-type]
    world.store = engine.components.object_store  # type: ignore[assignment]
    replica = follow(world)
    replica.refresh()
    return replica


@pytest.fixture
def replica_client(replica: Replica) -> Iterator[Client]:
    with Client(FastPath(create_app(ServiceSettings(), replica), SystemClock())) as client:
        yield client


def test_every_read_tells_the_lag(replica_client: Client) -> None:
    answers = [
        replica_client.get("/v1/kv/a"),
        replica_client.get("/v1/kv/missing"),
        replica_client.request("HEAD", "/v1/kv/a"),
        replica_client.get("/v1/kv"),
        replica_client.get("/v1/kv", accept="application/x-ndjson"),
        replica_client.post("/v1/mget", {"keys": ["a"]}),
        replica_client.get("/v1/admin/status"),
        replica_client.get("/readyz"),
    ]
    assert [answer.status for answer in answers] == [200, 404, 200, 200, 200, 200, 200, 200]
    for answer in answers:
        assert answer.headers["seerdb-lag-seq"] == "0"
        assert answer.headers["seerdb-lag-seconds"] == "0.000"
    assert answers[0].body == b"1"
    assert answers[3].json["items"] == [{"key": "a", "value": "1", "seq": 1}]


def test_status_tells_the_digest_of_the_log(primary: DB, replica_client: Client) -> None:
    cursor = primary.follow(1)
    while cursor.read():
        cursor.heartbeat()
    told = primary.stats()["log_digest"]
    assert (told["seq"], told["entries"]) == (1, 1)
    assert replica_client.get("/v1/admin/status").json["log_digest"] == told


def test_a_writer_has_no_lag(client: Client) -> None:
    for path in ("/v1/kv/a", "/v1/kv", "/v1/admin/status"):
        assert not any("lag" in name for name in client.get(path).headers)


def test_writes_are_pointed_to_the_primary(replica: Replica, replica_client: Client) -> None:
    replica._follower.primary = "http://primary:8000"
    refused = [
        replica_client.put("/v1/kv/a", b"2"),
        replica_client.delete("/v1/kv/a"),
        replica_client.delete("/v1/kv?prefix=a"),
        replica_client.post("/v1/batch", {"ops": [{"op": "put", "key": "a", "value": "1"}]}),
        replica_client.put("/v1/kv/a", b"2", if_match='"1"'),
        replica_client.post("/v1/admin/flush", b""),
        replica_client.post("/v1/admin/compact", b""),
        replica_client.post("/v1/admin/promote", b""),
        replica_client.get("/v1/replication/log?from=1"),
    ]
    for answer in refused:
        assert answer.problem(409, "read-only")["primary"] == "http://primary:8000"
        assert answer.headers["seerdb-primary"] == "http://primary:8000"
    assert replica_client.get("/v1/kv/a").body == b"1"


def test_without_an_address_the_refusal_has_none(replica_client: Client) -> None:
    answer = replica_client.put("/v1/kv/a", b"2")
    assert "primary" not in answer.problem(409, "read-only")
    assert "seerdb-primary" not in answer.headers


READS: list[tuple[str, str, Any]] = [
    ("GET", "/v1/kv/a", b""),
    ("HEAD", "/v1/kv/a", b""),
    ("GET", "/v1/kv", b""),
    ("POST", "/v1/mget", b'{"keys": ["a"]}'),
    ("GET", "/v1/history/a", b""),
]


@pytest.mark.parametrize(("method", "path", "body"), READS)
def test_a_read_of_what_is_shown_does_not_wait(
    client: Client, db: FakeDatabase, method: str, path: str, body: bytes
) -> None:
    db.load(a="1")
    assert client.request(method, f"{path}?min_seq=1", body).status == 200
    headers = {"seerdb-min-seq": "1"}
    assert client.request(method, path, body, headers=headers).status == 200


@pytest.mark.parametrize(("method", "path", "body"), READS)
def test_a_read_of_what_does_not_come_says_how_far_it_is(
    client: Client, db: FakeDatabase, method: str, path: str, body: bytes
) -> None:
    db.load(a="1")
    headers = {"seerdb-min-seq": "7", "seerdb-deadline": "0.01"}
    for answer in (
        client.request(method, f"{path}?min_seq=7&timeout=0.01", body),
        client.request(method, path, body, headers=headers),
    ):
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        if method != "HEAD":
            problem = answer.problem(503, "behind")
            assert (problem["seq"], problem["min_seq"], problem["retryable"]) == (1, 7, True)
            assert "lag_seq" not in problem


def test_a_replica_that_is_behind_tells_its_lag(replica_client: Client) -> None:
    answer = replica_client.get("/v1/kv/a?min_seq=7&timeout=0.01")
    problem = answer.problem(503, "behind")
    assert (problem["lag_seq"], problem["lag_seconds"]) == (0, 0.0)


def test_a_replica_answers_for_no_writer_that_it_has_not_seen(
    primary: DB, replica: Replica, replica_client: Client
) -> None:
    """PB-03. It shows, live, what was lost with the writer before, under the seqs of the next."""
    primary.put(b"a", b"lost")
    stream(primary, replica)
    world = World(**ROOMY)
    world.store = primary._engine.components.object_store  # type: ignore[assignment]
    heir = world.open("heir")
    seq = heir.put(b"a", b"2", durability="object")
    assert replica.seq >= seq
    commit = {"seerdb_epoch": "2", "seerdb_min_seq": str(seq), "seerdb_deadline": "0.01"}
    problem = replica_client.get("/v1/kv/a", **commit).problem(503, "behind")
    assert problem["detail"] == "epoch 2 was asked for, and this node shows epoch 1"
    replica.refresh()
    assert replica_client.get("/v1/kv/a", **commit).body == b"2"
    lost = {"seerdb_epoch": "1", "seerdb_min_seq": str(seq)}
    replica_client.get("/v1/kv/a", **lost).problem(409, "lost")


class RisingDatabase(FakeDatabase):
    """Shows one commit more each time somebody looks."""

    def __init__(self) -> None:
        self._looks = 0
        super().__init__()

    @property
    def visible_seq(self) -> int:
        self._looks += 1
        return self._looks

    @visible_seq.setter
    def visible_seq(self, seq: int) -> None:
        self._looks = seq


def test_a_read_waits_for_what_comes() -> None:
    with Client(FastPath(create_app(ServiceSettings(), RisingDatabase()), SystemClock())) as client:
        answer = client.get("/v1/kv?min_seq=9&timeout=60")
    assert answer.status == 200
    assert int(answer.headers["seerdb-seq"]) >= 9


def test_the_seq_of_a_database_without_commits_may_be_presented(client: Client) -> None:
    shown = client.get("/v1/kv").headers["seerdb-seq"]
    assert shown == "0"
    assert client.get(f"/v1/kv?min_seq={shown}").status == 200
    assert client.get("/v1/kv", seerdb_min_seq=shown, seerdb_epoch="1").status == 200


@pytest.mark.parametrize("value", ["-1", "x", "1" * 40])
def test_a_seq_that_is_none_is_refused(client: Client, value: str) -> None:
    problem = client.get(f"/v1/kv/a?min_seq={value}").problem(400, "invalid-request")
    assert "min_seq" in problem["detail"]
    problem = client.get("/v1/kv/a", seerdb_min_seq=value).problem(400, "invalid-request")
    assert "seerdb-min-seq" in problem["detail"]


def test_a_deadline_that_is_none_is_refused(client: Client) -> None:
    for value in ("0", "61", "x"):
        client.get(f"/v1/kv/a?min_seq=1&timeout={value}").problem(400, "invalid-request")
        answer = client.get("/v1/kv/a", seerdb_min_seq="1", seerdb_deadline=value)
        answer.problem(400, "invalid-request")


def test_metrics_and_readiness_of_a_replica(
    primary: DB, replica: Replica, replica_client: Client
) -> None:
    names = replica.statistics().values.keys()
    assert names <= ENGINE.keys() | REPLICA.keys()
    assert REPLICA.keys() <= names
    text = replica_client.get("/metrics").body.decode()
    assert "\nseerdb_lag_seq 0.0\n" in text
    assert "\nseerdb_restarts_total 0.0\n" in text
    assert 'seerdb_healthy{check="lag"} 1.0' in text
    primary._engine.components.clock.sleep(31.0)
    problem = replica_client.get("/readyz").problem(503, "not-ready")
    assert problem["detail"] == "failed: lag"


# The stream of the log.


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(replication, "HEARTBEAT_SECONDS", 0.01)


def test_the_log_comes_with_heartbeats_until_its_end(client: Client, db: FakeDatabase) -> None:
    db.log = [b"one;", b"", b"two;", *[b""] * 30, ClosedError("closed")]
    db.visible_seq = 9
    answer = client.get("/v1/replication/log?from=7")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/vnd.seerdb.log")
    assert answer.headers["seerdb-seq"] == "9"
    sent = answer.body.split(b";")
    assert [part for part in sent if part != b"beat"] == [b"hello", b"one", b"two", b""]
    assert b"beat" in sent
    [cursor] = db.cursors
    assert (cursor.seq, cursor.closed) == (7, True)


def test_a_follower_that_goes_away_ends_the_stream(client: Client, db: FakeDatabase) -> None:
    connection = client.connect(b"", leave_after=4)
    answer = client.runner.run(client.call(connection, "GET", "/v1/replication/log"))
    assert not answer.ended
    [cursor] = db.cursors
    assert (cursor.seq, cursor.closed) == (1, True)


def test_a_server_that_stops_ends_the_stream(app: App, client: Client, db: FakeDatabase) -> None:
    app.state.service.is_stopping = True
    answer = client.get("/v1/replication/log")
    assert (answer.ended, answer.body) == (True, b"hello;")
    assert db.cursors[0].closed


def test_what_cannot_be_followed_is_a_problem(client: Client, db: FakeDatabase) -> None:
    db.failure = ReadOnlyError("a replica")
    client.get("/v1/replication/log").problem(409, "read-only")
    client.get("/v1/replication/log?from=0").problem(400, "invalid-request")


def test_a_follower_that_takes_nothing_is_dropped(
    app: App, db: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "SEND_SECONDS", 0.01)
    db.log = [b"one;"]

    async def run() -> list[str]:
        sent: list[str] = []

        async def send(message: Any) -> None:
            sent.append(message["type"])
            if message.get("more_body"):
                await asyncio.sleep(60)

        app.state.service.start(db)
        drop = partial(sent.append, "dropped")
        stream = replication.LogStream(app.state.service, db.follow(1), "id", drop)
        await stream.stream_response(send)
        return sent

    body = "http.response.body"
    assert asyncio.run(run()) == ["http.response.start", body, "dropped", body]
    assert db.cursors[0].closed


def test_the_connection_of_a_follower_that_takes_nothing_ends(
    db: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "SEND_SECONDS", 0.05)
    closed = threading.Event()
    monkeypatch.setattr(FakeCursor, "close", lambda _: closed.set())
    db.log = [bytes(32 << 20), *[b"more;"] * 10]
    with serving(db) as server, connected(server) as wire:
        wire.send(request("GET", "/v1/replication/log", "connection: close"))
        assert closed.wait(WAIT)
        received = bytearray()
        with suppress(ConnectionResetError):
            while data := wire.socket.recv(1 << 20):
                received += data
    assert len(received) < 32 << 20, "the rest is not kept for it"
