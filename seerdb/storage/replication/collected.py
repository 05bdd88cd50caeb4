"""The bucket as a follower reads tables from it: some may be gone, which the writer has replaced.

The writer keeps what it replaced for a grace period, in which every follower hears of it. One that
was asleep for longer finds objects missing: it must read the manifest anew, and nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from seerdb.errors import NotFoundError, UnavailableError
from seerdb.storage.object_store.base import Checksum, ObjectInfo, ObjectStore
from seerdb.storage.pieces import Body


class CollectedStore:
    """``inner``, where a missing object has ``missed`` called and is ``UnavailableError``."""

    def __init__(self, inner: ObjectStore, missed: Callable[[], None]) -> None:
        self._inner = inner
        self._missed = missed

    def get(self, name: str) -> bytes:
        """See ``ObjectStore.get``."""
        try:
            return self._inner.get(name)
        except NotFoundError as error:
            raise self._gone(error) from error

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """See ``ObjectStore.get_range``."""
        try:
            return self._inner.get_range(name, offset, length)
        except NotFoundError as error:
            raise self._gone(error) from error

    def _gone(self, error: NotFoundError) -> UnavailableError:
        self._missed()
        return UnavailableError(
            f"{error}: the writer has replaced it long ago; the replica reads the manifest anew, "
            "so try again"
        )

    def checksum(self, name: str) -> Checksum:
        """See ``ObjectStore.checksum``."""
        return self._inner.checksum(name)

    def put(self, name: str, data: Body) -> None:
        """See ``ObjectStore.put``."""
        self._inner.put(name, data)

    def put_if_absent(self, name: str, data: Body) -> None:
        """See ``ObjectStore.put_if_absent``."""
        self._inner.put_if_absent(name, data)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """See ``ObjectStore.list``."""
        return self._inner.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        """See ``ObjectStore.delete``."""
        self._inner.delete(names)

    def close(self) -> None:
        """See ``ObjectStore.close``."""
        self._inner.close()
