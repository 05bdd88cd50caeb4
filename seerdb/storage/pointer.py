"""Where a large value lies: what a table holds of it instead of its bytes.

Stored in ``POINTER_SIZE`` bytes, little-endian::

    epoch     u32     of the blob's id: epoch and counter of the table it was made with,
    number    u32     and the blob's number among those of that table
    counter   u64
    offset    u64     where the value lies in the blob, sealed
    length    u32     of the sealed value
    crc32c    u32     of the value itself

Part of the table format: do not change.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from seerdb.errors import CorruptionError
from seerdb.ids import BlobId, Epoch, blob_id, table_id

_POINTER = struct.Struct("<IIQQII")
POINTER_SIZE = _POINTER.size
_ROW = np.dtype(
    [("made", "<u8"), ("counter", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("crc32c", "<u4")]
)
"""The same for numpy; ``made`` is epoch and number."""
assert _ROW.itemsize == POINTER_SIZE


class Place(NamedTuple):
    """What a pointer says. ``length`` is that of the sealed value, ``crc`` the value's own."""

    blob: BlobId
    offset: int
    length: int
    crc: int


class BlobPointer(NamedTuple):
    """A pointer as it is stored, which is how it is copied from table to table."""

    stored: bytes

    @classmethod
    def to(cls, place: Place) -> BlobPointer:
        """The pointer that says ``place``."""
        epoch, counter, number = map(int, place.blob.split("-"))
        return cls(_POINTER.pack(epoch, number, counter, *place[1:]))

    @classmethod
    def read(cls, stored: bytes) -> BlobPointer:
        """Raises ``CorruptionError`` when ``stored`` cannot be a pointer."""
        if len(stored) != POINTER_SIZE:
            raise CorruptionError(
                "a pointer to a large value has the wrong length",
                expected=POINTER_SIZE,
                found=len(stored),
            )
        return cls(stored)

    @property
    def place(self) -> Place:
        """Where it points."""
        epoch, number, counter, offset, length, crc = _POINTER.unpack(self.stored)
        return Place(blob_id(table_id(Epoch(epoch), counter), number), offset, length, crc)

    @property
    def length(self) -> int:
        """Bytes of the sealed value."""
        length: int = _POINTER.unpack(self.stored)[4]
        return length


def count_by_blob(pointers: bytes) -> dict[BlobId, tuple[int, int]]:
    """How many of the stored ``pointers``, joined, point into each blob, and at how many bytes."""
    if not pointers:
        return {}
    rows = np.frombuffer(pointers, _ROW)
    rows = rows[np.lexsort((rows["made"], rows["counter"]))]
    made, counter = rows["made"], rows["counter"]
    is_first = np.append(True, (made[1:] != made[:-1]) | (counter[1:] != counter[:-1]))
    starts = is_first.nonzero()[0]
    values = np.diff(np.append(starts, len(rows)))
    sizes = np.add.reduceat(rows["length"].astype(np.int64), starts)
    firsts = rows[starts].tobytes()
    blobs = [
        BlobPointer(firsts[at : at + POINTER_SIZE]).place.blob
        for at in range(0, len(firsts), POINTER_SIZE)
    ]
    return dict(zip(blobs, zip(values.tolist(), sizes.tolist(), strict=True), strict=True))
