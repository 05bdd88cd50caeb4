"""The S3 server goes away and comes back: writes go on, and it heals without a restart."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Server, wait_for
from tests.fixtures.stores import find_minio, start_minio

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


def _write(client: httpx.Client, first: int, last: int) -> None:
    for number in range(first, last):
        assert client.put(f"/v1/kv/{number:05}", content=b"v" * 1000).is_success
