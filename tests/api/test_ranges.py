"""Scans as pages and streams, and range deletes."""

from __future__ import annotations

import asyncio
import base64
from urllib.parse import quote_from_bytes

import pytest
from structlog.typing import EventDict

from seerdb import errors
from seerdb_api import scan
from tests.api.client import Answer, Client
from tests.api.fake_database import FakeDatabase

ODD_KEYS = [b"\x00", b"\x00\x00", b"a", b"a\x00", b"a/b", b"ab", b"b", b"b\xff", b"\xfe", b"\xff"]
NDJSON = "application/x-ndjson"


@pytest.fixture
def db() -> FakeDatabase:
    db = FakeDatabase()
    for number, key in enumerate(ODD_KEYS):
        db.put(key, b"v%d" % number)
    return db


def key_of(item: dict[str, str]) -> bytes:
    if "key" in item:
        return item["key"].encode()
    return base64.b64decode(item["key_base64"])


def keys_of(answer: Answer) -> list[bytes]:
    assert answer.status == 200, answer.body
    return [key_of(item) for item in answer.json["items"]]


def walk(client: Client, query: str, limit: int) -> list[bytes]:
    """All keys of a query, read page by page."""
    found: list[bytes] = []
    cursor = ""
    for _ in range(100):
        answer = client.get(f"/v1/kv?{query}&limit={limit}{cursor}")
        found += keys_of(answer)
        if answer.json["cursor"] is None:
            return found
        assert len(answer.json["items"]) == limit
        cursor = f"&cursor={answer.json['cursor']}"
    raise AssertionError("the scan does not end")


def test_a_page_of_items(client: Client, db: FakeDatabase) -> None:
    answer = client.get("/v1/kv?start=a&limit=2")
    assert answer.json["items"] == [
        {"key": "a", "value": "v2", "seq": 3},
        {"key": "a\x00", "value": "v3", "seq": 4},
    ]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["seerdb-seq"] == "10"
    assert client.get("/v1/kv").json["cursor"] is None


def test_bytes_that_are_no_text_are_base64(client: Client, db: FakeDatabase) -> None:
    db.put(b"\xff", b"\x00\xff")
    [item] = client.get("/v1/kv?start=%FF").json["items"]
    assert item == {"key_base64": "/w==", "value_base64": "AP8=", "seq": 11}


@pytest.mark.parametrize("reverse", ["false", "true"])
@pytest.mark.parametrize("limit", [1, 2, 3, 9, 10, 11])
def test_pages_add_up_to_one_scan(client: Client, limit: int, reverse: str) -> None:
    expected = sorted(ODD_KEYS, reverse=reverse == "true")
    assert walk(client, f"reverse={reverse}", limit) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ODD_KEYS),
        ("start=a&end=b", [b"a", b"a\x00", b"a/b", b"ab"]),
        ("start=&end=a", [b"\x00", b"\x00\x00"]),
        ("start=b&end=", [b"b", b"b\xff", b"\xfe", b"\xff"]),
        ("prefix=a", [b"a", b"a\x00", b"a/b", b"ab"]),
        ("prefix=%FF", [b"\xff"]),
        ("prefix=b%FF", [b"b\xff"]),
        ("prefix=", ODD_KEYS),
        ("prefix=a&start=a%2F", [b"a/b", b"ab"]),
        ("prefix=a&end=a%2F", [b"a", b"a\x00"]),
        ("prefix=a&start=b", []),
        ("start=b&end=a", []),
        ("start=a+", [key for key in ODD_KEYS if key >= b"a+"]),
    ],
)
def test_ranges_and_prefixes(client: Client, query: str, expected: list[bytes]) -> None:
    assert walk(client, query, 3) == expected
    assert walk(client, f"{query}&reverse=true", 3) == expected[::-1]
    assert keys_of(client.get(f"/v1/kv?{query}")) == expected


def test_a_plus_is_a_plus(client: Client, db: FakeDatabase) -> None:
    db.put(b"p b", b"")
    db.put(b"p+b", b"")
    assert keys_of(client.get("/v1/kv?prefix=p+")) == [b"p+b"]
    assert keys_of(client.get("/v1/kv?prefix=p%20")) == [b"p b"]


def test_keys_only(client: Client) -> None:
    assert client.get("/v1/kv?prefix=ab&keys_only=true").json["items"] == [{"key": "ab", "seq": 6}]
    assert "value" in client.get("/v1/kv?prefix=ab&keys_only=false").json["items"][0]


def test_a_cursor_may_change_page_size_and_drop_values(client: Client) -> None:
    cursor = client.get("/v1/kv?limit=1").json["cursor"]
    answer = client.get(f"/v1/kv?limit=2&keys_only=true&cursor={cursor}")
    assert keys_of(answer) == ODD_KEYS[1:3]


def test_a_cursor_goes_on_after_its_key_is_deleted(client: Client) -> None:
    cursor = client.get("/v1/kv?limit=3").json["cursor"]
    client.delete("/v1/kv/a")
    assert keys_of(client.get(f"/v1/kv?cursor={cursor}")) == ODD_KEYS[3:]


def test_a_cursor_of_another_query_is_refused(client: Client) -> None:
    cursor = client.get("/v1/kv?prefix=a&limit=1").json["cursor"]
    for query in ("", "prefix=b", "prefix=a&reverse=true", "start=a"):
        answer = client.get(f"/v1/kv?{query}&cursor={cursor}")
        assert "another query" in answer.problem(400, "invalid-request")["detail"]


def test_a_damaged_cursor_is_refused(client: Client) -> None:
    cursor = client.get("/v1/kv?limit=1").json["cursor"]
    for position in range(len(cursor) - 1):
        changed = "B" if cursor[position] == "A" else "A"
        damaged = cursor[:position] + changed + cursor[position + 1 :]
        client.get(f"/v1/kv?cursor={damaged}").problem(400, "invalid-request")
    for damaged in ("", "A", "%00", "%FF", "nonsense", cursor[:-4], cursor * 2, "=" * 8):
        client.get(f"/v1/kv?cursor={damaged}").problem(400, "invalid-request")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=1.5",
        "limit=ten",
        "limit=10001",
        "limit=" + "9" * 400,
        "limit=%D9%A3",
        "reverse=yes",
        "keys_only=",
        "as_of=x",
        "snapshot=1",
        "limit=1&limit=2",
        "%FF=1",
    ],
)
def test_malformed_parameters_are_refused(client: Client, query: str) -> None:
    client.get(f"/v1/kv?{query}").problem(400, "invalid-request")


def test_the_default_page_has_a_thousand_items(client: Client, db: FakeDatabase) -> None:
    for number in range(1500):
        db.put(b"n%04d" % number, b"")
    answer = client.get("/v1/kv?prefix=n")
    assert len(answer.json["items"]) == 1000
    assert len(keys_of(client.get(f"/v1/kv?prefix=n&cursor={answer.json['cursor']}"))) == 500


def test_a_page_is_bounded_in_bytes(
    client: Client, db: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "PAGE_BYTES", 1000)
    for number in range(5):
        db.put(b"n%d" % number, b"x" * 400)
    db.put(b"n2", b"x" * 4000)
    pages = []
    cursor = ""
    while cursor is not None:
        answer = client.get(f"/v1/kv?prefix=n{cursor and '&cursor=' + cursor}")
        pages.append(keys_of(answer))
        cursor = answer.json["cursor"]
    assert pages == [[b"n0", b"n1"], [b"n2"], [b"n3", b"n4"]]


def test_a_seq_newer_than_the_one_seen_first_counts(client: Client, db: FakeDatabase) -> None:
    db.visible_seq = 2
    assert client.get("/v1/kv").headers["seerdb-seq"] == "10"


def test_a_scan_that_fails_is_a_problem(client: Client, db: FakeDatabase) -> None:
    db.failure, db.broken_at = errors.UnavailableError("no bucket at s3://secret"), b"ab"
    for accept in ("application/json", NDJSON):
        answer = client.get("/v1/kv", accept=accept)
        assert answer.problem(503, "unavailable")["retryable"] is True
        assert answer.headers["retry-after"] == "5"
        assert b"secret" not in answer.body
    assert db.scans_open == 0


def test_a_stream_holds_everything(client: Client, db: FakeDatabase) -> None:
    answer = client.get("/v1/kv", accept=NDJSON)
    assert answer.headers["content-type"] == NDJSON
    assert answer.headers["seerdb-seq"] == "10"
    assert answer.lines == client.get("/v1/kv").json["items"]
    assert [key_of(item) for item in client.get("/v1/kv?reverse=true", accept=NDJSON).lines] == (
        ODD_KEYS[::-1]
    )
    assert len(client.get("/v1/kv?limit=3", accept=NDJSON.upper()).lines) == 3
    assert client.get("/v1/kv?prefix=none", accept=NDJSON).body == b""


@pytest.mark.parametrize(
    "accept", [f"{NDJSON};q=0", f"{NDJSON}; q=0.0, */*", f"application/json, {NDJSON};q=0.5"]
)
def test_a_client_that_would_rather_not_have_a_stream_gets_a_page(
    client: Client, accept: str
) -> None:
    assert client.get("/v1/kv", accept=accept).json["cursor"] is None


def test_a_stream_is_unbounded_and_comes_in_chunks(
    client: Client, db: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "CHUNK_BYTES", 4096)
    for number in range(12_000):
        db.put(b"n%05d" % number, b"1")
    answer = client.get("/v1/kv?prefix=n&limit=11000", accept=NDJSON)
    assert len(answer.lines) == 11_000
    assert len(answer.chunks) > 100
    assert all(not chunk or chunk.endswith(b"}\n") for chunk in answer.chunks)
    assert db.scans_open == 0


@pytest.mark.parametrize(
    ("failure", "name"),
    [
        (errors.TruncatedError("short", name="tables/secret"), "truncated"),
        (ZeroDivisionError("secret"), "internal"),
    ],
)
def test_a_stream_that_fails_ends_with_a_problem(
    client: Client,
    db: FakeDatabase,
    logs: list[EventDict],
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    name: str,
) -> None:
    monkeypatch.setattr(scan, "CHUNK_BYTES", 1)
    db.failure, db.broken_at = failure, b"ab"
    answer = client.get("/v1/kv", accept=NDJSON, x_request_id="r1")
    *items, last = answer.lines
    assert answer.status == 200
    assert [key_of(item) for item in items] == ODD_KEYS[:5]
    assert (last["type"], last["status"]) == (f"urn:seerdb:{name}", 500)
    assert "r1" in last["detail"]
    assert "secret" not in str(last)
    assert any(entry.get("problem") == name for entry in logs)
    assert db.scans_open == 0


def test_a_client_that_goes_away_ends_the_scan(
    client: Client, db: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "CHUNK_BYTES", 1)
    for number in range(1000):
        db.put(b"n%04d" % number, b"1")
    connection = client.connect(b"", leave_after=3)
    client.runner.run(client.call(connection, "GET", "/v1/kv?prefix=n", b"", {"accept": NDJSON}))
    assert len(connection.sent) < 100
    assert db.scans_open == 0


def test_a_stream_waits_for_a_slow_client(
    client: Client, db: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the client does not take a chunk, at most one more has been read."""
    monkeypatch.setattr(scan, "CHUNK_BYTES", 1)
    reached, taken = asyncio.Event(), asyncio.Event()
    connection = client.connect(b"")
    send = connection.send

    async def slow_send(message: dict[str, object]) -> None:
        await send(message)
        if len(connection.sent) == 2:
            reached.set()
            await taken.wait()

    connection.send = slow_send  # type: ignore[method-assign,assignment]

    async def stream() -> tuple[int, Answer]:
        answer = asyncio.create_task(
            client.call(connection, "GET", "/v1/kv", b"", {"accept": NDJSON})
        )
        await reached.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        sent = len(connection.sent)
        taken.set()
        return sent, await answer

    sent, answer = client.runner.run(stream())
    assert sent == 2
    assert len(answer.lines) == len(ODD_KEYS)


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("start=a&end=b", [b"\x00", b"\x00\x00", b"b", b"b\xff", b"\xfe", b"\xff"]),
        ("start=&end=a", ODD_KEYS[2:]),
        ("prefix=a", [b"\x00", b"\x00\x00", b"b", b"b\xff", b"\xfe", b"\xff"]),
        ("prefix=b%FF", [key for key in ODD_KEYS if key != b"b\xff"]),
        ("start=%FE&end=%FF%FF", ODD_KEYS[:-2]),
        ("prefix=zzz", ODD_KEYS),
    ],
)
def test_range_delete(client: Client, db: FakeDatabase, query: str, left: list[bytes]) -> None:
    answer = client.delete(f"/v1/kv?{query}&durability=memory")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["seerdb-seq"] == "11"
    assert answer.headers["seerdb-durability"] == "memory"
    assert sorted(db.entries) == left


@pytest.mark.parametrize(
    "query",
    [
        "",
        "prefix=",
        "prefix=%FF",
        "prefix=%FF%FF",
        "start=a",
        "end=a",
        "start=a&end=",
        "start=&end=",
        "start=b&end=a",
        "start=a&end=a",
        "start=a&prefix=a",
        "start=a&end=b&prefix=a",
        "start=a&end=" + quote_from_bytes(b"\xff" * 65_536),
        "start=a&end=b&limit=3",
    ],
)
def test_a_range_delete_that_is_not_spelled_out_is_refused(
    client: Client, db: FakeDatabase, query: str
) -> None:
    client.delete(f"/v1/kv?{query}").problem(400, "invalid-request")
    assert sorted(db.entries) == ODD_KEYS


@pytest.mark.parametrize("condition", [{"if_match": '"1"'}, {"if_none_match": "*"}])
def test_a_range_delete_with_a_condition_is_refused(
    client: Client, db: FakeDatabase, condition: dict[str, str]
) -> None:
    client.delete("/v1/kv?prefix=a", **condition).problem(400, "invalid-request")
    assert sorted(db.entries) == ODD_KEYS


def test_other_methods_are_refused(client: Client) -> None:
    for method in ("PUT", "POST", "HEAD"):
        answer = client.request(method, "/v1/kv")
        assert answer.status == 405
        assert answer.headers["allow"] == "DELETE, GET"
