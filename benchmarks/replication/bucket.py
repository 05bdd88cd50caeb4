"""Where the bucket of a measured database is: a directory, a MinIO of our own, or any URL."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx

from benchmarks.servers.base import HOST, ServerFailedError, free_port
from seerdb.clock import SystemClock

DIRECTORY, MINIO = "directory", "minio"
_USER, _PASSWORD, _BUCKET = "seerdb", "seerdb-benchmarks", "measured"
_START_SECONDS = 30.0
_BINARY = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seerdb/bin/minio"


@dataclass(frozen=True)
class Bucket:
    """A place for databases: a URL, and what ``store_options`` say of it."""

    url: str
    options: dict[str, Any]

    def settings(self, name: str) -> dict[str, Any]:
        """Those of a server whose database is called ``name``."""
        store = f"{self.url}/{name}"
        return {"store": store, "store_options": json.dumps(self.options)}


@contextmanager
def open_bucket(where: str, options: dict[str, Any], work: Path) -> Iterator[Bucket]:
    """The place that ``where`` names: ``directory`` or ``minio``, below ``work``, or a URL, of
    which ``options`` tell.

    Raises: ``ServerFailedError`` where MinIO does not come up.
    """
    if where == DIRECTORY:
        yield Bucket(str(work.resolve() / "bucket"), {})
    elif where == MINIO:
        with _minio(work / "minio") as bucket:
            yield bucket
    else:
        yield Bucket(where.rstrip("/"), options)


@contextmanager
def _minio(directory: Path) -> Iterator[Bucket]:
    binary = str(_BINARY) if _BINARY.exists() else shutil.which("minio")
    if binary is None:
        raise ServerFailedError("there is no MinIO; infra/minio/install.sh builds one")
    directory.mkdir(parents=True, exist_ok=True)
    endpoint = f"http://{HOST}:{free_port()}"
    command = [binary, "server", "--quiet", "--address", endpoint.removeprefix("http://")]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "MINIO_ROOT_USER": _USER,
        "MINIO_ROOT_PASSWORD": _PASSWORD,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    with (
        (directory / "minio.log").open("wb") as log,
        subprocess.Popen(
            [*command, str(directory / "data")], env=environment, stdout=log, stderr=log
        ) as process,
    ):
        try:
            _wait_until_up(endpoint, process)
            _create_bucket(endpoint)
            yield Bucket(
                f"s3://{_BUCKET}", {"endpoint_url": endpoint, "key": _USER, "secret": _PASSWORD}
            )
        finally:
            process.kill()


def _wait_until_up(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    clock = SystemClock()
    deadline = clock.monotonic() + _START_SECONDS
    while clock.monotonic() < deadline and process.poll() is None:
        try:
            # It lives before it knows its users; a refusal to list means that all is up.
            if httpx.get(endpoint, timeout=1.0, trust_env=False).status_code == 403:
                return
        except httpx.TransportError:
            pass
        clock.sleep(0.05)
    raise ServerFailedError("MinIO did not come up")


def _create_bucket(endpoint: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=_USER,
        aws_secret_access_key=_PASSWORD,
        region_name="us-east-1",
    )
    try:
        client.create_bucket(Bucket=_BUCKET)
    except client.exceptions.BucketAlreadyOwnedByYou:
        pass  # kept from the run before
    finally:
        client.close()
