"""Building tables in the threads of this process, a few at a time for all of its databases.

Every database has a thread to flush with, but what it takes to build a table, processor time and
several times the memory of what is flushed, is for a few at a time. One that waits for its bucket
builds nothing: it leaves its place to others meanwhile, so a bucket that stalls holds up no flush
into another.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from seerdb.storage.object_store.base import Checksum, ObjectInfo, ObjectStore
from seerdb.storage.pieces import Body


class AsideObjectStore:
    """``inner``, for a job that has one of the ``places``, and has none during each request. For
    the thread of that job."""

    def __init__(self, inner: ObjectStore, places: threading.Semaphore) -> None:
        self._inner = inner
        self._places = places

    @contextmanager
    def _aside(self) -> Iterator[None]:
        self._places.release()
        try:
            yield
        finally:
            self._places.acquire()

    def get(self, name: str) -> bytes:
        with self._aside():
            return self._inner.get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        with self._aside():
            return self._inner.get_range(name, offset, length)

    def checksum(self, name: str) -> Checksum:
        with self._aside():
            return self._inner.checksum(name)

    def put(self, name: str, data: Body) -> None:
        with self._aside():
            self._inner.put(name, data)

    def put_if_absent(self, name: str, data: Body) -> None:
        with self._aside():
            self._inner.put_if_absent(name, data)

    def list(self, prefix: str) -> list[ObjectInfo]:
        with self._aside():
            return self._inner.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        with self._aside():
            self._inner.delete(names)

    def close(self) -> None:
        self._inner.close()
