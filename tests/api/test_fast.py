"""The thin path: the same answers as the documented routes, counted and logged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.typing import EventDict

from seerdb import Batch, errors
from seerdb.testing.clock import FakeClock
from seerdb_api.app import create_app
from seerdb_api.fast import FastPath
from seerdb_api.port import Outcome, Sink, Submission, Ticket
from seerdb_api.service import Service
from seerdb_api.settings import ServiceSettings
from tests.api.client import Answer, Client
from tests.api.fake_database import FakeDatabase

REQUESTS: list[tuple[str, str, bytes, dict[str, str]]] = [
    ("GET", "/v1/kv/a", b"", {}),
    ("HEAD", "/v1/kv/a", b"", {}),
    ("GET", "/v1/kv/a", b"", {"if_none_match": '"1"'}),
    ("GET", "/v1/kv/a", b"", {"if_match": '"2"'}),
    ("GET", "/v1/kv/a", b"", {"range": "bytes=1-2"}),
    ("GET", "/v1/kv/a", b"", {"range": "bytes=9-"}),
    ("GET", "/v1/kv/missing", b"", {}),
    ("HEAD", "/v1/kv/missing", b"", {}),
    ("GET", "/v1/kv/", b"", {}),
    ("GET", "/v1/kv/a?ttl=1", b"", {}),
    ("GET", "/v1/kv/cold", b"", {}),
    ("GET", "/v1/kv/broken", b"", {"x_request_id": "r1"}),
    ("PUT", "/v1/kv/%FF%00", b"1", {}),
    ("PUT", "/v1/kv/b?durability=object", b"", {"if_none_match": "*"}),
    ("PUT", "/v1/kv/b", b"2", {"if_none_match": "*"}),
    ("PUT", "/v1/kv/b", b"x" * (1 << 20), {}),
    ("DELETE", "/v1/kv/b", b"", {"if_match": '"9"'}),
    ("DELETE", "/v1/kv/b", b"", {}),
    ("PATCH", "/v1/kv/b", b"", {}),
]


def _database() -> FakeDatabase:
    db = FakeDatabase()
    db.load(a="0123", cold="1", broken="1")
    db.cold.add(b"cold")
    db.broken_at = b"broken"
    return db


def _play(*, thin: bool) -> list[tuple[int, bytes, dict[str, str]]]:
    db, clock = _database(), FakeClock()
    app = create_app(ServiceSettings(body_limit=1000), db, clock=clock)
    answers = []
    with Client(FastPath(app, clock) if thin else app) as client:
        for method, target, body, headers in REQUESTS:
            db.failure = errors.InternalError("broken") if "broken" in target else None
            answer = client.request(method, target, body, headers=headers)
            answer.headers.pop("x-request-id", None)
            answers.append((answer.status, answer.body, dict(sorted(answer.headers.items()))))
    return answers


def test_the_thin_path_answers_as_the_documented_routes_do() -> None:
    for request, thin, routed in zip(REQUESTS, _play(thin=True), _play(thin=False), strict=True):
        if request[0] == "PATCH":  # the framework refuses a method without asking the database
            thin[2].pop("seerdb-seq")
            assert (thin[0], thin[2]["allow"]) == (routed[0], routed[2]["allow"])
        else:
            assert thin == routed, request


def test_everything_else_goes_to_the_framework(client: Client) -> None:
    assert client.get("/v1/kv").status == 200
    assert client.get("/livez").status == 200
    assert client.get("/docs").status == 200


def test_hot_requests_are_counted(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    client.get("/v1/kv/a")
    client.get("/v1/kv/missing")
    client.request("BREW", "/v1/kv/a")
    text = client.get("/metrics").body.decode()
    route = 'route="/v1/kv/{key}"'
    assert f'seerdb_http_requests_total{{method="GET",{route},status="2xx"}} 1.0' in text
    assert f'seerdb_http_requests_total{{method="GET",{route},status="4xx"}} 1.0' in text
    assert f'seerdb_http_requests_total{{method="other",{route},status="4xx"}} 1.0' in text
    assert f'seerdb_http_request_seconds_count{{method="GET",{route}}} 2.0' in text


def test_quick_requests_are_not_logged(
    client: Client, db: FakeDatabase, logs: list[EventDict]
) -> None:
    client.put("/v1/kv/a", b"1")
    client.get("/v1/kv/a")
    client.get("/v1/kv/missing")
    assert logs == []


def test_slow_requests_are_logged(logs: list[EventDict]) -> None:
    db, clock = _database(), FakeClock()

    def slow_read(key: bytes) -> None:
        clock.advance(1.5)

    db.try_get_entry = slow_read  # type: ignore[method-assign]
    with Client(FastPath(create_app(ServiceSettings(), db, clock=clock), clock)) as client:
        client.get("/v1/kv/secret-key")
    [entry] = logs
    assert (entry["event"], entry["seconds"], entry["status"]) == ("slow request", 1.5, 404)
    assert "secret-key" not in str(entry)


class GroupingDatabase(FakeDatabase):
    """Commits nothing until told, then all in one group, on another thread."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Any, ...]] = []
        self.sinks: set[int] = set()

    def submit_all(self, submissions: Sequence[Submission], sink: Sink) -> list[Any]:
        self.waiting += [(batch, ticket) for batch, _, _, ticket in submissions]
        self.sinks.add(id(sink))
        self.sink = sink
        return []

    def commit_group(self, fate: Exception | None = None) -> None:
        results = [(ticket, fate or self._apply(batch)) for batch, ticket in self.waiting]
        self.waiting.clear()
        self.sink(results)


async def _until_waiting(db: GroupingDatabase, count: int) -> None:
    while len(db.waiting) < count:  # noqa: ASYNC110 - nothing tells a test that all have come
        await asyncio.sleep(0)


async def _write_together(
    client: Client, db: GroupingDatabase, count: int, fate: Exception | None = None
) -> list[Answer]:
    connections = [client.connect_now(b"1") for _ in range(count)]
    writes = [
        asyncio.create_task(client.call(connection, "PUT", f"/v1/kv/{number}", b"1"))
        for number, connection in enumerate(connections)
    ]
    await _until_waiting(db, count)
    await asyncio.to_thread(db.commit_group, fate)
    return await asyncio.gather(*writes)


def test_a_group_of_commits_shares_one_sink() -> None:
    db = GroupingDatabase()
    with Client(create_app(ServiceSettings(), db)) as client:
        client.runner.get_loop().set_debug(True)  # refuses calls from other threads
        answers = client.runner.run(_write_together(client, db, 20))
    assert [answer.headers["etag"] for answer in answers] == [f'"{n}"' for n in range(1, 21)]
    assert {answer.headers["seerdb-seq"] for answer in answers} == {"20"}
    assert len(db.sinks) == 1


def test_one_failure_answers_every_writer_of_its_group() -> None:
    db = GroupingDatabase()
    fate = errors.PoisonedError("sync failed")
    with Client(create_app(ServiceSettings(), db)) as client:
        for answer in client.runner.run(_write_together(client, db, 20, fate)):
            answer.problem(503, "poisoned")


def test_a_writer_that_goes_away_does_not_stop_its_group() -> None:
    db = GroupingDatabase()

    async def write(client: Client) -> Answer:
        gone, stays = (
            asyncio.create_task(
                client.call(client.connect_now(b"1"), "PUT", f"/v1/kv/{name}", b"1")
            )
            for name in ("gone", "stays")
        )
        await _until_waiting(db, 2)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        db.commit_group()
        return await stays

    with Client(create_app(ServiceSettings(), db)) as client:
        assert client.runner.run(write(client)).status == 204
    assert sorted(db.entries) == [b"gone", b"stays"]


@pytest.mark.parametrize("thin", [True, False])
@pytest.mark.parametrize("stopping", [True, False])
def test_a_request_that_a_stop_gives_up_is_told_so(*, thin: bool, stopping: bool) -> None:
    """It was answered with 500, in plain text, by the HTTP server."""
    db, clock = GroupingDatabase(), FakeClock()
    app = create_app(ServiceSettings(), db)
    body = b'{"ops":[{"op":"put","key":"a","value":"1"}]}'
    ways: list[tuple[str, str, bytes]] = [("PUT", "/v1/kv/a", b"1"), ("POST", "/v1/batch", body)]

    async def give_up(client: Client) -> list[Answer | BaseException]:
        connections = [client.connect_now(body) for *_, body in ways]
        calls = [
            asyncio.create_task(client.call(connection, *way))
            for connection, way in zip(connections, ways, strict=True)
        ]
        await _until_waiting(db, len(ways))
        if stopping:
            app.state.service.stop()
        for call in calls:
            call.cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    with Client(FastPath(app, clock) if thin else app) as client:
        for outcome in client.runner.run(give_up(client)):
            if stopping:
                assert isinstance(outcome, Answer)
                outcome.problem(503, "closed")
            else:
                assert isinstance(outcome, asyncio.CancelledError)


def _fail(outcome: Outcome) -> None:
    raise KeyError(outcome)


def test_a_waiter_that_fails_does_not_stop_its_group() -> None:
    db = GroupingDatabase()

    async def write(service: Service) -> list[Outcome]:
        failures: list[dict[str, Any]] = []
        told: list[Outcome] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        tickets: list[Ticket] = [told.append, _fail, told.append]
        for ticket in tickets:
            batch = Batch()
            batch.put(b"a", b"1")
            service.submit(batch, None, None, ticket)
        await _until_waiting(db, 3)
        db.commit_group()
        while len(told) < 2:  # noqa: ASYNC110 - as in _until_waiting
            await asyncio.sleep(0)
        assert isinstance(failures[0]["exception"], KeyError)
        return told

    app = create_app(ServiceSettings(), db)
    with Client(app) as client:
        assert client.runner.run(write(app.state.service)) == [1, 3]


@pytest.mark.parametrize("owned", [True, False])
def test_a_database_given_to_the_app_stays_open(
    owned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = FakeDatabase()
    monkeypatch.setattr("seerdb_api.app.open_database", lambda settings: db)
    with Client(create_app(ServiceSettings(), None if owned else db)) as client:
        assert client.put("/v1/kv/a", b"1").status == 204
        assert not db.closed
    assert db.closed is owned
