"""Atomic batches and multi-get."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from seerdb import Entry, errors
from seerdb_api import service
from seerdb_api.routes import batches
from tests.api.client import Client
from tests.api.conftest import BODY_LIMIT
from tests.api.fake_database import FakeDatabase


def test_a_batch_is_committed_together(client: Client, db: FakeDatabase) -> None:
    db.load(b="1", ca="1", cb="1", d="1")
    ops = [
        {"op": "put", "key": "a", "value": "1"},
        {"op": "delete", "key": "b"},
        {"op": "delete_range", "start": "c", "end": "d"},
    ]
    answer = client.post("/v1/batch", {"ops": ops, "durability": "object"})
    assert (answer.status, answer.json) == (200, {"seq": 5, "count": 3})
    assert answer.headers["seerdb-seq"] == "5"
    assert answer.headers["seerdb-durability"] == "object"
    assert sorted(db.entries) == [b"a", b"d"]
    assert db.durabilities == ["object"]


@pytest.mark.parametrize("condition", [{"if_match": '"1"'}, {"if_none_match": "*"}])
def test_a_batch_with_a_condition_is_refused(
    client: Client, db: FakeDatabase, condition: dict[str, str]
) -> None:
    db.load(a="1")
    body = {"ops": [{"op": "delete", "key": "a"}]}
    client.post("/v1/batch", body, **condition).problem(400, "invalid-request")
    assert sorted(db.entries) == [b"a"]


def test_values_expire_and_operands_merge_in_a_batch(client: Client, db: FakeDatabase) -> None:
    ops = [
        {"op": "put", "key": "a", "value": "1", "ttl": 30},
        {"op": "put", "key": "b", "value": "", "ttl": 0.25},
        {"op": "merge", "key": "a", "operand": "2"},
        {"op": "merge", "key_base64": "/w==", "operand_base64": "AP8="},
    ]
    assert client.post("/v1/batch", {"ops": ops}).json == {"seq": 1, "count": 4}
    assert db.lifetimes_us == {b"a": 30_000_000, b"b": 250_000}
    assert {key: entry.value for key, entry in db.entries.items()} == {
        b"a": b"12",
        b"b": b"",
        b"\xff": b"\x00\xff",
    }


def test_the_default_durability_is_named(client: Client, db: FakeDatabase) -> None:
    answer = client.post("/v1/batch", {"ops": [{"op": "delete", "key": "b"}]})
    assert answer.headers["seerdb-durability"] == "local"
    assert db.durabilities == [None]


def test_a_batch_in_base64(client: Client, db: FakeDatabase) -> None:
    db.put(b"\xff\x01", b"")
    ops = [
        {"op": "put", "key_base64": "/w==", "value_base64": "AP8="},
        {"op": "put", "key_base64": "/wA=", "value": ""},
        {"op": "put", "key": "é\x00", "value_base64": ""},
        {"op": "delete", "key_base64": "/wA="},
        {"op": "delete_range", "start_base64": "/wE=", "end_base64": "/wI="},
    ]
    assert client.post("/v1/batch", {"ops": ops}).json == {"seq": 2, "count": 5}
    assert db.entries == {
        b"\xff": Entry(b"\xff", b"\x00\xff", 2),
        "é\x00".encode(): Entry("é\x00".encode(), b"", 2),
    }


PUT = {"op": "put", "key": "a", "value": "1"}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "put", "key": "a"},
        {"op": "put", "value": "1"},
        {"op": "put"},
        {"op": "put", "key": "a", "key_base64": "YQ==", "value": "1"},
        {"op": "put", "key": "a", "value": "1", "value_base64": "MQ=="},
        {"op": "put", "key": "", "value": "1"},
        {"op": "put", "key_base64": "", "value": "1"},
        {"op": "put", "key": "k" * 65_536, "value": "1"},
        {"op": "put", "key": "a", "value": None},
        {"op": "put", "key": "a", "value": 1},
        {"op": "put", "key": "a", "value": "1", "ttl": 0},
        {"op": "put", "key": "a", "value": "1", "ttl": -1.5},
        {"op": "put", "key": "a", "value": "1", "ttl": 3_153_600_001},
        {"op": "put", "key": "a", "value": "1", "ttl": "3"},
        {"op": "put", "key": "a", "value": "1", "ttl": None},
        {"op": "delete", "key": "a", "ttl": 3},
        {"op": "merge", "key": "a"},
        {"op": "merge", "key": "a", "operand": "1", "operand_base64": "MQ=="},
        {"op": "merge", "key": "a", "operand": "1", "ttl": 3},
        {"op": "put", "key_base64": "YQ=", "value": "1"},
        {"op": "put", "key_base64": "Y!==", "value": "1"},
        {"op": "put", "key_base64": "_w==", "value": "1"},
        {"op": "delete", "key": "a", "value": "1"},
        {"op": "delete"},
        {"op": "delete_range", "start": "a"},
        {"op": "delete_range", "start": "b", "end": "a"},
        {"op": "delete_range", "start": "a", "end": "a"},
        {"op": "delete_range", "start": "a", "start_base64": "YQ==", "end": "b"},
        {"op": "merge", "key": "a", "value": "1"},
        {"key": "a", "value": "1"},
        [],
        None,
        "put",
    ],
)
def test_one_wrong_operation_refuses_the_batch(
    client: Client, db: FakeDatabase, operation: Any
) -> None:
    answer = client.post("/v1/batch", {"ops": [PUT, operation]})
    answer.problem(400, "invalid-request")
    assert not db.entries


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"ops":[]}',
        b'{"ops":{}}',
        b'{"ops":[{"op":"delete","key":"a"}],"durability":"most"}',
        b'{"ops":[{"op":"delete","key":"a"}],"expect":1}',
        b'{"ops":[{"op":"delete","key":"\xff"}]}',
        b'{"ops":[{"op":"delete","key":"\\ud800"}]}',
        b'{"ops":[{"op":"delete","key":"a"}]} and more',
        b"[" * 60_000,
        b'{"ops":[{"op":"delete","key":"a"},' + b'{"op":' * 5_000,
    ],
)
def test_a_malformed_batch_is_refused(client: Client, db: FakeDatabase, body: bytes) -> None:
    client.post("/v1/batch", body).problem(400, "invalid-request")
    assert db.visible_seq == 0


def test_where_a_batch_is_wrong_is_told(client: Client) -> None:
    answer = client.post("/v1/batch", {"ops": [PUT, {"op": "put", "key": 1}]})
    assert "$.ops[1].key" in answer.problem(400, "invalid-request")["detail"]


def test_a_large_batch_is_decoded_in_a_thread(
    client: Client, db: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "INLINE_BYTES", 10)
    assert client.post("/v1/batch", {"ops": [PUT] * 100}).json == {"seq": 1, "count": 100}
    client.post("/v1/batch", b"{" * 100).problem(400, "invalid-request")


@pytest.mark.parametrize("operations", [[PUT] * 2000, [{**PUT, "value": "x" * 5000}]])
def test_a_large_batch_is_made_ready_where_nobody_waits_for_it(
    operations: list[Any], client: Client, db: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the event loop, nor reads that all wait for a bucket that is away."""

    async def full(*_: object) -> None:
        raise errors.UnavailableError("every thread for reads waits for the bucket")

    threads: list[int] = []
    submit_all = db.submit_all

    def submit(*args: Any) -> Any:
        threads.append(threading.get_ident())
        return submit_all(*args)

    monkeypatch.setattr(db, "submit_all", submit)
    monkeypatch.setattr(service, "LARGE_BYTES", 4096)
    monkeypatch.setattr(service.Service, "read", full)
    for ops in ([PUT], operations):
        count = len(ops)
        assert client.post("/v1/batch", {"ops": ops}).json["count"] == count
    on_the_loop, elsewhere = threads
    assert on_the_loop != elsewhere
    db.failure = errors.PoisonedError("no more writes")
    client.post("/v1/batch", {"ops": operations}).problem(503, "poisoned")


def test_a_batch_over_the_limit_is_refused(client: Client, db: FakeDatabase) -> None:
    body = json.dumps({"ops": [{"op": "put", "key": "a", "value": "x" * BODY_LIMIT}]}).encode()
    for sent in (body, [body[:100], body[100:]]):
        answer = client.request("POST", "/v1/batch", sent)
        answer.problem(413, "too-large")
        assert answer.headers["connection"] == "close"
    assert not db.entries


def test_a_batch_that_is_not_committed(client: Client, db: FakeDatabase) -> None:
    db.fate = errors.PoisonedError("fdatasync failed on /secret")
    answer = client.post("/v1/batch", {"ops": [PUT]})
    answer.problem(503, "poisoned")
    assert answer.headers["retry-after"] == "5"
    assert b"secret" not in answer.body
    db.fate = errors.FencedError("epoch 4 took over")
    assert client.post("/v1/batch", {"ops": [PUT]}).problem(409, "fenced")["retryable"] is False


def test_multi_get_answers_in_order(client: Client, db: FakeDatabase) -> None:
    db.load(a="1")
    db.put(b"\xff", b"\xff")
    answer = client.post("/v1/mget", {"keys": ["b", "a", "a"]})
    assert answer.json == {
        "items": [
            {"key": "b", "value": None},
            {"key": "a", "value": "1", "seq": 1},
            {"key": "a", "value": "1", "seq": 1},
        ]
    }
    assert answer.headers["seerdb-seq"] == "2"
    answer = client.post("/v1/mget", {"keys_base64": ["/w==", "/wA=", "YQ=="]})
    assert answer.json == {
        "items": [
            {"key_base64": "/w==", "value_base64": "/w==", "seq": 2},
            {"key_base64": "/wA=", "value": None},
            {"key": "a", "value": "1", "seq": 1},
        ]
    }


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"keys": []},
        {"keys": ["a"], "keys_base64": ["YQ=="]},
        {"keys": "a"},
        {"keys": [1]},
        {"keys": [""]},
        {"keys_base64": ["Y"]},
        {"keys": ["a"], "as_of": 1},
        {"keys": ["a"] * 10_001},
    ],
)
def test_a_malformed_multi_get_is_refused(client: Client, request_: Any) -> None:
    client.post("/v1/mget", request_).problem(400, "invalid-request")


@pytest.mark.parametrize("path", ["/v1/batch", "/v1/mget"])
def test_unknown_parameters_and_methods_are_refused(client: Client, path: str) -> None:
    client.post(f"{path}?ttl=1", {"keys": ["a"]}).problem(400, "invalid-request")
    answer = client.get(path)
    answer.problem(405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"


def test_the_seq_of_a_multi_get_is_not_before_what_it_shows(
    client: Client, db: FakeDatabase
) -> None:
    db.load(a="1", b="2")
    db.visible_seq = 1  # as it was before b came, while the reply was being made
    assert client.post("/v1/mget", {"keys": ["b", "a"]}).headers["seerdb-seq"] == "2"
    assert client.post("/v1/mget", {"keys": ["c"]}).headers["seerdb-seq"] == "1"


def test_of_a_name_that_stands_twice_the_last_counts(client: Client, db: FakeDatabase) -> None:
    """The decoder does not tell; the documentation does."""
    body = (
        b'{"ops":[{"op":"put","key":"a","value":"1","key":"b"}],"ops":[{"op":"delete","key":"c"}]}'
    )
    assert client.post("/v1/batch", body).json == {"seq": 1, "count": 1}
    body = b'{"ops":[{"op":"put","key":"a","value":"1","key":"b"}]}'
    client.post("/v1/batch", body)
    assert db.entries.keys() == {b"b"}
