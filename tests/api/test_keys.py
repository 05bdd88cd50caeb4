"""One key over HTTP, on the thin path and on the documented routes alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seerdb import errors
from seerdb.clock import SystemClock
from seerdb_api.app import App
from seerdb_api.fast import FastPath
from tests.api.client import Client
from tests.api.conftest import BODY_LIMIT
from tests.api.fake_database import FakeDatabase


@pytest.fixture(params=["thin", "routed"])
def client(app: App, request: pytest.FixtureRequest) -> Iterator[Client]:
    with Client(FastPath(app, SystemClock()) if request.param == "thin" else app) as client:
        yield client


def test_put_then_get(client: Client) -> None:
    written = client.put("/v1/kv/a", b"1")
    assert (written.status, written.body) == (204, b"")
    assert written.headers["etag"] == '"1"'
    assert written.headers["seerdb-durability"] == "local"
    assert written.headers["seerdb-seq"] == "1"
    read = client.get("/v1/kv/a")
    assert (read.status, read.body) == (200, b"1")
    assert read.headers["etag"] == '"1"'
    assert read.headers["seerdb-seq"] == "1"
    assert read.headers["content-type"] == "application/octet-stream"
    assert read.headers["content-length"] == "1"


def test_a_put_may_say_how_long_it_lives(client: Client, db: FakeDatabase) -> None:
    assert client.put("/v1/kv/a?ttl=30&durability=memory", b"1").status == 204
    assert client.put("/v1/kv/b?ttl=0.5", b"1").status == 204
    assert db.lifetimes_us == {b"a": 30_000_000, b"b": 500_000}


@pytest.mark.parametrize("ttl", ["", "0", "-1", "nan", "inf", "1e3", "x", "3153600001", "1&ttl=1"])
def test_a_bad_lifetime_changes_nothing(client: Client, db: FakeDatabase, ttl: str) -> None:
    client.put(f"/v1/kv/a?ttl={ttl}", b"1").problem(400, "invalid-request")
    assert not db.entries


def test_only_a_put_takes_a_lifetime(client: Client) -> None:
    client.delete("/v1/kv/a?ttl=1").problem(400, "invalid-request")
    client.get("/v1/kv/a?ttl=1").problem(400, "invalid-request")


def test_an_empty_value_is_a_value(client: Client) -> None:
    assert client.put("/v1/kv/a").status == 204
    read = client.get("/v1/kv/a")
    assert (read.status, read.body, read.headers["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (b"/v1/kv/plain", b"plain"),
        (b"/v1/kv/a/b/c", b"a/b/c"),
        (b"/v1/kv//", b"/"),
        (b"/v1/kv/a%2Fb", b"a/b"),
        (b"/v1/kv/%00", b"\x00"),
        (b"/v1/kv/%FF%fe", b"\xff\xfe"),
        (b"/v1/kv/a+b", b"a+b"),
        (b"/v1/kv/a%20b%25", b"a b%"),
        (b"/v1/kv/%C3%A9", "é".encode()),
        (b"/v1/kv/..", b".."),
        (b"/v1/kv/%3Fq", b"?q"),
    ],
)
def test_keys_are_the_percent_decoded_bytes(
    client: Client, db: FakeDatabase, path: bytes, key: bytes
) -> None:
    client.put(path, b"value")
    assert list(db.entries) == [key]
    assert client.get(path).body == b"value"
    assert client.delete(path).status == 204
    assert not db.entries


@pytest.mark.parametrize("escape", ["%", "%4", "%zz", "%4g", "%%41", "%-1"])
def test_an_escape_that_is_none_is_refused(client: Client, db: FakeDatabase, escape: str) -> None:
    path = f"/v1/kv/a{escape}"
    document = client.put(path, b"1").problem(400, "invalid-request")
    assert "'%" in document["detail"]
    client.get(path).problem(400, "invalid-request")
    client.get(f"/v1/history/a{escape}").problem(400, "invalid-request")
    client.get(f"/v1/kv?prefix={escape}").problem(400, "invalid-request")
    client.put(f"/v1/kv/a?tt{escape}=1", b"1").problem(400, "invalid-request")
    assert not db.entries


def test_values_are_any_bytes(client: Client) -> None:
    value = bytes(range(256))
    client.put("/v1/kv/a", value)
    assert client.get("/v1/kv/a").body == value


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_an_empty_key_is_refused(client: Client, method: str) -> None:
    assert client.request(method, "/v1/kv/").status == 400


def test_keys_up_to_65535_bytes(client: Client) -> None:
    assert client.put(b"/v1/kv/" + b"k" * 65_535, b"1").status == 204
    document = client.put(b"/v1/kv/" + b"k" * 65_536, b"1").problem(400, "invalid-request")
    assert "65,535" in document["detail"]


def test_a_prefix_of_the_path_that_is_encoded_is_another_path(client: Client) -> None:
    client.get(b"/v1/kv%2Fa").problem(404, "no-such-path")
    client.get(b"/v1%2Fkv/a").problem(404, "no-such-path")


def test_a_missing_key(client: Client, db: FakeDatabase) -> None:
    db.load(other="1")
    answer = client.get("/v1/kv/a")
    assert answer.problem(404, "no-such-key")["retryable"] is False
    assert answer.headers["seerdb-seq"] == "1"
    assert answer.headers["content-length"] == str(len(answer.body))


def test_head_is_get_without_the_body(client: Client, db: FakeDatabase) -> None:
    db.load(a="12345")
    answer = client.request("HEAD", "/v1/kv/a")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == "5"
    assert answer.headers["etag"] == '"1"'
    missing = client.request("HEAD", "/v1/kv/b")
    assert (missing.status, missing.body) == (404, b"")


def test_a_read_that_needs_io_goes_to_a_thread(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    db.cold.update((b"a", b"b"))
    assert client.get("/v1/kv/a").body == b"1"
    assert client.get("/v1/kv/b").status == 404


def test_a_seq_newer_than_the_one_seen_first_counts(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    db.visible_seq = 0  # the commit became visible while the read was under way
    assert client.get("/v1/kv/a").headers["seerdb-seq"] == "1"


def test_a_key_with_a_condition_is_fetched_before_the_write_is_submitted(
    client: Client, db: FakeDatabase
) -> None:
    """Else all writers would wait while the committer fetches it."""
    db.load(a="1")
    db.cold.update((b"a", b"b", b"c", b"broken"))
    assert client.put("/v1/kv/a", b"2", if_match='"1"').status == 204
    assert client.put("/v1/kv/b", b"2", if_none_match="*").status == 204
    assert client.put("/v1/kv/c", b"2").status == 204
    assert db.fetched == {b"a", b"b"}, "without a condition there is nothing to compare"
    db.broken_at, db.failure = b"broken", errors.UnavailableError("no bucket")
    client.delete("/v1/kv/broken", if_match='"1"').problem(503, "unavailable")


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ('"1"', 304),
        ('W/"1"', 304),
        ('"9", "1"', 304),
        ('"9",W/"1"', 304),
        ("*", 304),
        ('"2"', 200),
        ('"11"', 200),
        ("1", 200),
        ('"9", *', 304),
        ('"9",*,"8"', 304),
        ('"*"', 200),
        ("9*", 200),
        ("*/*", 200),
        ("", 200),
    ],
)
def test_if_none_match_on_reads(client: Client, db: FakeDatabase, tags: str, status: int) -> None:
    db.load(a="1")
    for method in ("GET", "HEAD"):
        answer = client.request(method, "/v1/kv/a", headers={"if-none-match": tags})
        assert answer.status == status
        assert answer.headers["etag"] == '"1"'
        assert answer.headers["seerdb-seq"] == "1"
    if status == 304:
        assert "content-length" not in answer.headers
    assert client.get("/v1/kv/missing", if_none_match=tags).status == 404


@pytest.mark.parametrize(
    ("tags", "status"), [('"1"', 200), ('"2", "1"', 200), ("*", 200), ('"2"', 412), ('W/"1"', 412)]
)
def test_if_match_on_reads(client: Client, db: FakeDatabase, tags: str, status: int) -> None:
    db.load(a="1")
    assert client.get("/v1/kv/a", if_match=tags).status == status
    client.get("/v1/kv/missing", if_match=tags).problem(412, "precondition-failed")


@pytest.mark.parametrize(
    ("asked", "status", "body", "where"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=9-99", 206, b"9", "bytes 9-9/10"),
        (f"bytes=4-{(1 << 63) - 1}", 206, b"456789", "bytes 4-9/10"),
        (f"bytes=-{1 << 64}", 206, b"0123456789", "bytes 0-9/10"),
        ("Bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=0-0,2-3", 200, b"0123456789", None),
        ("bytes=5-4", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("pages=0-3", 200, b"0123456789", None),
    ],
)
def test_ranges(
    client: Client, db: FakeDatabase, asked: str, status: int, body: bytes, where: str | None
) -> None:
    db.load(a="0123456789")
    answer = client.get("/v1/kv/a", range=asked)
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers.get("content-range") == where
    assert answer.headers["content-length"] == str(len(body))
    assert (
        client.request("HEAD", "/v1/kv/a", headers={"range": asked}).headers["content-length"]
        == "10"
    )


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=99-100", "bytes=-0", f"bytes={1 << 64}-"])
def test_a_range_outside_of_the_value(client: Client, db: FakeDatabase, asked: str) -> None:
    db.load(a="0123456789")
    answer = client.get("/v1/kv/a", range=asked)
    answer.problem(416, "range-not-satisfiable")
    assert answer.headers["content-range"] == "bytes */10"


def test_no_range_of_an_empty_value_can_be_had(client: Client, db: FakeDatabase) -> None:
    db.load(a="")
    client.get("/v1/kv/a", range="bytes=0-").problem(416, "range-not-satisfiable")


def test_if_range_heeds_the_range_only_for_the_same_value(client: Client, db: FakeDatabase) -> None:
    db.load(a="0123456789")
    assert client.get("/v1/kv/a", range="bytes=0-3", if_range='"1"').body == b"0123"
    assert client.get("/v1/kv/a", range="bytes=0-3", if_range='"2"').body == b"0123456789"


def test_create_only_if_absent(client: Client, db: FakeDatabase) -> None:
    assert client.put("/v1/kv/a", b"1", if_none_match="*").status == 204
    client.put("/v1/kv/a", b"2", if_none_match="*").problem(412, "precondition-failed")
    assert db.entries[b"a"].value == b"1"
    client.put("/v1/kv/a", b"2", if_none_match='"1"').problem(400, "invalid-request")


def test_compare_and_set(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    client.put("/v1/kv/a", b"2", if_match='"7"').problem(412, "precondition-failed")
    written = client.put("/v1/kv/a", b"2", if_match='"1"')
    assert (written.status, written.headers["etag"]) == (204, '"2"')
    client.delete("/v1/kv/a", if_match='"1"').problem(412, "precondition-failed")
    assert client.delete("/v1/kv/a", if_match='"2"').status == 204
    client.delete("/v1/kv/a", if_match='"2"').problem(412, "precondition-failed")


@pytest.mark.parametrize("tag", ['"0"', 'W/"1"', '"abc"', '""'])
def test_a_tag_that_no_value_can_have_never_matches(
    client: Client, db: FakeDatabase, tag: str
) -> None:
    client.put("/v1/kv/absent", b"2", if_match=tag).problem(412, "precondition-failed")
    assert not db.entries


@pytest.mark.parametrize("tag", ["*", '"1", "2"', "1"])
def test_what_one_compare_cannot_say_is_refused(client: Client, tag: str) -> None:
    client.put("/v1/kv/a", b"2", if_match=tag).problem(400, "invalid-request")


def test_both_conditions_at_once_are_refused(client: Client) -> None:
    answer = client.put("/v1/kv/a", b"2", if_match='"1"', if_none_match="*")
    answer.problem(400, "invalid-request")


def test_a_conflict_without_a_condition_is_409(client: Client, db: FakeDatabase) -> None:
    db.fate = errors.ConflictError("somebody was faster")
    client.put("/v1/kv/a", b"1").problem(409, "conflict")


def test_delete_replies_the_same_where_nothing_was(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    for expected_seq in ("2", "3"):
        answer = client.delete("/v1/kv/a")
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["seerdb-seq"] == expected_seq
        assert answer.headers["seerdb-durability"] == "local"
        assert "etag" not in answer.headers


def test_durability_of_one_write(client: Client, db: FakeDatabase) -> None:
    for level in ("memory", "interval", "local", "object"):
        answer = client.put(f"/v1/kv/a?durability={level}", b"1")
        assert answer.headers["seerdb-durability"] == level
    assert client.delete("/v1/kv/a?durability=memory").headers["seerdb-durability"] == "memory"
    assert client.put("/v1/kv/a", b"1").status == 204
    assert db.durabilities == ["memory", "interval", "local", "object", "memory", None]
    client.put("/v1/kv/a?durability=most", b"1").problem(400, "invalid-request")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("query", ["tll=3", "as_off=3", "x", "durability=local&durability=local"])
def test_unknown_and_repeated_parameters_are_refused(
    client: Client, db: FakeDatabase, method: str, query: str
) -> None:
    db.load(a="1")
    assert client.request(method, f"/v1/kv/a?{query}", b"").status == 400
    assert db.visible_seq == 1


def test_a_declared_length_over_the_limit_is_refused_unread(
    client: Client, db: FakeDatabase
) -> None:
    connection = client.connect(b"x")
    headers = {"content-length": str(BODY_LIMIT + 1)}
    answer = client.runner.run(client.call(connection, "PUT", "/v1/kv/a", b"", headers))
    answer.problem(413, "too-large")
    assert answer.headers["connection"] == "close"
    assert connection.received == 0
    assert not db.entries


def test_an_undeclared_body_is_refused_once_it_passes_the_limit(
    client: Client, db: FakeDatabase
) -> None:
    parts = [b"x" * 1024] * 1000
    connection = client.connect(parts)
    answer = client.runner.run(client.call(connection, "PUT", "/v1/kv/a", parts))
    answer.problem(413, "too-large")
    assert BODY_LIMIT < connection.received <= BODY_LIMIT + 1024
    assert not db.entries


def test_a_body_of_exactly_the_limit_in_parts(client: Client, db: FakeDatabase) -> None:
    parts = [b"x" * 1024] * (BODY_LIMIT // 1024)
    assert client.request("PUT", "/v1/kv/a", parts).status == 204
    assert len(db.entries[b"a"].value) == BODY_LIMIT


def test_half_a_body_is_never_written(client: Client, db: FakeDatabase) -> None:
    assert client.request("PUT", "/v1/kv/a", [b"half"], cut=True).status == 400
    assert not db.entries


def test_other_methods_are_refused_with_the_ones_that_work(client: Client) -> None:
    for method in ("POST", "PATCH", "OPTIONS", "TRACE"):
        answer = client.request(method, "/v1/kv/a")
        answer.problem(405, "method-not-allowed")
        assert answer.headers["allow"] == "DELETE, GET, HEAD, PUT"


@pytest.mark.parametrize("during", ["failure", "fate"])
def test_busy_says_when_to_come_back(client: Client, db: FakeDatabase, during: str) -> None:
    setattr(db, during, errors.BusyError("queue full", retry_after_seconds=2.5))
    answer = client.put("/v1/kv/a", b"1")
    assert answer.problem(429, "busy")["retryable"] is True
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["seerdb-seq"] == "0"


def test_what_went_wrong_inside_stays_inside(client: Client, db: FakeDatabase) -> None:
    db.failure, db.broken_at = errors.ChecksumError("bad", name="/secret/path"), b"a"
    answer = client.get("/v1/kv/a", x_request_id="abc-1")
    document = answer.problem(500, "checksum")
    assert "secret" not in str(document)
    assert "abc-1" in document["detail"]
    assert answer.headers["x-request-id"] == "abc-1"


def test_a_bug_is_a_500_with_a_request_id(client: Client, db: FakeDatabase) -> None:
    db.failure, db.broken_at = ZeroDivisionError("secret"), b"a"
    answer = client.get("/v1/kv/a")
    assert answer.headers["x-request-id"] in answer.problem(500, "internal")["detail"]
    assert b"secret" not in answer.body
