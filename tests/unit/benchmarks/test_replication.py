"""The benchmarks of followers and failover: the load keeps its pace, and what it says is right."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import httpx
import pytest

from benchmarks.goals import Verdict, judge
from benchmarks.replication import lag, plan
from benchmarks.replication.bucket import Bucket
from benchmarks.replication.client import Connection, Pool, get, put
from benchmarks.replication.failover import FAILOVER
from benchmarks.replication.lag import BUCKET, allowed, summary
from benchmarks.replication.probe import probe
from benchmarks.replication.reader import Reader, reading
from benchmarks.replication.requests import Requests, dollars_a_month
from benchmarks.replication.writer import Paced, Pacer, key_of, level_of
from benchmarks.results import REPLICATION, Results, Sample
from benchmarks.servers.base import ServerFailedError
from benchmarks.servers.seerdb import SeerDBServer
from seerdb import DB, UnavailableError


class Handler(BaseHTTPRequestHandler):
    """Keeps what is put, and numbers it; a key that begins with ``bad`` is refused."""

    protocol_version = "HTTP/1.1"
    kept: ClassVar[dict[str, bytes]] = {}
    levels: ClassVar[list[str]] = []
    forgets: ClassVar[bool] = False
    seq: ClassVar[int | None] = 0
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_PUT(self) -> None:
        path, _, level = self.path.partition("?durability=")
        value = self.rfile.read(int(self.headers["content-length"]))
        with self.lock:
            self.kept[path] = value
            self.levels.append(level)
            seq = len(self.levels)
        self.send_response(204 if "bad" not in path else 503)
        self.send_header("ETag", f'"{seq}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        value = b"" if self.forgets else self.kept.get(self.path, b"")
        self.send_response(200 if value else 404)
        self.send_header("Content-Length", str(len(value)))
        if self.seq is not None:
            self.send_header("Seerdb-Seq", str(self.seq))
        self.send_header("Asked", self.headers.get("seerdb-min-seq", ""))
        self.end_headers()
        self.wfile.write(value)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    Handler.kept.clear()
    Handler.levels.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_client_reads_status_headers_and_body(url: str) -> None:
    async def talk() -> None:
        pool = Pool(url)
        written = await pool.request(put("a", "value"))
        assert (written.status, written.seq) == (204, 1)
        read = await pool.request(get("a", seerdb_min_seq=7))
        assert (read.status, read.header(b"asked"), read.body) == (200, b"7", b"value")
        assert (await pool.request(get("none"))).status == 404
        assert await probe(pool, pool, "b") > 0
        pool.close()
        await asyncio.sleep(0)

    asyncio.run(talk())


def test_a_probe_that_is_answered_wrongly_is_no_lag(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk() -> None:
        primary, follower = Pool(url), Pool(url)
        monkeypatch.setattr(Handler, "forgets", True)
        try:
            await probe(primary, follower, "a")
        finally:
            primary.close()
            follower.close()
            await asyncio.sleep(0)

    with pytest.raises(ServerFailedError, match="answers 404"):
        asyncio.run(talk())


def test_every_write_has_its_key_and_its_level(url: str) -> None:
    async def write() -> tuple[Pacer, Paced]:
        connections = [await Connection.open(url) for _ in range(4)]
        pacer = Pacer(connections, 200, 5)
        outcome = await pacer.run(0.5)
        for connection in connections:
            connection.close()
        await asyncio.sleep(0)
        return pacer, outcome

    pacer, outcome = asyncio.run(write())
    acknowledged = dict(pacer.acknowledged)
    assert outcome.acknowledged == len(acknowledged) == len(Handler.kept) <= 100
    assert sorted(acknowledged.values()) == list(range(1, len(acknowledged) + 1))
    assert set(Handler.kept) == {f"/v1/kv/{key_of(number)}" for number in acknowledged}
    assert Handler.levels.count("object") == -(-len(acknowledged) // 5)
    assert (outcome.failed, level_of(0, 0), level_of(10, 5)) == (0, "local", "object")


def test_a_server_that_hangs_up_ends_the_load(url: str) -> None:
    async def write() -> Paced:
        connections = [await Connection.open(url) for _ in range(2)]
        pacer = Pacer(connections, 100, 0)
        for connection in connections:
            connection.close()
        return await pacer.run(3600.0)

    assert asyncio.run(write()).acknowledged == 0


def test_a_reader_notes_failures_and_steps_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with reading(url) as reader:
        pass
    for seq, back in ((5, 0), (6, 0), (5, 1), (5, 1)):
        monkeypatch.setattr(Handler, "seq", seq)
        with httpx.Client(base_url=url) as client:
            reader.read(client)
        assert (reader.failed, reader.went_back) == (0, back)
    with httpx.Client(base_url="http://127.0.0.1:1") as client:
        reader.read(client)
    assert reader.failed == 1
    assert reader.longest_ms > 0


def rows(**counts: float) -> Requests:
    return Requests(
        {
            ("wal", "put_if_absent"): {"requests": 10, "seconds": 0.2, "dollars": 1.0} | counts,
            ("wal", "get"): {"requests": 5, "seconds": 0.05, "dollars": 0.5},
        }
    )


def test_requests_are_counted_by_kind_and_priced_by_the_month() -> None:
    assert rows(requests=13).since(rows()) == {"wal_put_if_absent": 3}
    assert dollars_a_month(rows(), rows(dollars=1.5), 365 * 3_600) == 1.0
    assert rows().total("requests") == 15


def test_the_lag_through_the_bucket_is_held_against_an_interval_and_two_round_trips() -> None:
    limit = allowed(rows(), rows())
    assert limit == pytest.approx({"put_ms": 20.0, "get_ms": 10.0, "allowed_ms": 1030.0})
    assert [v.passed for v in verdicts({**limit, "p99_ms": 1020.0}, 1020.0)] == [True]
    assert [v.passed for v in verdicts({**limit, "p99_ms": 1040.0}, 1040.0)] == [False]


def verdicts(detail: dict[str, float], value: float) -> list[Verdict]:
    results = Results("followers", "tag", {}, {})
    results.add([Sample(REPLICATION, BUCKET, "seerdb", None, "ms", value, 1, detail)])
    return list(judge(results))


def test_percentiles_of_lags() -> None:
    found = summary([float(number) for number in range(101)])
    assert found == {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "max_ms": 100}


def test_nothing_stays_of_the_databases_of_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_a_database(bucket: Bucket, name: str, *_: object, **__: object) -> Sample:
        for database in (f"{name}-a", f"{name}-b"):
            with DB.open(tmp_path / name / database, store=f"{bucket.url}/{database}") as db:
                db.put(b"key", b"value")
        raise UnavailableError("as a bucket may be")

    monkeypatch.setattr(plan, "measure_failover", leave_a_database)
    results = Results("followers", "tag", {}, {"store_options": {}})
    (tmp_path / "bucket/large-1").mkdir(parents=True)
    wanted = plan.Plan((FAILOVER,), 1, 1.0, 1.0, 4)
    plan.measure_plan(wanted, results, tmp_path, lambda _: None)
    assert results.failed == {FAILOVER: "UnavailableError: as a bucket may be"}
    assert [path.name for path in (tmp_path / "bucket").iterdir()] == ["large-1"]


def test_a_reader_that_cannot_read_is_a_failure(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(httpx.ConnectError), reading("http://127.0.0.1:1"):
        pass

    monkeypatch.setattr(Handler, "seq", None)
    reader = Reader()
    with httpx.Client(base_url=url) as client:
        reader.read(client)
    assert (reader.reads, reader.failed) == (1, 1)


def test_a_load_that_ended_early_misses_its_goal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def hung_up(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        early = Paced(100, 0, per_second=5_000.0, p50_ms=1.0, p99_ms=1.0, cpu_seconds=0.1)
        yield SimpleNamespace(outcome=lambda: early)

    monkeypatch.setattr(lag, "writing", hung_up)
    monkeypatch.setattr(lag, "probe_follower", lambda *_, **__: [1.0])
    monkeypatch.setattr(lag, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(Requests, "of", lambda _: rows())
    server = SeerDBServer(tmp_path)
    server.processes.append(SimpleNamespace(pid=1))  # type: ignore[arg-type]
    under_load = lag._Round(Bucket("", {}), "a", tmp_path, lag.LIVE)._under_load
    results = Results("followers", "tag", {}, {})
    results.add([under_load(server, server, 1.0, 1)])
    assert [v.word for v in judge(results) if v.stat == "writes_per_second"] == ["MISS"]
