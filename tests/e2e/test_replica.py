"""A primary and its replica as real processes, on a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Server, wait_for
from tests.fixtures.stores import S3Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


class Pair:
    """A primary, a replica of it, and a client of each."""

    def __init__(self, primary: Server, replica: Server) -> None:
        self.primary, self.replica = primary, replica
        self.writes = httpx.Client(base_url=primary.url, timeout=120.0)
        self.reads = httpx.Client(base_url=replica.url, timeout=120.0)

    def put(self, key: str, value: bytes = b"1", durability: str = "local") -> int:
        """Write to the primary; the seq."""
        reply = self.writes.put(f"/v1/kv/{key}", content=value, params={"durability": durability})
        assert reply.status_code == 204, reply.text
        return int(reply.headers["etag"].strip('"'))

    def get(self, key: str, seq: int, deadline: float = 60.0) -> httpx.Response:
        """Read from the replica what the primary had at ``seq``."""
        return self.reads.get(f"/v1/kv/{key}", params={"min_seq": seq, "timeout": deadline})

    def check(self, name: str) -> str:
        """The detail of a check of the replica's readiness."""
        checks = self.reads.get("/readyz").json()["checks"]
        return str(next(check["detail"] for check in checks if check["name"] == name))

    def log_digests(self) -> list[dict[str, Any]]:
        """What the primary, and then the replica, tell of the log."""
        statuses = (client.get("/v1/admin/status").json() for client in (self.writes, self.reads))
        return [status["log_digest"] or {} for status in statuses]


@pytest.fixture
def pair(s3: S3Server, tmp_path: Path) -> Iterator[Pair]:
    bucket = f"{s3.create_bucket()}/db"
    sizes = {"memtable_capacity": "256KiB", "wal_segment_size": "256KiB", "min_free_disk": "0"}
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    primary = Server(tmp_path / "1" / "data", s3, bucket, **sizes)
    replica = Server(
        tmp_path / "2" / "cache", s3, bucket, replica="true", primary=primary.url, **sizes
    )
    primary.start()
    replica.start()
    pair = Pair(primary, replica)
    yield pair
    pair.writes.close()
    pair.reads.close()
    for server in (primary, replica):
        if server.process is not None and server.process.poll() is None:
            server.kill()


def test_a_replica_reads_what_the_primary_wrote(pair: Pair) -> None:
    wait_for(lambda: pair.check("primary") == "live", "the live stream")
    for number in range(2000):
        seq = pair.put(f"{number % 500:03}", b"%d" % number * 50, durability="memory")
        if number == 1000:
            assert pair.writes.post("/v1/admin/flush").is_success
    reply = pair.get("000", seq)
    assert (reply.status_code, reply.content) == (200, b"1500" * 50)
    assert int(reply.headers["seerdb-seq"]) >= seq
    assert float(reply.headers["seerdb-lag-seconds"]) >= 0
    for client in (pair.writes, pair.reads):
        assert len(client.get("/v1/kv", params={"keys_only": "true"}).json()["items"]) == 500
    pages = [
        client.get("/v1/kv", headers={"accept": "application/x-ndjson"}).text
        for client in (pair.writes, pair.reads)
    ]
    assert pages[0] == pages[1]
    wait_for(
        lambda: pair.reads.get("/v1/admin/status").json()["flushed_seq"] > 1000,
        "the replica to look at the manifest",
    )
    wait_for(
        lambda: [each.get("seq") for each in pair.log_digests()] == [seq, seq],
        "the digests of the whole log",
    )
    told, kept = pair.log_digests()
    assert told == kept
    refused = pair.reads.put("/v1/kv/a", content=b"1")
    assert (refused.status_code, refused.headers["seerdb-primary"]) == (409, pair.primary.url)
    assert pair.replica.stop() == 0
    assert pair.primary.stop() == 0


def test_a_replica_goes_on_through_the_bucket_while_its_primary_is_away(pair: Pair) -> None:
    wait_for(lambda: pair.check("primary") == "live", "the live stream")
    seq = pair.put("a", b"1", durability="object")
    assert pair.get("a", seq).content == b"1"
    pair.primary.kill()
    wait_for(lambda: "away" in pair.check("primary"), "the loss to be noticed")
    assert pair.reads.get("/v1/kv/a").content == b"1"
    assert pair.get("a", seq + 1, deadline=0.2).status_code == 503
    pair.primary.start()
    seq = pair.put("a", b"2")
    assert pair.get("a", seq).content == b"2"
    wait_for(lambda: pair.check("primary") == "live", "the live stream again")
    wait_for(lambda: pair.reads.get("/readyz").is_success, "the replica to be ready again")


def test_without_a_primary_the_log_comes_as_it_is_shipped(pair: Pair, s3: S3Server) -> None:
    bucket = pair.primary._environment["SEERDB_STORE"]
    directory = pair.replica.data.parent / "another"
    alone = Server(directory, s3, bucket, replica="true", ship_interval="0.2", min_free_disk="0")
    alone.start()
    try:
        with httpx.Client(base_url=alone.url, timeout=120.0) as client:
            for number in range(5):
                seq = pair.put("k", b"%d" % number)
                reply = client.get("/v1/kv/k", params={"min_seq": seq, "timeout": 60})
                assert reply.content == b"%d" % number
            assert not client.get("/v1/admin/status").json()["is_live"]
            assert client.get("/readyz").is_success
    finally:
        alone.kill()


def test_a_primary_that_loses_its_machine_takes_back_what_nobody_else_has(
    pair: Pair, s3: S3Server, tmp_path: Path
) -> None:
    wait_for(lambda: pair.check("primary") == "live", "the live stream")
    pair.put("kept", durability="object")
    pair.writes.post("/v1/admin/flush")
    pair.primary.kill()
    heir = Server(
        tmp_path / "heir", s3, pair.primary._environment["SEERDB_STORE"], min_free_disk="0"
    )
    heir.start()
    try:
        with httpx.Client(base_url=heir.url, timeout=120.0) as client:
            reply = client.put("/v1/kv/new", params={"durability": "object"}, content=b"2")
            seq = int(reply.headers["etag"].strip('"'))
        reply = pair.get("new", seq)
        assert reply.content == b"2", "through the bucket, as the primary's address is another's"
        assert pair.reads.get("/v1/kv/kept").content == b"1"
        assert pair.reads.get("/v1/admin/status").json()["epoch"] == 2
    finally:
        heir.kill()
