"""Checks a whole blob: every byte, and every value."""

from __future__ import annotations

from crc32c import crc32c

from seerdb.errors import ChecksumError, CorruptionError, TruncatedError
from seerdb.storage.blob.format import Directory, open_value
from seerdb.storage.manifest.version import BlobUse
from seerdb.storage.object_store.names import blob_name


def verify_blob(blob: BlobUse, data: bytes) -> Directory:
    """Where the values of the blob lie. Raises ``CorruptionError`` unless ``data`` is what the
    version says of it, naming the value that is damaged, if that can be told."""
    name = blob_name(blob.id)
    if len(data) != blob.size:
        raise TruncatedError("wrong length", name=name, expected=blob.size, found=len(data))
    directory = Directory(blob.id, data)
    total = 0
    for place in directory:
        open_value(data[place.offset : place.offset + place.length], place)
        total += place.length
    if total != blob.total:
        raise CorruptionError(
            "wrong number of bytes in values", name=name, expected=blob.total, found=total
        )
    found = crc32c(data)
    if found != blob.checksum:
        raise ChecksumError("wrong checksum", name=name, expected=blob.checksum, found=found)
    return directory
