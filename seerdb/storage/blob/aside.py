"""Large values that wait, while a table's other entries are gathered in any order, until they can
go to blobs in the order of their keys, in which scans will want them."""

from __future__ import annotations

from operator import itemgetter

from seerdb.storage.blob.writer import BlobWriter
from seerdb.storage.merge import EMPTY, Chunk
from seerdb.storage.value import Expiring, Value, with_bytes
from seerdb.storage.workers.pace import Pace, at_full_speed


class Aside:
    """Takes entries with large values out of chunks, so that nobody has to copy those around.

    For one use, by one thread. ``special``: values may be more than bytes and deletes.
    """

    def __init__(self, blobs: BlobWriter, *, special: bool) -> None:
        self._blobs = blobs
        self._special = special
        self.entries: list[tuple[bytes, int, Value]] = []
        """What waits, or has waited, here: key, seq and value."""

    def without_large(self, chunk: Chunk) -> Chunk:
        """``chunk`` without those that wait here from now on."""
        threshold, values = self._blobs.threshold, chunk.values
        if not threshold:
            return chunk
        if self._special:
            large = {at for at, value in enumerate(values) if _size(value) >= threshold}
        else:
            if max(map(len, filter(None, values)), default=0) < threshold:
                return chunk
            large = {at for at, value in enumerate(values) if value and len(value) >= threshold}
        if not large:
            return chunk
        entries = list(zip(*chunk, strict=True))
        self.entries += [entries[at] for at in large]
        small = [entry for at, entry in enumerate(entries) if at not in large]
        return Chunk(*map(list, zip(*small, strict=True))) if small else EMPTY

    def with_pointers(self, pace: Pace = at_full_speed) -> Chunk:
        """All that waited, with its values in blobs now."""
        keys, seqs, values = [], [], []
        for key, seq, value in sorted(self.entries, key=itemgetter(0)):
            keys.append(key)
            seqs.append(seq)
            data = value.value if isinstance(value, Expiring) else value
            assert type(data) is bytes
            values.append(with_bytes(value, self._blobs.put(data)))
            pace()
        return Chunk(keys, seqs, values)


def _size(value: Value) -> int:
    """Bytes that could go to a blob. What is merged stays: it will be another value once folded."""
    data = value.value if isinstance(value, Expiring) else value
    return len(data) if type(data) is bytes else 0
