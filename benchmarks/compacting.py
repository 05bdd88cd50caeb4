"""A server that does nothing but merge all of its tables, beside whatever is asked of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from benchmarks.ingest import BATCH_ENTRIES, batch_bodies, post_batch
from benchmarks.servers.base import http_client
from benchmarks.servers.seerdb import SeerDBServer

_SEED = 5


@dataclass
class Merges:
    """Since the first of them began: seconds in all, and those in which one was under way."""

    seconds: float = 0.0
    merging: float = 0.0

    @property
    def share(self) -> float:
        """The part of the time in which a merge was under way."""
        return self.merging / self.seconds


def fill(server: SeerDBServer, entries: int) -> None:
    """Store new random keys with values of 1 KiB, and merge everything into one run."""
    with http_client(server.url) as client:
        for body in batch_bodies(entries // BATCH_ENTRIES, BATCH_ENTRIES, seed=_SEED):
            post_batch(client, body)
        client.post("/v1/admin/compact").raise_for_status()


def warm(server: SeerDBServer, keys: Sequence[str]) -> None:
    """Read every one of ``keys``, so that what is measured next is not the first read of it."""
    with http_client(server.url) as client:
        for start in range(0, len(keys), BATCH_ENTRIES):
            body = {"keys": keys[start : start + BATCH_ENTRIES]}
            client.post("/v1/mget", json=body).raise_for_status()


@contextmanager
def merging(server: SeerDBServer) -> Iterator[Merges]:
    """Have it merge everything, again and again, as long as the context lasts; leaving it waits
    for the last merge. Raises: what a request raises, on leaving."""
    merges, ended = Merges(), threading.Event()

    def run() -> None:
        begun = perf_counter()
        with http_client(server.url) as client:
            for body in batch_bodies(1_000_000, 1, seed=_SEED + 1):
                post_batch(client, body)
                asked = perf_counter()
                client.post("/v1/admin/compact").raise_for_status()
                merges.merging += perf_counter() - asked
                merges.seconds = perf_counter() - begun
                if ended.is_set():
                    return

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            yield merges
        finally:
            ended.set()
        running.result()
