"""Where a drill restores: a folder of its own in some store, that goes afterwards.

While it is used its mark is put anew from time to time. A folder in which nothing is younger than
``OVER_SECONDS``, by the clock of the store alone, is what a drill that died has left, and goes with
the next one. Nothing outside such folders is ever deleted, whatever else the store holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from seerdb.clock import Clock
from seerdb.storage.manifest.fencing import RandomBytes
from seerdb.storage.object_store.base import Checksum, ObjectInfo, ObjectStore
from seerdb.storage.object_store.letting_go import letting_go
from seerdb.storage.object_store.names import DRILL_PREFIX, drill_name, parse_drill_name
from seerdb.storage.pieces import Body

RENEW_SECONDS = 120.0
OVER_SECONDS = 900.0
REMOVE_SECONDS = 30.0
"""How long an interrupt waits until a folder is removed, which may take many requests."""

_MARK = "mark"
_WITHIN = "db/"


@contextmanager
def scratch_folder(
    store: ObjectStore, clock: Clock, random_bytes: RandomBytes
) -> Iterator[ObjectStore]:
    """An empty folder, as a store, which is deleted when the block ends, in whatever way. Folders
    of drills that died go first. Raises: ``UnavailableError``."""
    folder = _Folder(store, random_bytes(16).hex(), clock)
    with letting_go(lambda: _remove(store, folder.id), REMOVE_SECONDS):
        folder.renew()
        _remove_left(store, folder.id)
        yield folder


def _remove_left(store: ObjectStore, own: str) -> None:
    newest: dict[str, float] = {}
    for info in store.list(DRILL_PREFIX):
        drill = parse_drill_name(info.name)
        if drill is not None:
            newest[drill] = max(newest.get(drill, 0.0), info.modified)
    for drill, modified in newest.items():
        if modified < newest[own] - OVER_SECONDS:
            _remove(store, drill)


def _remove(store: ObjectStore, drill: str) -> None:
    names = [info.name for info in store.list(drill_name(drill, ""))]
    if names:
        store.delete(names)


class _Folder:
    """A store within ``inner``. For one thread."""

    def __init__(self, inner: ObjectStore, drill: str, clock: Clock) -> None:
        self.id = drill
        self._inner = inner
        self._clock = clock
        self._prefix = drill_name(drill, _WITHIN)
        self._renew_at = clock.monotonic()

    def renew(self) -> None:
        """Put the mark, if it is time to."""
        now = self._clock.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + RENEW_SECONDS
            self._inner.put(drill_name(self.id, _MARK), b"")

    def _path(self, name: str) -> str:
        self.renew()
        return self._prefix + name

    def get(self, name: str) -> bytes:
        return self._inner.get(self._path(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._inner.get_range(self._path(name), offset, length)

    def checksum(self, name: str) -> Checksum:
        return self._inner.checksum(self._path(name))

    def put(self, name: str, data: Body) -> None:
        self._inner.put(self._path(name), data)

    def put_if_absent(self, name: str, data: Body) -> None:
        self._inner.put_if_absent(self._path(name), data)

    def list(self, prefix: str) -> list[ObjectInfo]:
        skip = len(self._prefix)
        found = self._inner.list(self._path(prefix))
        return [ObjectInfo(info.name[skip:], info.size, info.modified) for info in found]

    def delete(self, names: Iterable[str]) -> None:
        self._inner.delete([self._path(name) for name in names])

    def close(self) -> None:
        """It is somebody else's."""
