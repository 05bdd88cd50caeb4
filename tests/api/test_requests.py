"""Request ids, logs and failures around the documented routes."""

from __future__ import annotations

import re

import pytest
from structlog.typing import EventDict

from seerdb import errors
from tests.api.client import Client
from tests.api.fake_database import FakeDatabase


def test_a_request_gets_an_id(client: Client, logs: list[EventDict]) -> None:
    answer = client.get("/v1/kv?prefix=secret")
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])
    assert client.get("/version").headers["x-request-id"] != answer.headers["x-request-id"]
    entry = logs[0]
    assert (entry["event"], entry["method"], entry["route"]) == ("request", "GET", "/v1/kv")
    assert entry["status"] == 200
    assert "secret" not in str(entry)


def test_a_plain_id_of_the_client_is_kept(client: Client) -> None:
    assert client.get("/version", x_request_id="a-1.B_2").headers["x-request-id"] == "a-1.B_2"
    for given in ("", "a b", "x" * 65, "a\tb", "é"):
        assert client.get("/version", x_request_id=given).headers["x-request-id"] != given


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_what_machines_ask_all_the_time_is_logged_only_when_it_fails(
    client: Client, logs: list[EventDict], path: str
) -> None:
    assert client.get(path).status == 200
    assert logs == []
    assert client.get(f"{path}?x=1").status == 400
    assert [entry["status"] for entry in logs] == [400]


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/kv?", "/v2/kv/a", "/livez/", "/v1/admin", "/%00", "/%FF"]
)
def test_unknown_paths(client: Client, path: str) -> None:
    answer = client.request("GET", path)
    if path == "/v1/kv?":
        assert answer.status == 200
    else:
        answer.problem(404, "no-such-path")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/livez", "GET, HEAD"),
        ("/v1/kv", "DELETE, GET"),
        ("/v1/admin/flush", "POST"),
        ("/v1/admin/status", "GET"),
    ],
)
def test_wrong_methods(client: Client, path: str, allowed: str) -> None:
    answer = client.request("PATCH", path)
    assert answer.problem(405, "method-not-allowed")["detail"] == f"this path takes {allowed}"
    assert answer.headers["allow"] == allowed
    assert answer.headers["seerdb-seq"] == "0"


def test_wrong_methods_on_the_pages_of_the_framework(client: Client) -> None:
    answer = client.request("PATCH", "/docs")
    answer.problem(405, "method-not-allowed")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_a_bug_in_a_route_is_a_problem_with_a_request_id(
    client: Client, db: FakeDatabase, logs: list[EventDict]
) -> None:
    db.stats = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    answer = client.get("/v1/admin/status", x_request_id="r7")
    document = answer.problem(500, "internal")
    assert "r7" in document["detail"]
    assert "division" not in str(document)
    failed = next(entry for entry in logs if entry["event"] == "request failed")
    assert failed["request_id"] == "r7"
    assert isinstance(failed["exc_info"], ZeroDivisionError)
    assert logs[-1]["status"] == 500


def test_errors_of_the_database_carry_its_seq(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    db.failure = errors.UnavailableError("away")
    answer = client.post("/v1/admin/flush", {})
    answer.problem(503, "unavailable")
    assert answer.headers["seerdb-seq"] == "1"


def test_what_a_client_sent_is_never_echoed_raw(client: Client) -> None:
    answer = client.get("/v1/kv?<script>alert(1)</script>%22%0d%0aset-cookie:x=" + "A" * 999)
    answer.problem(400, "invalid-request")
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"\r" not in answer.body
    assert len(answer.body) < 500


def test_a_lifespan_and_other_scopes_pass_through(client: Client) -> None:
    """Entering the client ran the lifespan through both wrappers."""
    assert client.get("/livez").json == {"live": True}
