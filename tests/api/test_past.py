"""Reads as of an instant, and the versions of a key, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from seerdb import KeyVersion
from tests.api.client import Client
from tests.api.fake_database import FakeDatabase


def test_a_key_is_read_as_of_a_seq(client: Client, db: FakeDatabase) -> None:
    db.load(a="1", b="2")
    found = client.get("/v1/kv/a?as_of=1")
    assert (found.status, found.body) == (200, b"1")
    assert (found.headers["etag"], found.headers["seerdb-seq"]) == ('"1"', "1")
    absent = client.get("/v1/kv/b?as_of=1")
    absent.problem(404, "no-such-key")
    assert absent.headers["seerdb-seq"] == "1"
    assert client.get("/v1/kv/a?as_of=1&fill_cache=false").body == b"1"
    assert client.get("/v1/kv/a?as_of=1", **{"if-none-match": '"1"'}).status == 304
    assert client.get("/v1/kv/a?as_of=1", range="bytes=0-0").status == 206


def test_a_range_is_read_as_of_a_seq_in_pages_and_as_a_stream(
    client: Client, db: FakeDatabase
) -> None:
    db.load(a="1", b="2", c="3")
    first = client.get("/v1/kv?as_of=2&limit=1")
    assert [each["key"] for each in first.json["items"]] == ["a"]
    assert first.headers["seerdb-seq"] == "2"
    second = client.get(f"/v1/kv?as_of=2&limit=1&cursor={first.json['cursor']}").json
    assert ([each["key"] for each in second["items"]], second["cursor"]) == (["b"], None)
    stream = client.get("/v1/kv?as_of=1", accept="application/x-ndjson")
    assert (stream.body.count(b"\n"), stream.headers["seerdb-seq"]) == (1, "1")


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-20T18:00:00Z", datetime(2026, 11, 20, 18, tzinfo=UTC)),
        ("2026-11-20T18:00:00.25Z", datetime(2026, 11, 20, 18, 0, 0, 250_000, tzinfo=UTC)),
        (
            "2026-11-20T18:00:00+01:00",
            datetime(2026, 11, 20, 18, tzinfo=timezone(timedelta(hours=1))),
        ),
    ],
)
def test_a_time_is_as_in_rfc_3339(
    client: Client, db: FakeDatabase, text: str, instant: datetime
) -> None:
    client.get(f"/v1/kv/a?as_of={text}").problem(404, "no-such-key")
    assert client.get(f"/v1/kv?as_of={text}").json["items"] == []
    assert set(db.instants) == {instant}


@pytest.mark.parametrize("text", ["", "-1", "now", "2026-11-20T18:00:00", "1.5", "%C3%A4"])
def test_what_is_no_instant_is_refused(client: Client, db: FakeDatabase, text: str) -> None:
    client.get(f"/v1/kv/a?as_of={text}").problem(400, "invalid-request")
    client.get(f"/v1/kv?as_of={text}").problem(400, "invalid-request")
    assert not db.instants


def test_an_instant_that_cannot_be_told_is_gone(client: Client, db: FakeDatabase) -> None:
    client.get("/v1/kv/a?as_of=0").problem(410, "history")
    client.get("/v1/kv?as_of=0").problem(410, "history")


def test_any_bytes_are_a_key_with_a_history(client: Client, db: FakeDatabase) -> None:
    db.versions = [KeyVersion(1, None, b"1")]
    for key in ("%0A", "a%0Ab", "a%0A", "%00%FF/"):
        assert client.get(f"/v1/history/{key}").status == 200


def test_the_versions_of_a_key(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    db.versions = [
        KeyVersion(1, None, b"1"),
        KeyVersion(2, 1_700_000_000.25, b"\xff"),
        KeyVersion(3, 1_700_000_001.0, None),
    ]
    reply = client.get("/v1/history/a%2Fb/c")
    assert (reply.status, reply.headers["seerdb-seq"]) == (200, "1")
    assert reply.json["versions"] == [
        {"seq": 1, "time": None, "value": "1"},
        {"seq": 2, "time": "2023-11-14T22:13:20.250000Z", "value_base64": "/w=="},
        {"seq": 3, "time": "2023-11-14T22:13:21.000000Z", "deleted": True},
    ]
    client.get("/v1/history/a?limit=1").problem(400, "invalid-request")


def test_no_other_key_is_told_of_when_the_path_is_spelled_in_another_way(
    client: Client, db: FakeDatabase
) -> None:
    db.versions = [KeyVersion(1, None, b"of another key")]
    client.get("/v1/%68istory/a").problem(404, "no-such-path")
