"""Which store a location opens, that it travels, and that it keeps its secrets."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest

from seerdb.errors import InvalidRequestError, NotFoundError
from seerdb.storage.object_store.fsspec_store import FsspecObjectStore
from seerdb.storage.object_store.local_store import LocalObjectStore
from seerdb.storage.object_store.location import StoreLocation


def test_a_path_is_a_directory_and_absolute_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    location = StoreLocation("./data/bucket")
    assert location.url == location.directory == str(tmp_path / "data" / "bucket")
    assert isinstance(location.open(), LocalObjectStore)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "directory"),
    [
        ("/var/bucket", "/var/bucket"),
        ("file:///var/bucket", "/var/bucket"),
        ("file:///var/my%20bucket", "/var/my bucket"),
        ("file://localhost/var/bucket", "/var/bucket"),
        ("FILE:///var/Bucket", "/var/Bucket"),
        ("~/bucket", str(Path.home() / "bucket")),
        ("memory://bucket", None),
        ("s3://bucket/prefix", None),
    ],
)
def test_what_is_a_directory(url: str, directory: str | None) -> None:
    assert StoreLocation(url).directory == directory


def test_a_url_is_left_to_its_driver() -> None:
    store = StoreLocation("memory://bucket").open()
    assert isinstance(store, FsspecObjectStore)
    store.close()


def test_the_case_of_a_scheme_tells_nothing() -> None:
    assert StoreLocation("S3://Bucket/P") == StoreLocation("s3://Bucket/P")


def test_options_of_a_directory_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="endpoint_url"):
        StoreLocation("/var/bucket", {"endpoint_url": "http://127.0.0.1:9000"}).open()


def test_it_travels_to_another_process() -> None:
    location = StoreLocation("s3://bucket/prefix", {"key": "k", "client_kwargs": {"verify": False}})
    assert pickle.loads(pickle.dumps(location)) == location


def test_secrets_are_not_shown() -> None:
    location = StoreLocation(
        "ftp://user:pass-word@host/bucket",
        {
            "key": "id-1",
            "secret": "secret-1",
            "endpoint_url": "http://127.0.0.1:9000",
            "client_kwargs": {"aws_session_token": "token-1", "region_name": "eu-west-1"},
        },
    )
    shown = f"{location!r} {location}"
    for secret in ("pass-word", "id-1", "secret-1", "token-1"):
        assert secret not in shown
    for harmless in ("host/bucket", "http://127.0.0.1:9000", "eu-west-1", "secret"):
        assert harmless in shown


@pytest.mark.parametrize("secret", ["hunter2", "hunter2/x", "hun/ter:2"])
def test_a_url_is_shown_without_the_password_in_it(secret: str) -> None:
    assert str(StoreLocation(f"s3://AKIA:{secret}@bucket/a")) == "s3://***@bucket/a"


def test_what_a_url_is_shown_as_is_found_in_one_pass() -> None:
    """It took a minute, in which the whole process stood still."""
    url = "s3://b/" + "//:" * 200_000
    began = time.monotonic()
    assert str(StoreLocation(url)) == url
    assert time.monotonic() - began < 5


def test_the_arn_of_an_access_point_is_shown() -> None:
    arn = "s3://arn:aws:s3:eu-west-1:1:accesspoint/name/a@b"
    assert str(StoreLocation(arn)) == arn


@pytest.mark.parametrize("bucket", ["AKIA:hunter2@bucket", "AKIA:hunter2/x@bucket", "me@bucket"])
def test_s3_has_no_credentials_in_its_url(bucket: str) -> None:
    with pytest.raises(InvalidRequestError, match="store_options") as refusal:
        StoreLocation(f"s3://{bucket}/prefix").open()
    assert "hunter2" not in str(refusal.value)


def test_what_fails_is_named_without_a_password() -> None:
    store = StoreLocation("memory://me:hunter2@host").open()
    with pytest.raises(NotFoundError) as failure:
        store.get("none")
    assert "hunter2" not in f"{store!r} {failure.value}"
