"""Somebody who reads one key of a server, again and again, and notes what went wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx

from benchmarks.servers.base import ServerFailedError, http_client
from seerdb.clock import SystemClock

_PAUSE_SECONDS = 0.005
_LONGEST_SECONDS = 60.0
_ANSWERS = (200, 404)
_SEQ = "seerdb-seq"


class Reader:
    """What the reads came to: how many, how many were not answered as reads are, how many told an
    older seq than one before, and the longest time without an answer, in ms."""

    def __init__(self) -> None:
        self.reads = self.failed = self.went_back = 0
        self.longest_ms = 0.0
        self._seq = 0

    def read(self, client: httpx.Client) -> None:
        """Read once."""
        clock = SystemClock()
        begun = clock.monotonic()
        try:
            reply = client.get("/v1/kv/probe")
        except httpx.TransportError:
            self.failed += 1
            return
        self.longest_ms = max(self.longest_ms, (clock.monotonic() - begun) * 1e3)
        self.reads += 1
        self.failed += reply.status_code not in _ANSWERS or _SEQ not in reply.headers
        seq = int(reply.headers.get(_SEQ, self._seq))
        self.went_back += seq < self._seq
        self._seq = seq


@contextmanager
def reading(url: str) -> Iterator[Reader]:
    """A reader on a thread, from its first answer on, for as long as the context. Raises: what
    ended the thread, if anything did; ``ServerFailedError`` where nothing is answered."""
    reader, ends, ready = Reader(), threading.Event(), threading.Event()

    def run() -> None:
        with http_client(url) as client:
            while client.get("/v1/kv/probe").status_code not in _ANSWERS:
                if ends.wait(_PAUSE_SECONDS):
                    return
            ready.set()
            while not ends.wait(_PAUSE_SECONDS):
                reader.read(client)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        running.add_done_callback(lambda _: ready.set())  # nobody waits for one that failed
        try:
            if not ready.wait(_LONGEST_SECONDS):
                raise ServerFailedError(f"no read was answered in {_LONGEST_SECONDS} s")
            if running.done():
                running.result()
            yield reader
        finally:
            ends.set()
        running.result()
