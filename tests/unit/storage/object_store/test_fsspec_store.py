"""How S3's answers come out, and that one call is one request."""

from __future__ import annotations

import os
import re
import socket
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import sleep

import boto3
import pytest
from crc32c import crc32c

from seerdb.errors import (
    AlreadyExistsError,
    ClosedError,
    InvalidRequestError,
    NotFoundError,
    SeerDBError,
    TruncatedError,
    UnavailableError,
)
from seerdb.storage.object_store import fsspec_store
from seerdb.storage.object_store.base import Checksum, DeletionDeniedError
from seerdb.storage.object_store.fsspec_store import FsspecObjectStore
from seerdb.storage.pieces import Pieces
from tests.fixtures.stores import S3Server
from tests.unit.storage.object_store.s3_server import CALLS, KEYS, ScriptedServer


@pytest.fixture(scope="module")
def open_store(running_server: ScriptedServer) -> Iterator[FsspecObjectStore]:
    store = FsspecObjectStore.open("s3://bucket/db", {"endpoint_url": running_server.url, **KEYS})
    yield store
    store.close()


@pytest.fixture
def store(open_store: FsspecObjectStore, server: ScriptedServer) -> FsspecObjectStore:
    return open_store


DENIED = {"delete": DeletionDeniedError}


@pytest.mark.parametrize(
    ("status", "code", "operation", "error"),
    [
        ("404 Not Found", "NoSuchKey", "get", NotFoundError),
        ("404 Not Found", "NoSuchKey", "get_range", NotFoundError),
        ("416 Range Not Satisfiable", "InvalidRange", "get_range", TruncatedError),
        ("412 Precondition Failed", "PreconditionFailed", "put_if_absent", AlreadyExistsError),
        ("409 Conflict", "ConditionalRequestConflict", "put_if_absent", UnavailableError),
        ("409 Conflict", "OperationAborted", "put_if_absent", UnavailableError),
        ("404 Not Found", "NoSuchKey", "put_if_absent", UnavailableError),
        ("412 Precondition Failed", "PreconditionFailed", "put", UnavailableError),
        *(
            (status, code, operation, error)
            for operation in CALLS
            for status, code, error in (
                ("404 Not Found", "NoSuchBucket", UnavailableError),
                ("404 Not Found", "NoSuchUpload", UnavailableError),
                ("403 Forbidden", "AccessDenied", DENIED.get(operation, UnavailableError)),
                ("500 Internal Server Error", "InternalError", UnavailableError),
                ("503 Slow Down", "SlowDown", UnavailableError),
            )
        ),
    ],
)
def test_an_answer_of_s3_becomes_the_error_that_says_what_to_do(
    store: FsspecObjectStore,
    server: ScriptedServer,
    status: str,
    code: str,
    operation: str,
    error: type[SeerDBError],
) -> None:
    server.reply_error(status, code)
    with pytest.raises(error) as caught:
        CALLS[operation](store)
    assert type(caught.value) is error
    assert caught.value.__cause__ is not None
    assert len(server.requests) == 1, "a retry that nobody counted"


@pytest.mark.parametrize("operation", CALLS)
def test_that_an_object_is_absent_only_the_store_can_say(
    store: FsspecObjectStore, server: ScriptedServer, operation: str
) -> None:
    """A proxy that has lost its backend answers 404 by itself."""
    server.reply("404 Not Found", b"404 page not found\n", "Content-Type: text/plain\r\n")
    with pytest.raises(UnavailableError, match="Not Found"):
        CALLS[operation](store)


@pytest.mark.parametrize("operation", ["put", "put_if_absent", "list"])
@pytest.mark.parametrize("body", [b"", b"<html>log in</html>"])
def test_a_success_that_is_not_of_s3_is_none(
    store: FsspecObjectStore, server: ScriptedServer, operation: str, body: bytes
) -> None:
    """A manifest record that was not there, and a bucket that looked empty."""
    server.reply("200 OK", body, "Content-Type: text/html\r\n")
    with pytest.raises(UnavailableError, match="is not S3"):
        CALLS[operation](store)


def test_permission_denied_is_said_so(store: FsspecObjectStore, server: ScriptedServer) -> None:
    server.reply_error("403 Forbidden", "AccessDenied")
    with pytest.raises(UnavailableError, match="s3://bucket/db: cannot put a: permission denied"):
        store.put("a", b"data")


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("announced", [b"Content-Length: 4", b"Transfer-Encoding: chunked"])
def test_a_body_that_is_cut_off_is_the_doing_of_the_network(
    store: FsspecObjectStore, server: ScriptedServer, operation: str, announced: bytes
) -> None:
    """PB-02. A client took what came as the whole; then a repair took it for damage."""
    server.replies.append(b"HTTP/1.1 200 OK\r\n" + announced + b"\r\n\r\n4\r\n")
    with pytest.raises(UnavailableError):
        CALLS[operation](store)
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"01", b"01234567"])
def test_a_range_of_another_length_than_asked_for_is_truncated(
    store: FsspecObjectStore, server: ScriptedServer, body: bytes
) -> None:
    server.reply("206 Partial Content", body)
    with pytest.raises(TruncatedError) as caught:
        store.get_range("a", 4, 4)
    assert (caught.value.offset, caught.value.expected, caught.value.found) == (4, 4, len(body))


@pytest.mark.parametrize("operation", CALLS)
def test_a_server_that_hangs_up_is_unavailable(
    store: FsspecObjectStore, server: ScriptedServer, operation: str
) -> None:
    with pytest.raises(UnavailableError):
        CALLS[operation](store)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    options = {"endpoint_url": f"http://127.0.0.1:{port}", **KEYS}
    store = FsspecObjectStore.open("s3://bucket/db", options)
    for call in CALLS.values():
        with pytest.raises(UnavailableError):
            call(store)
    store.close()


def test_a_name_refused_in_a_bulk_deletion_is_an_error(
    store: FsspecObjectStore, server: ScriptedServer
) -> None:
    body = (
        b"<DeleteResult><Error><Key>db/b</Key><Code>AccessDenied</Code>"
        b"<Message>by plan</Message></Error></DeleteResult>"
    )
    server.reply("200 OK", body, "Content-Type: application/xml\r\n")
    with pytest.raises(DeletionDeniedError, match="db/b: AccessDenied"):
        store.delete(["a", "b"])


def test_a_bulk_deletion_is_split_at_the_limit_of_s3(
    store: FsspecObjectStore, server: ScriptedServer
) -> None:
    for _ in range(2):
        server.reply("200 OK", b"<DeleteResult/>", "Content-Type: application/xml\r\n")
    store.delete(f"tables/{number}" for number in range(1_001))
    assert len(server.requests) == 2


@pytest.mark.parametrize("operation", CALLS)
def test_one_call_is_one_request(
    store: FsspecObjectStore, server: ScriptedServer, operation: str
) -> None:
    xml = "Content-Type: application/xml\r\n"
    if operation in ("list", "delete"):
        server.reply("200 OK", b"<Result><IsTruncated>false</IsTruncated></Result>", xml)
    else:
        body = b"" if operation.startswith("put") else b"data"
        server.reply("200 OK", body, 'ETag: "x"\r\n')
    CALLS[operation](store)
    assert len(server.requests) == 1


def test_of_what_is_only_checked_a_piece_at_a_time_is_in_memory(
    store: FsspecObjectStore, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def noted(piece: bytes, before: int) -> int:
        sizes.append(len(piece))
        return crc32c(piece, before)

    monkeypatch.setattr(fsspec_store, "_PIECE", 1000)
    monkeypatch.setattr(fsspec_store, "crc32c", noted)
    body = bytes(range(250)) * 20
    server.reply("200 OK", body)
    assert store.checksum("a") == Checksum.of(body)
    assert max(sizes) <= 1000


def test_creation_is_conditional_and_replacement_is_not(
    store: FsspecObjectStore, server: ScriptedServer
) -> None:
    for _ in range(2):
        server.reply("200 OK", b"", 'ETag: "x"\r\n')
    store.put_if_absent("a", b"data")
    store.put("a", b"data")
    conditional, plain = (request.lower() for request in server.requests)
    assert conditional.startswith("put /bucket/db/a ")
    assert "if-none-match: *" in conditional
    assert "if-none-match" not in plain


def test_an_upload_is_one_round_trip(store: FsspecObjectStore, server: ScriptedServer) -> None:
    server.reply("200 OK", b"", 'ETag: "x"\r\n')
    store.put("a", b"data")
    assert "expect: 100-continue" not in server.requests[0].lower()


def take_all(listener: socket.socket) -> int:
    """Answer a request whose body is dropped as it comes; how long that was."""
    connection, _ = listener.accept()
    with connection:
        head, buffer, taken = b"", bytearray(1 << 16), 0
        while b"\r\n\r\n" not in head:
            head += connection.recv(1 << 10)
        head, _, body = head.partition(b"\r\n\r\n")
        length = re.search(rb"^content-length: (\d+)", head, re.IGNORECASE | re.MULTILINE)
        assert length
        taken = len(body)
        while taken < int(length[1]):
            taken += connection.recv_into(buffer)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "x"\r\n\r\n')
    return taken


def test_what_is_put_in_pieces_is_never_joined() -> None:
    """It was in memory four times, in worker processes that merge, too."""
    data = Pieces((bytes(1 << 20),) * 48)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as server:
        options = {"endpoint_url": f"http://127.0.0.1:{listener.getsockname()[1]}", **KEYS}
        store = FsspecObjectStore.open("s3://bucket/db", options)
        taken = server.submit(take_all, listener)
        tracemalloc.start()
        store.put("a", data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        store.close()
        assert taken.result() >= len(data)
    assert peak < 16 << 20


@pytest.mark.timeout(50)  # the driver waits for each piece of an answer for a minute
@pytest.mark.parametrize(
    "operation", ["put", "put_if_absent", "get_range", "get", "checksum", "list", "delete"]
)
def test_a_transfer_that_comes_to_no_end_is_ended(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsspec_store, "TRANSFER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = {"endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}", **KEYS}
        store = FsspecObjectStore.open("s3://bucket/db", options)
        with pytest.raises(UnavailableError, match="FSTimeoutError"):
            CALLS[operation](store)
        store.close()


def hang_up(connection: socket.socket) -> None:
    """Let nobody wait for what comes by it."""
    with suppress(OSError):  # the other end was faster
        connection.shutdown(socket.SHUT_RD)


@pytest.mark.timeout(50)  # as above
@pytest.mark.parametrize("operation", ["get_range", "get", "checksum", "list"])
def test_an_answer_that_comes_to_no_end_is_ended(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of which a byte came now and then held its thread for ever."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata"
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as caller:
        options = {"endpoint_url": f"http://127.0.0.1:{server.getsockname()[1]}", **KEYS}
        store = FsspecObjectStore.open("s3://bucket/db", options)
        first = caller.submit(store.get, "a")
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer)
            assert first.result() == b"data"
            # On a connection that is there: to make one may take longer than this.
            monkeypatch.setattr(fsspec_store, "TRANSFER_SECONDS", 0.2)
            asked = caller.submit(CALLS[operation], store)
            asked.add_done_callback(lambda _: hang_up(connection))
            connection.recv(1 << 16)
            with suppress(OSError):  # it is over already
                connection.sendall(answer[:-3])
            with pytest.raises(UnavailableError, match="FSTimeoutError"):
                asked.result()
        store.close()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("operation", ["get", "checksum"])
def test_a_body_that_is_read_ends_when_the_store_is_closed(operation: str) -> None:
    """Ctrl-C waited for it, half a minute and longer."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as caller:
        options = {"endpoint_url": f"http://127.0.0.1:{server.getsockname()[1]}", **KEYS}
        store = FsspecObjectStore.open("s3://bucket/db", options)
        asked = caller.submit(CALLS[operation], store)
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nd")
            while not store._bodies:
                sleep(0.001)
            store.close()
            with pytest.raises((ClosedError, UnavailableError)):
                asked.result()


def test_in_memory_one_writer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FsspecObjectStore.open("memory://one-writer", {})
    held: list[bool] = []
    real = store._filesystem.pipe_file

    def pipe_file(*args: object, **options: object) -> None:
        held.append(fsspec_store._MEMORY_LOCK.locked())
        real(*args, **options)

    monkeypatch.setattr(store._filesystem, "pipe_file", pipe_file)
    store.put("a", b"a")
    store.put_if_absent("b", b"b")
    assert held == [True, True]


def test_creation_is_refused_where_it_is_not_atomic() -> None:
    store = FsspecObjectStore.open("local:///tmp/anywhere", {})
    with pytest.raises(InvalidRequestError, match="local cannot create"):
        store.put_if_absent("a", b"a")


def test_a_closed_store_says_so(server: ScriptedServer) -> None:
    store = FsspecObjectStore.open("s3://bucket", {"endpoint_url": server.url, **KEYS})
    server.reply("200 OK", b"data")
    assert store.get("a") == b"data"
    store.close()
    store.close()
    for call in CALLS.values():
        with pytest.raises(ClosedError):
            call(store)


def test_what_is_asked_while_it_closes_is_refused(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it meets half-closed connections, which look like an outage."""
    store = FsspecObjectStore.open("s3://bucket", {"endpoint_url": server.url, **KEYS})
    close_session, refused = store._filesystem.close_session, []

    def closing(*session: object) -> None:
        with pytest.raises(ClosedError):
            store.get("a")
        refused.append("a")
        close_session(*session)

    monkeypatch.setattr(store._filesystem, "close_session", closing)
    store.close()
    assert refused == ["a"]


def test_another_process_is_refused(
    store: FsspecObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        with pytest.raises(ClosedError, match="another process"):
            store.get("a")


@pytest.mark.integration
def test_a_multipart_creation_is_atomic(minio_server: S3Server) -> None:
    url = minio_server.create_bucket()
    store = FsspecObjectStore.open(url, minio_server.options)
    data = bytes(101 << 20)
    store.put_if_absent("large", data)
    with pytest.raises(AlreadyExistsError):
        store.put_if_absent("large", data + b"x")
    assert [info.size for info in store.list("large")] == [len(data)]
    assert store.get_range("large", len(data) - 1, 1) == b"\0"
    client = boto3.client(
        "s3",
        endpoint_url=minio_server.endpoint,
        aws_access_key_id=minio_server.key,
        aws_secret_access_key=minio_server.secret,
    )
    left = client.list_multipart_uploads(Bucket=url.removeprefix("s3://"))
    assert "Uploads" not in left
    client.close()
    store.close()
