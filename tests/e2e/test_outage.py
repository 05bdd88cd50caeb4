"""The S3 server goes away and comes back: writes go on, and it heals without a restart; and so it
does where a replica and a standby hang on the same bucket."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Server, wait_for
from tests.fixtures.stores import S3Server, find_minio, start_minio

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

needs_minio = pytest.mark.skipif(
    find_minio() is None, reason="needs a MinIO process of its own to stop"
)


def _failing_checks(client: httpx.Client) -> set[str]:
    checks = client.get("/readyz").json()["checks"]
    return {check["name"] for check in checks if not check["ok"]}


@needs_minio
def test_bucket_away_and_back(tmp_path: Path) -> None:
    """PB-19."""
    storage = tmp_path / "minio"
    storage.mkdir()
    with start_minio(storage) as s3:
        server = Server(
            tmp_path / "data",
            s3,
            f"{s3.create_bucket()}/db",
            memtable_capacity="128KiB",
            wal_segment_size="128KiB",
            min_free_disk="0",
        )
        server.start()
        client = httpx.Client(base_url=server.url, timeout=120.0)
        _write(client, 0, 100)
    try:
        _write(client, 100, 1000)
        wait_for(lambda: "flush" in _failing_checks(client), "the outage to be noticed")
        assert client.put("/v1/kv/new", params={"durability": "object"}).status_code == 503
        with start_minio(storage, again=s3):
            wait_for(lambda: not _failing_checks(client), "readiness to come back")
            assert client.post("/v1/admin/flush").json()["last_seq"] >= 1000
            for number in range(0, 1000, 37):
                assert client.get(f"/v1/kv/{number:05}").content == b"v" * 1000
            assert server.stop() == 0
            assert server.run("verify", str(server.data)).returncode == 0
    finally:
        client.close()
        if server.process is not None and server.process.poll() is None:
            server.kill()


@needs_minio
def test_bucket_away_and_back_under_primary_replica_and_standby(tmp_path: Path) -> None:
    """PB-19. Nobody takes over from a primary that cannot reach the bucket, which acknowledges
    nothing that its lease does not cover; all three go on by themselves, until the primary dies."""
    storage = tmp_path / "minio"
    storage.mkdir()
    servers: list[Server] = []
    try:
        with start_minio(storage) as s3:
            primary, standby, replica = servers = _three(tmp_path, s3)
            primary.start()
            standby.start(until="/livez")
            safe = {"before": _put(primary, "before", "object")}
            replica.start()
            _wait_for_value(replica, "before", safe["before"])
        wait_for(lambda: _put(primary, "away", "memory") is None, "the lease to run out")
        assert _get(primary, "before").content == b"before", "reads go on"
        assert _get(replica, "before").content == b"before"
        assert _put(standby, "away", "memory") is None
        with start_minio(storage, again=s3):
            wait_for(
                lambda: _put(primary, "after", "object") is not None, "writes to be taken again"
            )
            safe["after"] = _put(primary, "after", "object")
            assert _put(standby, "after", "memory") is None, "it still waits"
            _wait_for_value(replica, "after", safe["after"])
            primary.kill()
            wait_for(
                lambda: _put(standby, "heir", "object") is not None, "the standby to take over"
            )
            for key in safe:
                assert _get(standby, key).content == key.encode()
            _wait_for_value(replica, "heir", _put(standby, "heir", "object"))
            assert standby.stop() == 0
            assert replica.stop() == 0
    finally:
        for server in servers:
            if server.process is not None and server.process.poll() is None:
                server.kill()


def _three(directory: Path, s3: S3Server) -> list[Server]:
    """A primary, its standby, and a replica that follows through the bucket, to be started."""
    url, servers = f"{s3.create_bucket()}/db", []
    for name, role in (("a", "standby"), ("b", "standby"), ("c", "replica")):
        (directory / name).mkdir()
        data = directory / name / "data"
        more = {role: "true", "ship_interval": "0.2", "min_free_disk": "0"}
        servers.append(Server(data, s3, url, **more))
    return servers


def _put(server: Server, key: str, level: str) -> int | None:
    """The seq of a write of ``key`` to itself; ``None`` if it was refused."""
    url, level_wanted = f"{server.url}/v1/kv/{key}", {"durability": level}
    reply = httpx.put(url, params=level_wanted, content=key.encode(), timeout=60.0)
    return int(reply.headers["etag"].strip('"')) if reply.is_success else None


def _get(server: Server, key: str, **parameters: float) -> httpx.Response:
    return httpx.get(f"{server.url}/v1/kv/{key}", params=parameters, timeout=60.0)


def _wait_for_value(replica: Server, key: str, seq: int | None) -> None:
    """Until the replica shows the commit ``seq``, which wrote ``key``."""
    assert seq is not None
    reply = _get(replica, key, min_seq=seq, timeout=60.0)
    assert (reply.status_code, reply.content) == (200, key.encode())


def _write(client: httpx.Client, first: int, last: int) -> None:
    for number in range(first, last):
        assert client.put(f"/v1/kv/{number:05}", content=b"v" * 1000).is_success
