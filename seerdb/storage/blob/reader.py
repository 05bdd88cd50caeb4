"""Reading large values: a pointer becomes its bytes by a ranged GET, neighbours share one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import groupby

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.storage.blob.format import open_value
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import blob_name
from seerdb.storage.pointer import BlobPointer, Place
from seerdb.storage.workers.threads import side_by_side

MAX_RANGE = 4 << 20
"""Most bytes of one GET, unless a single value has more."""

MAX_GAP = 128 << 10
"""Most bytes between two values that are fetched along: about what a store sends in the time that
it takes to answer another request."""

Values = dict[BlobPointer, bytes]


class BlobReader:
    """Fetches values from blobs. Thread-safe.

    ``fetchers`` run the requests of one call side by side.
    """

    def __init__(self, store: ObjectStore, fetchers: Executor) -> None:
        self._store = store
        self._fetchers = fetchers
        self.fetched = 0
        """Values so far. Racing readers may lose a count."""

    def get(self, pointer: BlobPointer) -> bytes:
        """One value. Raises as :meth:`get_many`."""
        place = pointer.place
        self.fetched += 1
        return open_value(self._range(place, place.length), place)

    def get_many(self, pointers: Iterable[BlobPointer]) -> Values:
        """Several values; those that lie near each other come by one request.

        Raises: ``CorruptionError`` when a blob is gone or a value is not what the pointer says,
        ``ClosedError`` when the fetchers have ended.
        """
        wanted = sorted((pointer.place, pointer) for pointer in set(pointers))
        groups = list(_neighbours(wanted))
        self.fetched += len(wanted)
        if len(groups) < 2:
            return dict(pair for group in groups for pair in self._fetch(group))
        fetched = side_by_side(self._fetchers, self._fetch, groups)
        return dict(pair for values in fetched for pair in values)

    def _fetch(self, group: list[tuple[Place, BlobPointer]]) -> list[tuple[BlobPointer, bytes]]:
        first, last = group[0][0], group[-1][0]
        data = memoryview(self._range(first, last.offset + last.length - first.offset))
        return [
            (pointer, open_value(bytes(data[start : start + place.length]), place))
            for place, pointer in group
            for start in (place.offset - first.offset,)
        ]

    def _range(self, place: Place, length: int) -> bytes:
        name = blob_name(place.blob)
        try:
            return self._store.get_range(name, place.offset, length)
        except NotFoundError as error:
            raise CorruptionError(
                "a table points into this blob, but it is gone",
                name=name,
                offset=place.offset,
                hint="has another writer taken over? else restore the object from a backup",
            ) from error


def _neighbours(
    wanted: Sequence[tuple[Place, BlobPointer]],
) -> Iterator[list[tuple[Place, BlobPointer]]]:
    """Cut what is sorted by place into what one request each should fetch."""
    for _, in_blob in groupby(wanted, lambda pair: pair[0].blob):
        group: list[tuple[Place, BlobPointer]] = []
        for place, pointer in in_blob:
            if group and not _is_near(group[0][0], group[-1][0], place):
                yield group
                group = []
            group.append((place, pointer))
        yield group


def _is_near(first: Place, last: Place, place: Place) -> bool:
    gap = place.offset - last.offset - last.length
    return gap <= MAX_GAP and place.offset + place.length - first.offset <= MAX_RANGE
