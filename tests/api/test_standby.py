"""A standby over HTTP: refused until it is promoted or its primary is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from seerdb import DB, Standby
from seerdb.clock import SystemClock
from seerdb.errors import ClosedError, UnavailableError
from seerdb_api import standby
from seerdb_api.app import create_app
from seerdb_api.fast import FastPath
from seerdb_api.service import Service
from seerdb_api.settings import ServiceSettings
from seerdb_api.standby import StandbyDatabase
from tests.api.client import Client
from tests.api.fake_database import FakeDatabase
from tests.fixtures.database import ROOMY, World


class Primary:
    """A writer in one world, and a standby of it that never looks by itself."""

    def __init__(self) -> None:
        self.world = World(**ROOMY, lease=6.0)
        self.db = self.world.open("primary")
        self.db.put(b"safe", b"1", durability="object")
        components = self.world.components(self.world.settings)
        self.standby = StandbyDatabase(
            Standby.open("standby", components=components, **self.world.settings)
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


def test_until_it_is_the_writer_it_sends_everybody_away(client: Client) -> None:
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
    assert "primary" in client.get("/v1/admin/status").json


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


def test_a_promotion_that_fails_leaves_a_standby(client: Client, primary: Primary) -> None:
    primary.world.store.fail("list", times=100, error=UnavailableError("away, by plan"))
    assert client.request("POST", "/v1/admin/promote").status == 503
    assert client.get("/v1/kv/safe").status == 409


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


def test_a_writer_answers_about_its_own_opening() -> None:
    db = FakeDatabase()
    with Client(FastPath(create_app(ServiceSettings(), db), SystemClock())) as client:
        assert client.request("POST", "/v1/admin/promote").json == db.takeover
