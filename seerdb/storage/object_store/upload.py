"""Putting an object that a manifest record is going to name (I5)."""

from __future__ import annotations

from seerdb.errors import ChecksumError
from seerdb.storage.object_store.base import ObjectStore


def upload(store: ObjectStore, name: str, data: bytes) -> None:
    """Put an object into the bucket and make sure that it is there byte for byte."""
    store.put(name, data)
    if store.get(name) != data:
        raise ChecksumError(
            "what was uploaded reads back differently; it is not used and will be made again",
            name=name,
        )
