"""Talking to a server: requests out, replies or errors of ours back.

A problem document becomes the error of ``seerdb.errors`` that it stands for, so a command fails
in the same way over HTTP and on files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote_from_bytes

import msgspec

from seerdb import errors
from seerdb.errors import (
    MALFORMED,
    BusyError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    SeerDBError,
    UnavailableError,
)
from seerdb.options import check_server_url, without_user

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 5.0
REPLY_SECONDS = 60.0
"""For a reply to begin, or to go on."""
RETRY_SECONDS = 1.0
"""To wait where a busy server does not say how long."""
MAX_TARGET = 65_000
"""Characters of path and query that a server reads."""
KEYS_TARGET = "/v1/kv"
NDJSON = "application/x-ndjson"


class NoSuchKeyError(NotFoundError):
    """The path is right, and the key is not there."""


class Problem(msgspec.Struct):
    """The part of a problem document that people read."""

    type: str
    title: str
    detail: str = ""


def key_target(key: bytes) -> str:
    """The path of a key. Raises: ``InvalidRequestError`` for one that no path can hold."""
    if not key:
        raise InvalidRequestError("a key has at least one byte")
    if not fits_path(key):
        raise InvalidRequestError(
            f"a key of {len(key):,} bytes does not fit a path; use load, dump and scan"
        )
    return f"{KEYS_TARGET}/{quoted(key)}"


def fits_path(key: bytes) -> bool:
    """Whether a path can hold a key."""
    return len(KEYS_TARGET) + 1 + len(quoted(key)) <= MAX_TARGET


def with_query(target: str, values: Mapping[str, bytes | str | int | None]) -> str:
    """``target`` with the ``values`` that are not ``None`` as its query."""
    given = [
        f"{name}={quoted(value if isinstance(value, bytes) else str(value).encode())}"
        for name, value in values.items()
        if value is not None
    ]
    return f"{target}?{'&'.join(given)}" if given else target


def quoted(data: bytes) -> str:
    """Bytes as one segment of a path, or as a value in a query."""
    # Dots too: HTTP clients remove the path segments . and ..
    return quote_from_bytes(data, safe="").replace(".", "%2E")


class Client:
    """A connection to the server at ``url``; to be used with ``with``, by one thread."""

    def __init__(self, url: str) -> None:
        """Raises ``InvalidRequestError`` for what is no URL, and for a proxy that cannot be used.
        Connects with the first request."""
        import httpx

        check_server_url("what names a server", url)
        self._url = url.rstrip("/")
        self._shown = without_user(self._url)
        try:
            self._http = httpx.Client(
                # Loading certificates takes longer than most requests.
                verify=url.startswith("https://"),
                timeout=httpx.Timeout(REPLY_SECONDS, connect=CONNECT_SECONDS),
            )
        except (ValueError, ImportError) as error:  # of a scheme that httpx cannot use as it is
            raise InvalidRequestError(
                f"the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) cannot "
                f"be used: {error}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        target: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        reply_seconds: float | None = REPLY_SECONDS,
    ) -> httpx.Response:
        """The reply, which is a success.

        Raises: the error that the server answers with; ``UnavailableError`` when there is no
        answer, in which case a write may or may not have happened.
        """
        import httpx

        timeout = httpx.Timeout(reply_seconds, connect=CONNECT_SECONDS)
        with self._translated():
            reply = self._http.request(
                method, self._url + target, content=content, headers=headers, timeout=timeout
            )
            return self._checked(reply)

    def scan(self, query: Mapping[str, bytes | str | int | None]) -> Iterator[bytes]:
        """The items of a range as JSON, in blocks of whole lines as they arrive.

        Raises: as :meth:`request`, also in the middle.
        """
        target = with_query(KEYS_TARGET, query)
        with (
            self._translated(),
            self._http.stream("GET", self._url + target, headers={"accept": NDJSON}) as reply,
        ):
            if not reply.is_success:
                reply.read()
            self._checked(reply)
            for block in _whole_lines(reply.iter_raw()):
                start = block.rfind(b"\n", 0, -1) + 1
                if block.startswith(b'{"key', start):
                    yield block
                else:
                    yield block[:start]
                    raise _error_of(block[start:], RETRY_SECONDS)

    def _checked(self, reply: httpx.Response) -> httpx.Response:
        """The reply if it is a success, and SeerDB's: those tell a seq. Other servers and proxies
        may say 200 to anything."""
        if reply.is_success and "seerdb-seq" in reply.headers:
            return reply
        if reply.headers.get("content-type") != "application/problem+json":
            raise SeerDBError(
                f"{self._shown} answers {reply.status_code} {reply.reason_phrase} in a way that is "
                "not SeerDB's; is the URL right?"
            )
        wait = reply.headers.get("retry-after", "")
        raise _error_of(reply.content, float(wait) if wait.isdigit() else RETRY_SECONDS)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise InvalidRequestError(f"{self._shown} is not a URL of a server: {error}") from error
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise UnavailableError(
                f"no answer from {self._shown}: {why}; is it running?"
            ) from error


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, cut after newlines. Raises ``UnavailableError`` if the end is no such cut."""
    rest: list[bytes] = []
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join((*rest, chunk[:end]))
            rest.clear()
        if end < len(chunk):
            rest.append(chunk[end:])
    if rest:
        raise UnavailableError("the reply was cut off within a line")


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name.removesuffix("Error")).lower()


PROBLEMS: dict[str, type[SeerDBError]] = {
    f"urn:seerdb:{_kebab(name)}": value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, SeerDBError)
} | {
    "urn:seerdb:no-such-key": NoSuchKeyError,
    "urn:seerdb:no-such-path": NotFoundError,
    "urn:seerdb:method-not-allowed": InvalidRequestError,
    "urn:seerdb:precondition-failed": ConflictError,
    "urn:seerdb:too-slow": UnavailableError,
    "urn:seerdb:too-large": InvalidRequestError,
    "urn:seerdb:target-too-long": InvalidRequestError,
    "urn:seerdb:head-too-large": InvalidRequestError,
    "urn:seerdb:unknown-coding": InvalidRequestError,
    "urn:seerdb:range-not-satisfiable": InvalidRequestError,
    "urn:seerdb:not-ready": UnavailableError,
    "urn:seerdb:behind": UnavailableError,
}
"""The error that each type of problem stands for."""


def _error_of(document: bytes, retry_after_seconds: float) -> SeerDBError:
    try:
        problem = msgspec.json.decode(document, type=Problem)
    except MALFORMED as error:
        return SeerDBError(f"the server answers with what is not SeerDB's: {error}")
    message = f"{problem.title}: {problem.detail}" if problem.detail else problem.title
    kind: Any = PROBLEMS.get(problem.type, SeerDBError)
    if kind is BusyError:
        return BusyError(message, retry_after_seconds=retry_after_seconds)
    failure: SeerDBError = kind(message)
    return failure
