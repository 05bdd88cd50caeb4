"""What operators and machines ask for."""

from __future__ import annotations

import platform
from importlib.metadata import version

import pytest

from tests.api.client import Client
from tests.api.fake_database import Check, FakeDatabase


def test_flush_and_compact_say_what_they_did(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    flushed = client.post("/v1/admin/flush", b"")
    assert (flushed.status, flushed.json) == (200, {"tables": 1, "bytes": 100})
    assert flushed.headers["seerdb-seq"] == "1"
    assert client.post("/v1/admin/compact", b"").json == {"tables": 2, "bytes": 200}


def test_a_range_is_compacted_whose_bounds_are_any_bytes(client: Client, db: FakeDatabase) -> None:
    for query, bounds in (
        ("", (None, None)),
        ("?start=&end=", (None, None)),
        ("?start=a%00&end=%FF", (b"a\x00", b"\xff")),
        ("?end=a+b", (None, b"a+b")),
    ):
        assert client.post(f"/v1/admin/compact{query}", b"").status == 200
        assert db.compacted == bounds
    client.post("/v1/admin/compact?start=b&end=a", b"").problem(400, "invalid-request")
    client.post("/v1/admin/compact?start=a&start=b", b"").problem(400, "invalid-request")


def test_status(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    answer = client.get("/v1/admin/status")
    assert answer.json == {"seq": 1, "levels": [{"level": 0, "tables": 2}]}
    assert answer.headers["seerdb-seq"] == "1"


def test_alive(client: Client, db: FakeDatabase) -> None:
    db.checks[0].ok = False
    assert client.get("/livez").json == {"live": True}


def test_ready(client: Client) -> None:
    answer = client.get("/readyz")
    assert answer.status == 200
    assert answer.json == {
        "ready": True,
        "checks": [{"name": "wal", "ok": True, "detail": "1 segment"}],
    }


def test_not_ready_names_what_fails(client: Client, db: FakeDatabase) -> None:
    db.checks.append(Check("flush", ok=False, detail="degraded: 3 GiB left, 600 s"))
    answer = client.get("/readyz")
    document = answer.problem(503, "not-ready")
    assert document["detail"] == "failed: flush"
    assert document["checks"][1] == {
        "name": "flush",
        "ok": False,
        "detail": "degraded: 3 GiB left, 600 s",
    }
    assert answer.headers["retry-after"] == "5"


def test_version(client: Client) -> None:
    assert client.get("/version").json == {
        "name": "seerdb",
        "version": version("seerdb"),
        "python": platform.python_version(),
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/version"),
        ("GET", "/v1/admin/status"),
        ("POST", "/v1/admin/flush"),
        ("POST", "/v1/admin/compact"),
        ("POST", "/v1/admin/backups"),
        ("GET", "/v1/admin/backups"),
        ("GET", "/v1/admin/recovery-points"),
    ],
)
def test_unknown_parameters_are_refused(client: Client, method: str, path: str) -> None:
    client.request(method, f"{path}?verbose=1").problem(400, "invalid-request")


def test_checkpoints_are_made_listed_and_dropped(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    made = client.post("/v1/admin/checkpoints?name=one&expires=60", b"")
    one = {"name": "one", "seq": 1, "time": 1.5, "number": 7, "expires": 60.0}
    assert (made.status, made.json) == (200, one)
    assert client.post("/v1/admin/checkpoints?flush=false", b"").json["number"] == 6
    client.post("/v1/admin/checkpoints?name=one", b"").problem(409, "already-exists")
    listed = client.get("/v1/admin/checkpoints").json["checkpoints"]
    assert [each["name"] for each in listed] == ["one", "unnamed"]
    dropped = client.delete("/v1/admin/checkpoints/one")
    assert (dropped.status, dropped.headers["seerdb-seq"]) == (204, "1")
    client.delete("/v1/admin/checkpoints/one").problem(404, "not-found")
    for query in ("expires=0", "expires=-1", "flush=maybe", "name=%FF", "other=1"):
        client.post(f"/v1/admin/checkpoints?{query}", b"").problem(400, "invalid-request")


def test_a_warning_is_listed_and_makes_nothing_unready(client: Client, db: FakeDatabase) -> None:
    db.checks.append(Check("restore drill", ok=False, detail="a table is gone", is_warning=True))
    reply = client.get("/readyz")
    assert reply.status == 200
    assert {"name": "restore drill", "ok": False, "detail": "a table is gone"} in reply.json[
        "checks"
    ]


def test_a_restore_in_place_is_asked_for_by_seq_time_or_checkpoint(
    client: Client, db: FakeDatabase
) -> None:
    db.load(a="1")
    reply = client.post("/v1/admin/restore?as_of=7", b"")
    assert (reply.status, reply.headers["seerdb-seq"]) == (200, "1")
    assert reply.json == {"as_of": 7, "checkpoint": None, "dry_run": False}
    reply = client.post("/v1/admin/restore?as_of=2026-01-31T12:00:00Z&dry_run=true", b"")
    assert reply.json["as_of"].startswith("2026-01-31T12:00:00")
    assert reply.json["dry_run"]
    client.post("/v1/admin/restore?checkpoint=one", b"").problem(404, "not-found")
    client.post("/v1/admin/checkpoints?name=one", b"")
    assert client.post("/v1/admin/restore?checkpoint=one", b"").json["checkpoint"] == "one"
    for query in ("as_of=never", "dry_run=1", "checkpoint=%FF", "other=1"):
        client.post(f"/v1/admin/restore?{query}", b"").problem(400, "invalid-request")


def test_backups_are_begun_told_of_and_cancelled(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    wish = b'{"to": "/x", "label": "y", "keep": true, "jobs": 3, "rate": 4}'
    began = client.post("/v1/admin/backups", wish)
    assert (began.status, began.headers["seerdb-seq"]) == (202, "1")
    assert began.json == {"id": "id0", "to": "/x y True False 3 4", "state": "running"}
    busy = client.post("/v1/admin/backups", b'{"to": "/x"}')
    busy.problem(429, "busy")
    assert busy.headers["retry-after"] == "7"
    assert client.get("/v1/admin/backups").json == {"backups": [began.json]}
    assert client.get("/v1/admin/backups/id0").json == began.json
    assert client.delete("/v1/admin/backups/id0").status == 204
    assert client.get("/v1/admin/backups/id0").json["state"] == "failed"
    client.get("/v1/admin/backups/other").problem(404, "not-found")
    client.delete("/v1/admin/backups/other").problem(404, "not-found")
    for body in (
        b"",
        b"{}",
        b'{"to": ""}',
        b'{"to": "x"}',
        b'{"to": "/x", "jobs": 0}',
        b'{"to": "/x", "a": 1}',
    ):
        client.post("/v1/admin/backups", body).problem(400, "invalid-request")


def test_recovery_points_of_the_bucket_or_a_repository(client: Client) -> None:
    assert client.get("/v1/admin/recovery-points").json == {"from": None, "ranges": []}
    found = client.get("/v1/admin/recovery-points?from=s3%3A%2F%2Fb").json
    assert found == {"from": "s3://b", "ranges": []}
    client.get("/v1/admin/recovery-points?from=nowhere").problem(404, "not-found")
    client.get("/v1/admin/recovery-points?from=").problem(400, "invalid-request")


def test_a_writer_that_was_overtaken_does_not_say_that_it_was_promoted(
    client: Client, db: FakeDatabase
) -> None:
    assert client.post("/v1/admin/promote", b"").json == db.takeover
    db.is_fenced = True
    client.post("/v1/admin/promote", b"").problem(409, "fenced")
