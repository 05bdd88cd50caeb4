"""Putting an object that a manifest record is going to name (I5)."""

from __future__ import annotations

from seerdb.errors import ChecksumError
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.pieces import Body


def upload(store: ObjectStore, name: str, data: Body, checksum: int) -> None:
    """Put an object into the bucket, read it back, and make sure that its length and its
    ``checksum``, a CRC32C, are those of ``data``."""
    store.put(name, data)
    if store.checksum(name) != (len(data), checksum):
        raise ChecksumError(
            "what was uploaded reads back differently; it is not used and will be made again",
            name=name,
        )
