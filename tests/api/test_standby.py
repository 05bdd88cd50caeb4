"""A standby over HTTP: read until it is promoted or its primary is gone, and from then on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest

from seerdb import DB, Standby, StandbyReplica
from seerdb.cli.summary import summary
from seerdb.clock import SystemClock
from seerdb.errors import ClosedError, UnavailableError
from seerdb_api import standby
from seerdb_api.app import create_app
from seerdb_api.database import log_event
from seerdb_api.fast import FastPath
from seerdb_api.service import Service
from seerdb_api.settings import ServiceSettings
from seerdb_api.standby import StandbyDatabase
from tests.api.client import Answer, Client
from tests.api.fake_database import FakeDatabase
from tests.api.wire import connected, request, serving
from tests.fixtures.database import ROOMY, World


class Primary:
    """A writer in one world, and a standby of it that never looks by itself."""

    def __init__(self) -> None:
        self.world = World(**ROOMY, lease=6.0)
        self.db = self.world.open("primary")
        self.db.put(b"safe", b"1", durability="object")
        components = self.world.components(self.world.settings)
        self.standby = StandbyDatabase(
            Standby.open("standby", components=components, **self.world.settings), max_lag=30.0
        )


@pytest.fixture
def primary() -> Primary:
    return Primary()


@pytest.fixture
def client(primary: Primary) -> Iterator[Client]:
    app = create_app(ServiceSettings(), primary.standby)
    with Client(FastPath(app, SystemClock())) as client:
        yield client
    primary.standby.close()


@pytest.fixture
def service(client: Client) -> Service:
    assert isinstance(client.app, FastPath)
    return client.app.service


@pytest.fixture
def replica(client: Client, service: Service) -> StandbyReplica:
    """What is served while it waits."""
    started = time.monotonic()
    while not isinstance(service.db, StandbyReplica):
        assert time.monotonic() - started < 60
        client.get("/livez")  # lets the event loop go on
    service.db.refresh()
    return service.db


def test_before_it_has_seen_the_bucket_it_sends_everybody_away(primary: Primary) -> None:
    primary.world.store.outage = True
    app = create_app(ServiceSettings(), primary.standby)
    with Client(FastPath(app, SystemClock())) as client:
        sent_away(client)
    primary.standby.close()


def sent_away(client: Client) -> None:
    for method, path in (
        ("GET", "/v1/kv/safe"),
        ("PUT", "/v1/kv/safe"),
        ("GET", "/v1/kv"),
        ("POST", "/v1/admin/flush"),
    ):
        problem = client.request(method, path).problem(409, "read-only")
        assert "this is a standby" in problem["detail"]
    assert client.get("/livez").status == 200
    ready = client.get("/readyz")
    assert (ready.status, ready.json["checks"][0]["name"]) == (503, "standby")
    assert client.get("/metrics").status == 200
    told = summary(client.get("/v1/admin/status").json)
    assert [what for what, _ in told] == ["standby", "primary"]


def test_while_it_waits_it_is_read_as_a_replica(
    client: Client, replica: StandbyReplica, primary: Primary
) -> None:
    found = client.get("/v1/kv/safe")
    assert (found.status, found.body, found.headers["seerdb-seq"]) == (200, b"1", "1")
    assert {"seerdb-lag-seq", "seerdb-lag-seconds"} <= found.headers.keys()
    assert client.get("/v1/kv").json["items"][0]["key"] == "safe"
    primary.db.put(b"more", b"2", durability="object")
    behind = client.get("/v1/kv/more?min_seq=2&timeout=0.01").problem(503, "behind")
    assert behind["seq"] == 1
    replica.refresh()
    assert client.get("/v1/kv/more?min_seq=2").body == b"2"
    for method, path in (
        ("PUT", "/v1/kv/a"),
        ("POST", "/v1/admin/flush"),
        ("GET", "/v1/kv/a?as_of=1"),
    ):
        problem = client.request(method, path).problem(409, "read-only")
        assert "this is a standby" in problem["detail"]
    ready = client.get("/readyz")
    checks = {check["name"]: check["ok"] for check in ready.json["checks"]}
    assert (ready.status, checks["standby"], checks["bucket"]) == (503, False, True)
    status = client.get("/v1/admin/status").json
    assert "keeps no lease" in status["standby"] or "is held" in status["standby"]
    purposes = {row["purpose"] for row in status["store_requests"]}
    assert {"lease", "manifest", "wal"} <= purposes
    assert b"seerdb_lag_seq 0" in client.get("/metrics").body


def test_promoted_it_serves_on_the_same_connections(client: Client, primary: Primary) -> None:
    primary.db.put(b"lost", b"2")
    primary.world.clock.advance(2.0)
    primary.db.put(b"late", b"3")
    report = client.request("POST", "/v1/admin/promote").json
    assert (report["epoch"], report["seq"]) == (2, 1)
    assert report["lost"] == {"from": 2, "to": 2}
    assert client.get("/v1/kv/safe").body == b"1"
    assert client.put("/v1/kv/new", b"4").status == 204
    assert client.get("/readyz").status == 200
    assert client.request("POST", "/v1/admin/promote").json == report


def test_a_promotion_that_fails_leaves_a_standby(
    client: Client, replica: StandbyReplica, primary: Primary
) -> None:
    primary.world.store.fail("list", times=100, error=UnavailableError("away, by plan"))
    assert client.request("POST", "/v1/admin/promote").status == 503
    assert client.get("/v1/kv/safe").body == b"1"
    assert client.put("/v1/kv/safe", b"2").status == 409


def test_what_clients_rely_on_holds_through_the_takeover(
    client: Client, replica: StandbyReplica, primary: Primary
) -> None:
    token = {"seerdb_epoch": "1", "seerdb_min_seq": "1"}
    assert client.get("/v1/kv/safe", **token).status == 200
    primary.db.put(b"lost", b"2")
    before = client.get("/v1/kv/safe")
    client.request("POST", "/v1/admin/promote")
    after = client.get("/v1/kv/safe", **token)
    assert int(after.headers["seerdb-seq"]) >= int(before.headers["seerdb-seq"])
    assert "seerdb-lag-seq" not in after.headers
    client.get("/v1/kv/lost", seerdb_epoch="1", seerdb_min_seq="2").problem(409, "lost")


def test_a_connection_is_told_the_lag_until_the_takeover(primary: Primary) -> None:
    get = request("GET", "/v1/kv/safe")
    with serving(primary.standby) as server, connected(server) as wire:
        while b"409" in wire.ask(get).splitlines()[0]:
            pass  # it has not looked yet
        replica = server.path.service.db
        assert isinstance(replica, StandbyReplica)
        replica.refresh()
        assert b"seerdb-lag-seq: 0" in wire.ask(get)
        seen = server.path.seen
        assert b"seerdb-lag-seq: 0" in wire.ask(get)
        assert server.path.seen == seen, "it was answered where its bytes arrived"
        assert b" 200 " in wire.ask(request("POST", "/v1/admin/promote")).splitlines()[0]
        found = wire.ask(get)
        assert found.endswith(b"1")
        assert b"seerdb-lag" not in found
    primary.standby.close()


def test_who_waits_for_a_commit_is_answered_by_whoever_takes_over(
    client: Client, service: Service, replica: StandbyReplica, primary: Primary
) -> None:
    async def wait_and_promote() -> Answer:
        connection = client.connect_now(b"")
        waiting = asyncio.create_task(
            client.call(connection, "GET", "/v1/kv/new?min_seq=2&timeout=60")
        )
        await asyncio.sleep(0)
        promoted = await client.call(client.connect_now(b""), "POST", "/v1/admin/promote")
        assert promoted.status == 200
        written = await client.call(client.connect_now(b"3"), "PUT", "/v1/kv/new", b"3")
        assert written.headers["seerdb-seq"] == "2"
        return await waiting

    answer = client.runner.run(wait_and_promote())
    assert (answer.status, answer.body) == (200, b"3")


def test_readers_see_neither_an_error_nor_the_past_while_it_takes_over(
    client: Client, service: Service, replica: StandbyReplica, primary: Primary
) -> None:
    primary.db.put(b"safe", b"2", durability="object")
    replica.refresh()
    scan = replica.scan_entries()
    readers = [Reader(service) for _ in range(3)]
    for reader in readers:
        reader.start()
    wait_for(readers, lambda reader: reader.before)
    assert client.request("POST", "/v1/admin/promote").status == 200
    assert client.put("/v1/kv/safe", b"3").status == 204
    wait_for(readers, lambda reader: reader.after)
    for reader in readers:
        reader.ends = True
        reader.join()
        assert reader.error is None
        assert reader.seqs == sorted(reader.seqs)
    assert [entry.value for entry in scan] == [b"2"], "it had begun before"
    late = replica.get_entry(b"safe")
    assert late is not None
    assert late.value == b"2", "who had begun to read"
    primary.standby.end_reads()
    with pytest.raises(ClosedError):
        replica.get_entry(b"safe")
    assert client.get("/v1/kv/safe").body == b"3"


class Reader(threading.Thread):
    """Reads as the service does, again and again."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service
        self.seqs: list[int] = []
        self.before = self.after = self.ends = False
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self.ends:
                db = self._service.db
                self.seqs.append(db.visible_seq)
                entry = db.get_entry(b"safe")
                assert entry is not None
                self.seqs.append(entry.seq)
                self.before |= isinstance(db, StandbyReplica)
                self.after |= isinstance(db, DB)
        except Exception as error:  # noqa: BLE001 - the test tells
            self.error = error


def wait_for(readers: list[Reader], what: Callable[[Reader], bool]) -> None:
    started = time.monotonic()
    while not all(what(reader) or reader.error is not None for reader in readers):
        assert time.monotonic() - started < 60
        time.sleep(0)


def test_when_its_primary_is_gone_it_serves_by_itself(
    primary: Primary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks that fail, and a bucket that is away for a while, do not end its watch."""
    clock, started = primary.world.clock, primary.world.clock.monotonic()

    async def sleep(seconds: float) -> None:
        primary.world.store.outage = False
        clock.advance(max(seconds, 0.1))

    primary.world.store.outage = True
    monkeypatch.setattr(asyncio, "sleep", sleep)
    service = Service(ServiceSettings())
    service.db = primary.standby

    def gave_up() -> None:
        assert service.db.get_entry(b"safe") is not None
        assert clock.monotonic() - started >= 6.0 + 60.0
        service.db.close()

    def taken_over_from() -> bool:
        return clock.monotonic() - started > 6.0 + 60.0

    monkeypatch.setattr(DB, "is_fenced", property(lambda db: taken_over_from()))
    asyncio.run(standby.watch(service, primary.standby, gave_up))
    primary.standby.close()
    with pytest.raises(ClosedError):
        service.db.get_entry(b"safe")


def test_a_former_primary_says_once_what_was_lost_and_logs_it_when_it_takes_over(
    primary: Primary, logs: list[MutableMapping[str, Any]]
) -> None:
    primary.db.put(b"lost", b"2")
    world = primary.world.kill()
    world.open("b").close()
    world.events.clear()
    components = world.components(world.settings)
    back = StandbyDatabase(
        Standby.open("primary", components=components, **world.settings), max_lag=30.0
    )
    assert asyncio.run(standby._tell_overtaken(back))
    [line] = [each for each in logs if "overtaken" in each["event"]]
    assert (line["log_level"], line["lost"]) == ("warning", [{"epoch": 1, "from": 2, "to": 2}])
    db = back.promote()
    for event in world.events:
        log_event(event)
    [line] = [each for each in logs if each["event"] == "log overtaken"]
    assert (line["log_level"], line["lost"]) == ("warning", [{"epoch": 1, "from": 2, "to": 2}])
    assert line["directory"] == "primary/quarantine"
    assert db.takeover.own_log is not None
    back.close()


def test_a_writer_answers_about_its_own_opening() -> None:
    db = FakeDatabase()
    with Client(FastPath(create_app(ServiceSettings(), db), SystemClock())) as client:
        assert client.request("POST", "/v1/admin/promote").json == db.takeover
