"""The two scripts that run inside containers do what the compose file relies on."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from infra.docker import healthcheck
from infra.minio import create_bucket


class _Service(http.server.BaseHTTPRequestHandler):
    """Answers as a database in a given state of health."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b'{"wal": "poisoned"}')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        """Keep the test quiet."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/readyz"
        server.shutdown()
        thread.join()


def test_a_ready_service_is_healthy(url: str) -> None:
    assert healthcheck.main(url) == 0


def test_a_degraded_service_is_not_healthy_and_the_failed_check_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_Service, "status", 503)
    assert healthcheck.main(url) == 1
    assert "poisoned" in capsys.readouterr().err


def test_a_service_that_does_not_answer_is_not_healthy() -> None:
    assert healthcheck.main("http://127.0.0.1:1/readyz") == 1


@pytest.mark.integration
@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1"])
def test_the_bucket_is_created_once_and_then_left_alone(
    region: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "seerdb")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "seerdb-secret")
        bucket = f"seerdb-in-{region}"
        create_bucket.main(bucket)
        create_bucket.main(bucket)
        client = boto3.client("s3")
        client.head_bucket(Bucket=bucket)
        client.close()
    finally:
        server.stop()
    assert f"bucket {bucket} created" in capsys.readouterr().out
