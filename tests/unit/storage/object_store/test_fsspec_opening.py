"""What a store is opened with: its URL, options and the environment."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from seerdb.errors import InvalidRequestError, UnavailableError
from seerdb.storage.object_store.fsspec_store import FsspecObjectStore
from tests.unit.storage.object_store.s3_server import CALLS, KEYS, ScriptedServer


def test_the_endpoint_may_come_from_the_environment(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    server.reply("200 OK", b"data")
    store = FsspecObjectStore.open("s3://bucket", {})
    assert store.get("a") == b"data"
    store.close()
    assert server.requests[0].startswith("GET /bucket/a ")
    assert "Credential=from-the-environment/" in server.requests[0]


ACCESS_POINT = "arn:aws:s3:us-east-1:123456789012:accesspoint/point"


@pytest.mark.parametrize("operation", CALLS)
def test_the_bucket_may_be_an_access_point(
    server: ScriptedServer, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, host = socket.getaddrinfo, "point-123456789012.s3.test"
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda name, *args, **named: real("127.0.0.1", *args, **named)
    )
    endpoint = server.url.replace("127.0.0.1", "s3.test")
    store = FsspecObjectStore.open(f"s3://{ACCESS_POINT}/db", {"endpoint_url": endpoint, **KEYS})
    server.reply_error("503 Slow Down", "SlowDown")
    with pytest.raises(UnavailableError, match="by plan"):
        CALLS[operation](store)
    store.close()
    (request,) = server.requests
    assert f"Host: {host}:" in request
    if operation not in ("list", "delete"):
        assert request.split()[1] == "/db/a"


def test_options_of_the_user_are_kept_but_for_retries(server: ScriptedServer) -> None:
    config = {"max_pool_connections": 3, "retries": {"max_attempts": 9}}
    options = {"endpoint_url": server.url, "config_kwargs": config, **KEYS}
    store = FsspecObjectStore.open("s3://bucket", options)
    server.reply_error("503 Slow Down", "SlowDown")
    with pytest.raises(UnavailableError):
        store.get("a")
    assert len(server.requests) == 1
    assert store._filesystem.s3.meta.config.max_pool_connections == 3
    assert config["retries"] == {"max_attempts": 9}
    store.close()


@pytest.mark.parametrize(
    ("url", "options", "match"),
    [
        ("no-such-protocol://x", {}, "no-such-protocol"),
        ("s3://bucket", {"no_such_option": 1}, "no_such_option"),
        ("s3://bucket", {"endpoint_url": "not a url"}, "not a url"),
        ("s3://bucket", {"profile": "no-such-profile"}, "no-such-profile"),
        ("s3://bucket", {"key": "without a secret"}, "missing: aws_secret_access_key"),
        ("s3://bucket", {"config_kwargs": {"s3": {"addressing_style": "odd"}}}, "odd"),
        ("s3://bucket", {"config_kwargs": "odd"}, "mapping"),
        ("s3://bucket", {"client_kwargs": "odd"}, "str"),
        ("s3://no such bucket/db", {}, "no such bucket"),
        ("s3:///bucket/db", {}, "s3://bucket/prefix"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(
    url: str, options: dict[str, object], match: str
) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        FsspecObjectStore.open(url, options)


def test_credentials_in_a_url_are_refused_and_not_told() -> None:
    for secret in ("hush", "hu/sh", "hu+sh"):
        with pytest.raises(InvalidRequestError, match="store_options") as caught:
            FsspecObjectStore.open(f"s3://KEY:{secret}@bucket/db", {})
        assert "hu" not in str(caught.value)


def test_credentials_that_cannot_be_had_now_may_be_had_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "config"
    profile.write_text("[profile away]\ncredential_process = /bin/false\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
    with pytest.raises(UnavailableError, match="s3://bucket/db: no credentials"):
        FsspecObjectStore.open("s3://bucket/db", {"profile": "away"})
