"""The live tail: a thread that asks the primary for its log over HTTP and takes what comes.

While it is connected, the bucket is asked for the manifest only. Whatever goes wrong ends the
connection and is tried again; meanwhile the log comes through the bucket.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import httpx

from seerdb.errors import ClosedError, CorruptionError, UnavailableError
from seerdb.options import without_user
from seerdb.storage.replication.format import (
    Heartbeat,
    Hello,
    Message,
    MessageReader,
    MessageType,
    decode_heartbeat,
    decode_hello,
    decode_mark,
)
from seerdb.storage.replication.running import Mark
from seerdb.storage.replication.shipped import Piece
from seerdb.storage.wal.reader import read_segment

SILENCE_SECONDS = 5.0
"""A primary that sends nothing for so long, not even its heartbeat, is taken for gone."""
MESSAGE_SECONDS = 20.0
"""Nor is it so long over one message, as it gives up on who is so long in receiving it: then the
length of what comes is damaged, and would swallow what follows."""
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0

_NAME = "the stream of the log"


class LiveTarget(Protocol):
    """Where the log goes."""

    @property
    def seq(self) -> int:
        """The newest commit that is shown."""

    def now(self) -> float:
        """Seconds, by the monotonic clock."""

    def greet(self, hello: Hello, first: int) -> None:
        """A primary answers, to the request for everything from ``first`` on. Raises: any
        ``SeerDBError`` when that cannot be taken from it."""

    def take(self, piece: Piece) -> None:
        """More of the log. Raises: as :meth:`greet`."""

    def compare(self, mark: Mark) -> None:
        """What the primary has sent up to here. Raises: ``CorruptionError`` when something else was
        taken."""

    def heard(self, heartbeat: Heartbeat) -> None:
        """The primary is alive."""

    def lost(self, error: Exception) -> None:
        """The connection, if there was one, is over."""


class LiveTail:
    """Follows one primary, from :meth:`run` to :meth:`close`."""

    def __init__(self, url: str, target: LiveTarget) -> None:
        self._url = f"{url.rstrip('/')}/v1/replication/log"
        self._shown = without_user(self._url)
        self._target = target
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None  # guarded by the lock

    def run(self) -> None:
        """Follow until closed; for a thread of its own."""
        pause = FIRST_RETRY_SECONDS
        with httpx.Client(timeout=SILENCE_SECONDS, trust_env=False) as client:
            while not self._closing.is_set():
                before = self._target.seq
                try:
                    self._follow(client)
                except Exception as error:  # noqa: BLE001 - told, and tried again whatever it is
                    self._target.lost(error)
                pause = FIRST_RETRY_SECONDS if self._target.seq > before else pause * 2
                self._closing.wait(min(pause, LAST_RETRY_SECONDS))

    def close(self) -> None:
        """Let :meth:`run` return soon."""
        self._closing.set()
        with self._lock, suppress(OSError):  # it may be broken already
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    def _follow(self, client: httpx.Client) -> None:
        first = self._target.seq + 1
        with client.stream("GET", self._url, params={"from": first}) as response:
            if response.status_code != httpx.codes.OK:
                raise UnavailableError(f"{self._shown} answers {response.status_code}")
            with self._held(response.extensions["network_stream"].get_extra_info("socket")):
                self._take(_messages(response.iter_raw(), self._target.now), first)

    @contextmanager
    def _held(self, connection: socket.socket) -> Iterator[None]:
        """Meanwhile :meth:`close` breaks it off."""
        with self._lock:
            self._socket = connection
        try:
            if self._closing.is_set():
                raise ClosedError("the replica is closed")
            yield
        finally:
            with self._lock:
                self._socket = None

    def _take(self, messages: Iterator[Message], first: int) -> None:
        target = self._target
        hello: Hello | None = None
        header = b""
        for kind, body in messages:
            if kind is MessageType.HELLO:
                hello = decode_hello(body)
                target.greet(hello, first)
            elif hello is None:
                raise CorruptionError("it does not begin with a greeting", name=_NAME)
            elif kind is MessageType.SEGMENT:
                header = body
            elif kind is MessageType.FRAMES:
                target.take(_piece(hello.epoch, header, body))
            elif kind is MessageType.MARK:
                target.compare(decode_mark(body))
            else:
                target.heard(decode_heartbeat(body))
        raise UnavailableError(f"{self._shown} ended the stream")


def _messages(stream: Iterable[bytes], now: Callable[[], float]) -> Iterator[Message]:
    reader = MessageReader()
    since = now()
    for data in stream:
        for message in reader.feed(data):
            yield message
            since = now()
        if now() - since > MESSAGE_SECONDS:
            raise UnavailableError(f"no whole message came in {MESSAGE_SECONDS:g} seconds")


def _piece(epoch: int, header: bytes, frames: bytes) -> Piece:
    scan = read_segment(header + frames, _NAME, None)
    if scan.damages or scan.end != len(header) + len(frames):
        raise CorruptionError(
            "frames are not whole",
            name=_NAME,
            expected=len(header) + len(frames),
            found=scan.end,
        )
    return Piece(epoch, scan.header, scan.records)
