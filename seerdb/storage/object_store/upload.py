"""Putting an object that a manifest record is going to name (I5)."""

from __future__ import annotations

from seerdb.errors import ChecksumError
from seerdb.storage.object_store.base import ObjectStore

PIECE = 8 << 20
"""Most bytes that are read back at once: not a second copy of all of a large object."""


def upload(store: ObjectStore, name: str, data: bytes) -> None:
    """Put an object into the bucket and make sure that it is there byte for byte."""
    store.put(name, data)
    if not _is_there(store, name, data):
        raise ChecksumError(
            "what was uploaded reads back differently; it is not used and will be made again",
            name=name,
        )


def _is_there(store: ObjectStore, name: str, data: bytes) -> bool:
    if len(data) <= PIECE:
        return store.get(name) == data
    pieces = (data[start : start + PIECE] for start in range(0, len(data), PIECE))
    return all(
        store.get_range(name, start, len(piece)) == piece
        for start, piece in zip(range(0, len(data), PIECE), pieces, strict=True)
    )
