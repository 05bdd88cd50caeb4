"""How answers of Azure and Google come out, and that one call is one request.

Skipped where their drivers, which `seerdb[azure]` and `seerdb[gcs]` bring, are not there.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from seerdb.errors import NotFoundError, SeerDBError, UnavailableError
from seerdb.storage.object_store.base import DeletionDeniedError
from seerdb.storage.object_store.fsspec_store import FsspecObjectStore
from tests.fixtures.emulators import AzureServer, GoogleServer
from tests.unit.storage.object_store.s3_server import CALLS, ScriptedServer

DRIVERS = {"az": "adlfs", "gs": "gcsfs"}
DENIED = {"delete": DeletionDeniedError}


@pytest.fixture(params=DRIVERS)
def protocol(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(DRIVERS[request.param])
    return str(request.param)


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture
def store(protocol: str, scripted: ScriptedServer) -> Iterator[FsspecObjectStore]:
    opened = FsspecObjectStore.open(f"{protocol}://bucket/db", _options(protocol, scripted.url))
    yield opened
    opened.close()


def _options(protocol: str, url: str) -> dict[str, Any]:
    return (AzureServer(url) if protocol == "az" else GoogleServer(url)).options


def _reply(server: ScriptedServer, protocol: str, status: str, code: str) -> None:
    if protocol == "az":
        body = f"<Error><Code>{code}</Code><Message>by plan</Message></Error>"
        headers = f"Content-Type: application/xml\r\nx-ms-error-code: {code}\r\n"
        server.reply(status, body.encode(), headers)
    else:
        body = f'{{"error": {{"code": {status[:3]}, "message": "{code}"}}}}'
        server.reply(status, body.encode(), "Content-Type: application/json\r\n")


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("403 Forbidden", "AuthorizationPermissionMismatch"),
        ("500 Internal Server Error", "InternalError"),
        ("503 Service Unavailable", "ServerBusy"),
    ],
)
def test_a_failure_is_told_by_the_one_request_that_failed(
    store: FsspecObjectStore,
    protocol: str,
    scripted: ScriptedServer,
    operation: str,
    status: str,
    code: str,
) -> None:
    _reply(scripted, protocol, status, code)
    denied = status.startswith("403")
    error = DENIED.get(operation, UnavailableError) if denied else UnavailableError
    with pytest.raises(error) as caught:
        CALLS[operation](store)
    assert type(caught.value) is error
    assert ("permission denied" in str(caught.value)) == denied
    assert "\n" not in str(caught.value)
    assert len(scripted.requests) == 1, "a retry that nobody counted, or another question"


@pytest.mark.parametrize("operation", ["get", "checksum", "get_range", "list", "delete"])
def test_that_an_object_is_absent_only_azure_can_say(
    scripted: ScriptedServer, operation: str
) -> None:
    """A container that is not there looked like an empty one."""
    pytest.importorskip("adlfs")
    store = FsspecObjectStore.open("az://bucket/db", _options("az", scripted.url))
    _reply(scripted, "az", "404 Not Found", "ContainerNotFound")
    with pytest.raises(UnavailableError, match="by plan"):
        CALLS[operation](store)
    scripted.reply("404 Not Found", b"404 page not found\n", "Content-Type: text/plain\r\n")
    with pytest.raises(UnavailableError):
        CALLS[operation](store)
    store.close()


def test_a_bucket_of_google_that_is_not_there_is_not_an_empty_one(scripted: ScriptedServer) -> None:
    pytest.importorskip("gcsfs")
    store = FsspecObjectStore.open("gs://bucket/db", _options("gs", scripted.url))
    _reply(scripted, "gs", "404 Not Found", "The specified bucket does not exist.")
    with pytest.raises(UnavailableError, match="cannot list"):
        store.list("")
    store.close()


def test_an_object_that_is_not_there_costs_one_request(
    store: FsspecObjectStore, protocol: str, scripted: ScriptedServer
) -> None:
    _reply(scripted, protocol, "404 Not Found", "BlobNotFound")
    with pytest.raises(NotFoundError):
        store.get("a")
    assert len(scripted.requests) == 1
    _reply(scripted, protocol, "404 Not Found", "BlobNotFound")
    store.delete(["a"])
    assert len(scripted.requests) == 2


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("operation", CALLS)
def test_silence_ends_a_request_when_patience_does(
    protocol: str, silent: str, operation: str
) -> None:
    """The renewal of a lease must not outlast the lease."""
    url = f"{protocol}://bucket/db"
    store = FsspecObjectStore.open(url, _options(protocol, silent), patience=0.5)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"Timeout|too long"):
        CALLS[operation](store)
    assert time.monotonic() - began < 20
    store.close()


def test_closing_cuts_off_what_waits(protocol: str, silent: str) -> None:
    store = FsspecObjectStore.open(f"{protocol}://bucket/db", _options(protocol, silent))
    timer = threading.Timer(0.5, store.close)
    timer.start()
    began = time.monotonic()
    with pytest.raises(SeerDBError):
        store.get("a")
    assert time.monotonic() - began < 20
    timer.join()
