"""The service over a real database: what a client wrote is there, also after a restart."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.typing import EventDict

from seerdb import DB, Components, Event
from seerdb.clock import SystemClock
from seerdb.events import Fenced, Poisoned, WorkFailed, WriteStalled
from seerdb.storage.workers import cluster
from seerdb.testing.clock import FakeClock
from seerdb_api.app import create_app
from seerdb_api.database import log_event
from seerdb_api.fast import FastPath
from seerdb_api.metrics import ENGINE
from seerdb_api.settings import ServiceSettings
from tests.api.client import Client
from tests.api.test_ranges import ODD_KEYS, key_of, walk

SETTINGS: dict[str, Any] = {"background": "thread", "min_free_disk": 0, "wal_segment_size": 1 << 20}


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings.build({**SETTINGS, "data_dir": str(tmp_path / "db")})


def served(settings: ServiceSettings, db: DB | None = None) -> Client:
    return Client(FastPath(create_app(settings, db), SystemClock()))


@pytest.fixture
def client(settings: ServiceSettings) -> Iterator[Client]:
    with served(settings) as client:
        yield client


def test_one_key(client: Client) -> None:
    written = client.put("/v1/kv/a%00%FF", b"\x00value")
    assert (written.status, written.headers["etag"]) == (204, '"1"')
    assert client.get("/v1/kv/a%00%FF").body == b"\x00value"
    assert client.get("/v1/kv/a%00%FF", if_none_match='"1"').status == 304
    assert client.put("/v1/kv/a%00%FF", b"2", if_match='"9"').status == 412
    assert client.put("/v1/kv/a%00%FF", b"2", if_none_match="*").status == 412
    assert client.put("/v1/kv/a%00%FF", b"2", if_match='"1"').headers["etag"] == '"2"'
    assert client.delete("/v1/kv/a%00%FF", if_match='"1"').status == 412
    assert client.delete("/v1/kv/a%00%FF", if_match='"2"').status == 204
    assert client.get("/v1/kv/a%00%FF").status == 404
    assert client.put("/v1/kv/a%00%FF", b"3", if_none_match="*").status == 204
    assert client.delete("/v1/kv/never").status == 204


def test_a_value_is_gone_when_its_time_is_over(settings: ServiceSettings) -> None:
    clock = FakeClock()
    db = DB.open(str(settings.data_dir), components=Components(clock=clock), **SETTINGS)
    with served(settings, db) as client:
        tag = client.put("/v1/kv/a?ttl=30", b"1").headers["etag"]
        clock.advance(29.0)
        assert client.get("/v1/kv/a").body == b"1"
        clock.advance(2.0)
        assert client.get("/v1/kv/a").status == 404
        assert client.request("HEAD", "/v1/kv/a").status == 404
        assert client.get("/v1/kv?prefix=a").json["items"] == []
        assert client.post("/v1/mget", {"keys": ["a"]}).json == {
            "items": [{"key": "a", "value": None}]
        }
        assert client.put("/v1/kv/a", b"2", if_match=tag).status == 412
        assert client.put("/v1/kv/a", b"2", if_none_match="*").status == 204


def test_a_merge_that_no_worker_does_is_no_fault_of_the_store(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.2)
    db = DB.open(str(settings.data_dir), **(SETTINGS | {"background": "dask://127.0.0.1:1"}))
    with served(settings, db) as client:
        for value in (b"1", b"2"):
            client.put("/v1/kv/a", value)
            assert client.request("POST", "/v1/admin/flush").status == 200
        problem = client.request("POST", "/v1/admin/compact").problem(503, "worker")
        assert problem["title"] == "The workers did not do the job"


def test_a_key_in_a_table_that_is_lost_is_no_missing_key(settings: ServiceSettings) -> None:
    with DB.open(str(settings.data_dir), **SETTINGS) as db:
        db.put(b"a", b"1")
    for table in Path(settings.data_dir, "bucket", "tables").iterdir():
        table.unlink()
    with served(settings) as client:
        assert client.get("/v1/kv/a").json["type"] == "urn:seerdb:corruption"
        assert client.request("HEAD", "/v1/kv/a").status == 500
        assert client.put("/v1/kv/a", b"2", if_none_match="*").status == 500


def test_operands_merge_and_what_does_not_fold_says_so(settings: ServiceSettings) -> None:
    settings = replace(settings, options=replace(settings.options, merge_operator="int64_add"))
    one = b64encode((1).to_bytes(8, "little")).decode()
    with served(settings) as client:
        for key in ("n", "n", "word"):
            op = {"op": "merge", "key": key, "operand_base64": one}
            assert client.post("/v1/batch", {"ops": [op]}).status == 200
        assert client.get("/v1/kv/n").body == (2).to_bytes(8, "little")
        bad = {"ops": [{"op": "merge", "key": "n", "operand": "one"}]}
        assert "8 bytes" in client.post("/v1/batch", bad).problem(400, "invalid-request")["detail"]
        client.put("/v1/kv/word", b"eleven bytes")
        client.post("/v1/batch", {"ops": [{"op": "merge", "key": "word", "operand_base64": one}]})
        assert "word" in client.get("/v1/kv/word").problem(409, "merge")["detail"]
        client.post("/v1/mget", {"keys": ["n", "word"]}).problem(409, "merge")
        client.get("/v1/kv").problem(409, "merge")
        assert client.delete("/v1/kv/word").status == 204
        assert len(client.get("/v1/kv").json["items"]) == 1


def test_a_merge_without_an_operator_is_refused(client: Client) -> None:
    bad = {
        "ops": [{"op": "put", "key": "a", "value": "1"}, {"op": "merge", "key": "b", "operand": ""}]
    }
    assert (
        "merge_operator" in client.post("/v1/batch", bad).problem(400, "invalid-request")["detail"]
    )
    assert client.get("/v1/kv/a").status == 404


@pytest.mark.parametrize("level", ["memory", "interval", "local", "object"])
def test_every_durability_is_reached(client: Client, level: str) -> None:
    answer = client.put(f"/v1/kv/a?durability={level}", b"1")
    assert (answer.status, answer.headers["seerdb-durability"]) == (204, level)
    assert client.get("/v1/kv/a").body == b"1"


def test_what_was_acknowledged_is_there_after_a_restart(settings: ServiceSettings) -> None:
    with served(settings) as client:
        for number in range(50):
            assert client.put(f"/v1/kv/{number:02}", b"%d" % number).status == 204
        client.delete("/v1/kv?prefix=1")
        newest = client.get("/v1/kv/00").headers["seerdb-seq"]
    with served(settings) as client:
        keys = walk(client, "", 7)
        assert keys == [b"%02d" % number for number in range(50) if not 10 <= number < 20]
        answer = client.get("/v1/kv/49")
        assert (answer.body, answer.headers["etag"]) == (b"49", '"50"')
        assert int(answer.headers["seerdb-seq"]) >= int(newest)


def test_keys_that_left_memory_are_read_from_tables(settings: ServiceSettings) -> None:
    with served(settings) as client:
        for key in ODD_KEYS:
            client.put("/v1/kv/" + "".join(f"%{byte:02X}" for byte in key), key * 3)
        flushed = client.post("/v1/admin/flush", b"")
        assert flushed.status == 200
        assert flushed.json["tables"]
    with served(settings) as client:
        for key in ODD_KEYS:
            answer = client.get("/v1/kv/" + "".join(f"%{byte:02X}" for byte in key))
            assert answer.body == key * 3
        assert walk(client, "", 3) == ODD_KEYS
        assert walk(client, "reverse=true", 3) == ODD_KEYS[::-1]


def test_pages_and_streams_agree_with_a_model(client: Client) -> None:
    rng = random.Random(7)
    model: dict[bytes, bytes] = {}
    for step in range(300):
        key = bytes(rng.choices(b"ab\x00\xff", k=rng.randint(1, 3)))
        path = "/v1/kv/" + "".join(f"%{byte:02x}" for byte in key)
        if rng.random() < 0.8:
            model[key] = b"%d" % step
            assert client.put(path + "?durability=memory", model[key]).status == 204
        else:
            model.pop(key, None)
            assert client.delete(path + "?durability=memory").status == 204
        if step == 150:
            assert client.post("/v1/admin/flush", b"").status == 200
    expected = sorted(model)
    for query in ("", "prefix=a", "start=a&end=b", "prefix=%FF", "prefix=a&start=aa"):
        stream = client.get(f"/v1/kv?{query}", accept="application/x-ndjson")
        found = [key_of(item) for item in stream.lines]
        assert walk(client, query, 4) == found
        assert walk(client, query + "&reverse=true", 4) == found[::-1]
        if not query:
            assert found == expected
            assert client.get("/v1/kv?keys_only=true").json["items"][0].keys() <= {
                "key",
                "key_base64",
                "seq",
            }


def test_a_batch_is_one_commit(client: Client) -> None:
    client.put("/v1/kv/ca", b"1")
    ops = [
        {"op": "put", "key": "a", "value": "1"},
        {"op": "delete", "key": "b"},
        {"op": "delete_range", "start": "c", "end": "d"},
    ]
    assert client.post("/v1/batch", {"ops": ops}).json == {"seq": 2, "count": 3}
    assert client.post("/v1/mget", {"keys": ["a", "ca"]}).json == {
        "items": [{"key": "a", "value": "1", "seq": 2}, {"key": "ca", "value": None}]
    }


def test_operators_see_what_happened(client: Client) -> None:
    client.put("/v1/kv/a", b"1")
    assert client.post("/v1/admin/compact", b"").json["added"]
    assert client.post("/v1/admin/compact?start=a&end=b", b"").json == {"removed": [], "added": []}
    client.post("/v1/admin/compact?start=b&end=a", b"").problem(400, "invalid-request")
    status = client.get("/v1/admin/status").json
    assert (status["visible_seq"], status["tables"]) == (1, 1)
    assert status["levels"][0]["tables"] == 1
    ready = client.get("/readyz")
    assert (ready.status, ready.json["ready"]) == (200, True)
    assert {"writes", "bucket"} <= {check["name"] for check in ready.json["checks"]}


def test_every_number_of_the_engine_has_a_name(settings: ServiceSettings) -> None:
    with DB.open(settings.data_dir, settings.options) as db, served(settings, db) as client:
        assert db.statistics().values.keys() == ENGINE.keys()
        client.put("/v1/kv/a", b"1")
        client.post("/v1/admin/flush", b"")
        text = client.get("/metrics").body.decode()
        assert "\nseerdb_commits_total 1.0\n" in text
        assert 'seerdb_store_requests_total{operation="put",purpose="flush"}' in text
        assert 'seerdb_healthy{check="writes"} 1.0' in text


def test_the_log_hears_what_the_engine_does(client: Client, logs: list[EventDict]) -> None:
    client.put("/v1/kv/a", b"1")
    client.post("/v1/admin/flush", b"")
    events = {entry["event"]: entry for entry in logs}
    assert events["recovered"]["last_seq"] == 0
    assert events["flush completed"]["entries"] == 1
    assert events["flush completed"]["log_level"] == "info"


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (WorkFailed("flush", "no bucket", 2, 1.5), "warning"),
        (WriteStalled("the log is full"), "warning"),
        (Fenced("epoch 2"), "error"),
        (Poisoned("fdatasync failed"), "error"),
    ],
)
def test_events_that_need_somebody_stand_out(
    event: Event, level: str, logs: list[EventDict]
) -> None:
    log_event(event)
    [entry] = logs
    assert entry["log_level"] == level
    assert msgspec.structs.asdict(event).items() <= entry.items()


def test_a_closed_database_refuses_with_a_problem(settings: ServiceSettings) -> None:
    db = DB.open(settings.data_dir, settings.options)
    with served(settings, db) as client:
        db.close()
        client.get("/v1/kv/a").problem(503, "closed")
        client.put("/v1/kv/a", b"1").problem(503, "closed")
        client.get("/v1/kv").problem(503, "closed")
        client.post("/v1/mget", {"keys": ["a"]}).problem(503, "closed")


def test_reads_that_should_not_fill_the_cache(settings: ServiceSettings) -> None:
    keys = [f"k{number:03}" for number in range(500)]
    with served(settings) as client:
        ops = [{"op": "put", "key": key, "value": "v" * 200} for key in keys]
        assert client.post("/v1/batch", {"ops": ops}).status == 200

    def cached(client: Client) -> int:
        blocks: int = client.get("/v1/admin/status").json["block_cache"]["blocks"]
        return blocks

    with served(settings) as client:
        warm = cached(client)
        assert client.get("/v1/kv/k100?fill_cache=false").body == b"v" * 200
        assert client.request("HEAD", "/v1/kv/k100?fill_cache=false").status == 200
        assert len(client.get("/v1/kv?fill_cache=false").json["items"]) == 500
        body = {"keys": keys, "fill_cache": False}
        assert len(client.post("/v1/mget", body).json["items"]) == 500
        assert cached(client) == warm == 0
        assert len(client.get("/v1/kv?fill_cache=true").json["items"]) == 500
        assert cached(client) > 0
        assert client.get("/v1/kv/k100?fill_cache=no").status == 400
