"""Anything fsspec knows as a bucket: S3 and its kin, Google, Azure, memory.

The only module that imports fsspec. Nothing is cached, neither listings nor instances, and
the drivers' own retries are turned off: each attempt is one that ``retrying`` decided on and
``meter`` counted. Only the HTTP client of S3 sends a request again when the server hangs up on
it, so ``AlreadyExistsError`` may be the answer to a second sending of one's own object.

How a back-end creates an object only if it is absent (any other is refused):

=====================  ==================================================================
s3, s3a                ``If-None-Match: *`` on the PUT, from 100 MiB on the completion of a
                       multipart upload; 412: the name is taken, 409: two writers met
gs, gcs                ``ifGenerationMatch=0``
abfs, abfss, az        ``If-None-Match: *``
memory                 a lock: all of it is in this process
=====================  ==================================================================
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Any

from botocore.exceptions import CredentialRetrievalError
from botocore.handlers import add_expect_header, validate_bucket_name
from crc32c import crc32c
from fsspec.asyn import sync
from fsspec.core import url_to_fs
from fsspec.exceptions import FSTimeoutError

from seerdb.clock import SystemClock
from seerdb.errors import (
    AlreadyExistsError,
    ClosedError,
    InvalidRequestError,
    NotFoundError,
    SeerDBError,
    TruncatedError,
    UnavailableError,
)
from seerdb.options import without_password
from seerdb.storage.object_store.base import Checksum, DeletionDeniedError, ObjectInfo
from seerdb.storage.object_store.body_file import BodyFile
from seerdb.storage.object_store.google import open_google
from seerdb.storage.pieces import Body, Pieces

S3 = frozenset({"s3", "s3a"})
GOOGLE = frozenset({"gs", "gcs"})
AZURE = frozenset({"abfs", "abfss", "az"})
CREATES_IF_ABSENT = S3 | GOOGLE | AZURE | {"memory"}
"""Protocols whose driver has an atomic ``mode="create"``."""
S3_CONNECTIONS = 64
"""Kept open: 32 reading threads, and the writers beside them."""
S3_DELETE_LIMIT = 1000
"""Names in one request, fixed by S3."""
S3_ONE_PUT = 100 << 20
"""Bytes from which on an object is sent in parts, side by side."""

TRANSFER_SECONDS = 30.0
TRANSFER_BYTES_PER_SECOND = 256 * 1024
"""An upload, a read of a range, or of S3 any request, that takes longer than these two allow has
failed: the HTTP clients time the wait for an answer and for each piece of it, but neither the
sending nor the whole."""

_GET, _GET_RANGE = _READING = "get", "get a range of"
_PIECE = 1 << 20
"""Bytes in memory at once of an object of which only the checksum is wanted."""
_MEMORY_LOCK = threading.Lock()
"""fsspec's memory is one per process, and its ``mode="create"`` looks before it writes."""
_ALWAYS_THERE = {"put_object": "ETag", "list_objects_v2": "IsTruncated"}
"""What tells an answer of S3 from a 200 of something before it, which would count as an object that
is there, or as a bucket that is empty. What is read has checksums."""
_MODIFIED = ("LastModified", "mtime", "last_modified", "created")
"""Where the drivers say when an object was written."""


class FsspecObjectStore:
    """The objects below one URL. Open it with :meth:`open`.

    Thread-safe; for plain threads only (a call from an event loop blocks that loop), and not
    usable in a forked process: send a ``StoreLocation`` there and open it anew.
    """

    def __init__(
        self,
        protocol: str,
        filesystem: Any,
        root: str,
        bucket: str = "",
        patience: float | None = None,
    ) -> None:
        self._url = without_password(f"{protocol}://{root.lstrip('/')}")
        self._protocol = protocol
        self._filesystem = filesystem
        self._root = root
        self._bucket = bucket
        """Of S3: its name, or the ARN of an access point."""
        self._patience = patience
        self._process = os.getpid()
        self._closed = False
        self._bodies: set[Any] = set()
        """Those being read of S3, which end at once when they are closed."""
        self._writing: AbstractContextManager[Any] = (
            _MEMORY_LOCK if protocol == "memory" else nullcontext()
        )

    @classmethod
    def open(
        cls, url: str, options: Mapping[str, Any], patience: float | None = None
    ) -> FsspecObjectStore:
        """The store at ``url``; ``options`` and the environment (``AWS_*``) as fsspec has it.
        ``patience``: seconds that the store may take to answer, if less than its driver allows.

        Makes no request of the store. Raises ``InvalidRequestError`` for an unknown protocol, a
        driver that is not installed, or what it does not take: options, the environment, its own
        files; ``UnavailableError`` where who gives out the credentials of S3 does not.
        """
        protocol, bucket = url.partition("://")[0], ""
        try:
            wanted = _s3_options(options, patience) if protocol in S3 else dict(options)
            wanted.update(skip_instance_cache=True, use_listings_cache=False)
            filesystem, root = _driver(protocol, url, wanted, patience)
            if protocol in S3:
                bucket = _bucket_of(filesystem, root)
                _prepare_s3(filesystem)
        except ImportError as error:
            raise InvalidRequestError(
                f"cannot open a {protocol} store: {error} "
                "(Google needs seerdb[gcs], Azure needs seerdb[azure])"
            ) from error
        except CredentialRetrievalError as error:
            raise UnavailableError(f"{protocol}://{root}: no credentials: {error}") from error
        except Exception as error:
            # All others, as of requests: every driver has its own classes.
            raise InvalidRequestError(f"cannot open a {protocol} store: {error}") from error
        return cls(protocol, filesystem, root, bucket, patience)

    def __repr__(self) -> str:
        return f"FsspecObjectStore({self._url!r})"

    def get(self, name: str) -> bytes:
        path = self._path(name)
        with self._translated(_GET, name):
            if self._protocol in S3:
                return b"".join(self._get_from_s3(path))
            return bytes(self._filesystem.cat_file(path))

    def checksum(self, name: str) -> Checksum:
        if self._protocol not in S3:
            return Checksum.of(self.get(name))
        size = crc = 0
        with self._translated(_GET, name):
            for piece in self._get_from_s3(self._path(name), _PIECE):
                size, crc = size + len(piece), crc32c(piece, crc)
        return Checksum(size, crc)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        with self._translated(_GET_RANGE, name):
            reading = self._within(length)
            end = offset + length
            data = bytes(
                self._filesystem.cat_file(self._path(name), start=offset, end=end, **reading)
            )
        if len(data) != length:
            raise TruncatedError(
                "the object ends early",
                name=name,
                offset=offset,
                expected=length,
                found=len(data),
            )
        return data

    def put(self, name: str, data: Body) -> None:
        with self._translated("put", name):
            self._upload(name, data)

    def put_if_absent(self, name: str, data: Body) -> None:
        """See the protocol. Raises ``InvalidRequestError`` where the back-end cannot."""
        if self._protocol not in CREATES_IF_ABSENT:
            raise InvalidRequestError(
                f"{self._url}: {self._protocol} cannot create an object only if it is absent; use "
                f"a directory or one of {', '.join(sorted(CREATES_IF_ABSENT))}"
            )
        with self._translated("create", name):
            self._upload(name, data, creating=True)

    def list(self, prefix: str) -> list[ObjectInfo]:
        with self._translated("list", prefix):
            found = self._find(prefix)
            skip = len(self._root) + 1
            infos = [
                ObjectInfo(path[skip:], info["size"], _modified(info))
                for path, info in found.items()
                if info["type"] == "file" and path.startswith(prefix, skip)
            ]
        return sorted(infos, key=lambda info: info.name)

    def delete(self, names: Iterable[str]) -> None:
        paths = [self._path(name) for name in names]
        if self._protocol in S3:
            for start in range(0, len(paths), S3_DELETE_LIMIT):
                self._delete_from_s3(paths[start : start + S3_DELETE_LIMIT])
            return
        for path in paths:
            with self._translated("delete", path):
                self._delete_one(path)

    def close(self) -> None:
        # First, so that a request that the closing cuts off is not tried again.
        was_closed, self._closed = self._closed, True
        if was_closed or self._process != os.getpid():
            return
        if self._protocol in S3:
            for body in tuple(self._bodies):
                self._filesystem.loop.call_soon_threadsafe(body.close)
            self._filesystem.close_session(self._filesystem.loop, self._filesystem.s3)
        elif self._protocol in GOOGLE and self._filesystem.session is not None:
            sync(self._filesystem.loop, self._filesystem.session.close)
        elif self._protocol in AZURE:
            sync(self._filesystem.loop, self._filesystem.service_client.close)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _key(self, path: str) -> str:
        """Of S3: what its bucket calls ``path``."""
        return path[len(self._bucket) + 1 :]

    def _upload(self, name: str, data: Body, *, creating: bool = False) -> None:
        path, size = self._path(name), len(data)
        if self._protocol in S3 and size < S3_ONE_PUT:
            body = BodyFile(data) if isinstance(data, Pieces) else data
            absent = {"IfNoneMatch": "*"} if creating else {}
            self._call_s3("put_object", size, Key=self._key(path), Body=body, **absent)
            return
        options = {"mode": "create"} if creating else {}
        with self._writing:
            self._filesystem.pipe_file(path, bytes(data), **options, **self._within(size))

    def _within(self, size: int) -> dict[str, float]:
        """How long a transfer of so many bytes may take, where the driver can be told."""
        if not self._filesystem.async_impl:
            return {}
        return {"timeout": _seconds_for(size) if self._patience is None else self._patience}

    def _get_from_s3(self, path: str, most: int | None = None) -> Iterator[bytes]:
        """An object, ``most`` bytes of it at a time, by one request, which may take as long as
        befits the size that its answer announces. (The driver tells the size by a request of its
        own, or after the body.)"""
        reply = self._call_s3("get_object", Key=self._key(path))
        body, loop, clock = reply["Body"], self._filesystem.loop, SystemClock()
        end = clock.monotonic() + _seconds_for(reply.get("ContentLength", 0))
        self._bodies.add(body)
        try:
            self._check_open()
            while piece := sync(loop, body.read, most, timeout=max(0.001, end - clock.monotonic())):
                yield bytes(piece)
        except BaseException:
            loop.call_soon_threadsafe(body.close)  # or its connection counts as used
            raise
        finally:
            self._bodies.discard(body)

    def _call_s3(self, method: str, size: int = 0, **wanted: Any) -> dict[str, Any]:
        """``size``: how many bytes go with the request."""
        wanted.update(Bucket=self._bucket, **self._within(size))
        reply = dict(self._filesystem.call_s3(method, **wanted))
        always = _ALWAYS_THERE.get(method)
        if always and always not in reply:
            raise UnavailableError(
                f"{self._url}: what answered {method} is not S3: it tells no {always}"
            )
        return reply

    def _find_in_s3(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """All that begins with ``path``, page by page."""
        wanted: dict[str, Any] = {"Prefix": self._key(path)}
        while True:
            page = self._call_s3("list_objects_v2", **wanted)
            for found in page.get("Contents", ()):
                yield (
                    f"{self._bucket}/{found['Key']}",
                    {**found, "size": found["Size"], "type": "file"},
                )
            if not page.get("IsTruncated"):
                return
            wanted["ContinuationToken"] = page["NextContinuationToken"]

    def _find(self, prefix: str) -> dict[str, dict[str, Any]]:
        """What fsspec finds below ``prefix`` and maybe more; nothing if there is nothing."""
        if self._protocol in S3:
            return dict(self._find_in_s3(self._path(prefix)))
        if self._protocol in AZURE:
            return dict(self._find_in_azure(self._path(prefix)))
        directory = self._path(prefix).rpartition("/")[0]
        try:
            return dict(self._filesystem.find(directory, detail=True))
        except FileNotFoundError:
            if self._protocol in GOOGLE:  # it is the bucket that is not there
                raise
            return {}

    def _find_in_azure(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The same, page by page: the driver's own search takes a container that is not there for
        an empty one, and asks thrice."""
        container, prefix, _ = self._filesystem.split_path(path)
        client = self._filesystem.service_client.get_container_client(container)
        pages = client.list_blobs(name_starts_with=prefix, include=["metadata"]).by_page()
        while True:
            try:
                sync(self._filesystem.loop, pages.__anext__, **self._within(0))
            except StopAsyncIteration:
                return
            for blob in pages.current_page:
                yield (
                    f"{container}/{blob.name}",
                    {
                        "name": blob.name,
                        "size": blob.size,
                        "last_modified": blob.last_modified,
                        "type": "directory" if _is_folder(blob) else "file",
                    },
                )

    def _delete_one(self, path: str) -> None:
        try:
            self._filesystem.rm_file(path, **self._within(0))
        except FileNotFoundError as error:
            if not self._says_absent(error):
                raise

    def _delete_from_s3(self, paths: Sequence[str]) -> None:
        # Not through rm(), which drops the errors of single names.
        keys = [{"Key": self._key(path)} for path in paths]
        wanted = {"Objects": keys, "Quiet": True}
        with self._translated("delete", f"{len(paths)} objects"):
            reply = self._call_s3("delete_objects", Delete=wanted)
        for refused in reply.get("Errors", ()):
            denied = refused.get("Code") == "AccessDenied"
            kind = DeletionDeniedError if denied else UnavailableError
            raise kind(
                f"{self._url}: cannot delete {refused.get('Key')}: "
                f"{refused.get('Code')} {refused.get('Message')}"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self._url} is closed")

    @contextmanager
    def _translated(self, verb: str, name: str) -> Iterator[None]:
        self._check_open()
        if self._process != os.getpid():
            raise ClosedError(f"{self._url} was opened in another process; open it here anew")
        try:
            yield
        except SeerDBError:
            raise
        except Exception as error:
            # All of them: every driver has its own classes, and none may cross the port.
            raise self._translate(error, verb, name) from error

    def _translate(self, error: Exception, verb: str, name: str) -> SeerDBError:
        status = _status(error)
        creating = verb == "create"
        if verb in _READING and self._says_absent(error):
            return NotFoundError(f"{self._url}: no object {name}")
        if creating and (isinstance(error, FileExistsError) or status == 412):
            return AlreadyExistsError(f"{self._url}: object {name} already exists")
        if status == 416:
            return TruncatedError("the range begins after the end of the object", name=name)
        denied = self._says_denied(error, status)
        reason = "permission denied: " if denied else ""
        kind = DeletionDeniedError if denied and verb == "delete" else UnavailableError
        return kind(f"{self._url}: cannot {verb} {name}: {reason}{_told(error)}")

    def _says_absent(self, error: Exception) -> bool:
        """Whether it is the store that says so: a 404 may also come from what stands before it."""
        if self._protocol in S3:
            return _code(error) == "NoSuchKey"
        if self._protocol in AZURE:
            return getattr(error.__cause__, "error_code", None) == "BlobNotFound"
        return isinstance(error, FileNotFoundError)

    def _says_denied(self, error: Exception, status: int | None) -> bool:
        if self._protocol in GOOGLE:  # no class of its own, and no status
            return type(error) is OSError and str(error).startswith("Forbidden")
        if self._protocol in AZURE:
            locked = getattr(error, "error_code", None) == "BlobImmutableDueToPolicy"
            return status == 403 or locked
        return isinstance(error, PermissionError)


def _driver(
    protocol: str, url: str, options: Mapping[str, Any], patience: float | None
) -> tuple[Any, str]:
    """A file system of fsspec, and the path in it that ``url`` is."""
    silence = TRANSFER_SECONDS if patience is None else patience
    if protocol in GOOGLE:
        return open_google(options, silence), url.partition("://")[2].rstrip("/")
    if protocol not in AZURE:
        filesystem, root = url_to_fs(url, **options)
        return filesystem, str(root)
    waits = {"connection_timeout": silence, "read_timeout": silence}
    filesystem, root = url_to_fs(url, **{**waits, **options})
    filesystem.service_client._config.retry_policy.total_retries = 0  # noqa: SLF001 - no other way
    return filesystem, str(root)


def _is_folder(blob: Any) -> bool:
    """Whether Azure, where it has a hierarchy, lists a directory."""
    said = {name.lower(): value for name, value in (blob.metadata or {}).items()}
    return said.get("hdi_isfolder") == "true"


def _seconds_for(size: int) -> float:
    return TRANSFER_SECONDS + size / TRANSFER_BYTES_PER_SECOND


def _bucket_of(filesystem: Any, root: str) -> str:
    """Raises for one that S3 cannot have; names no credentials, which the URL may hold."""
    bucket = str(filesystem.split_path(f"{root}/")[0])
    is_arn = bucket.startswith("arn:")
    if root.startswith("/") or (not is_arn and set("@:") & set(bucket)):
        raise ValueError(
            "its URL is s3://bucket/prefix; a key and its secret go into store_options, as key and "
            "secret, or into the environment (AWS_*)"
        )
    validate_bucket_name({"Bucket": bucket})
    return bucket


def _prepare_s3(filesystem: Any) -> None:
    """One attempt a call, and one round trip an upload."""
    filesystem.retries = 1
    filesystem.connect()
    # Asking leave to send a body costs a round trip, and waits for ever if nobody answers.
    filesystem.s3.meta.events.unregister("before-call.s3", add_expect_header)


def _s3_options(options: Mapping[str, Any], patience: float | None) -> dict[str, Any]:
    config = {"max_pool_connections": S3_CONNECTIONS, **options.get("config_kwargs", {})}
    if patience is not None:
        config.update(connect_timeout=patience, read_timeout=patience)
    config["retries"] = {"total_max_attempts": 1}
    return {**options, "config_kwargs": config}


def _modified(info: Mapping[str, Any]) -> float:
    for field in _MODIFIED:
        when = info.get(field)
        if isinstance(when, datetime):
            return when.timestamp()
        if isinstance(when, int | float):
            return float(when)
    # Never a guess: how old an object is decides whether it may be collected.
    raise UnavailableError(f"the store does not say when {info.get('name')} was written")


def _told(error: BaseException) -> str:
    """What a driver's error says, in a line."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # which knows what it is that is not there
    said = str(error) or "it took too long" * isinstance(error, FSTimeoutError)
    return f"{type(error).__name__}: {said.partition(chr(10))[0]}"


def _status(error: BaseException) -> int | None:
    """The HTTP status behind a driver's error."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, Mapping):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return int(status) if status is not None else None
        for field in ("status_code", "code"):
            status = getattr(each, field, None)
            if isinstance(status, int):
                return status
    return None


def _code(error: BaseException) -> str | None:
    """S3's word for what is wrong."""
    response = getattr(error.__cause__, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, Mapping) else None
