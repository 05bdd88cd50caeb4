"""Separating large values: into blobs they go, and pointers into the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from msgspec.structs import replace

from seerdb.ids import BlobId, TableId, blob_id
from seerdb.storage.blob.format import BlobBuilder
from seerdb.storage.entry import BLOB, BLOB_WITH_EXPIRY, PUT, PUT_WITH_EXPIRY
from seerdb.storage.manifest.version import BlobRef
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import blob_name
from seerdb.storage.object_store.upload import upload
from seerdb.storage.pointer import BlobPointer
from seerdb.storage.sstable.order import Flags, Order
from seerdb.storage.sstable.packed import Packed
from seerdb.storage.value import EXPIRY_SIZE, pack_expiring, unpack_expiring

BLOB_SIZE = 32 << 20
"""Bytes at which a blob is finished and the next one begun: once uploaded it is read back, so
it is in memory twice where the bucket is no directory."""

_NONE = np.empty(0, np.intp)


class BlobWriter:
    """Writes the blobs of one table as its entries come. For one use, by one thread.

    ``threshold``: bytes from which on a value is large; 0: none is. ``known``: blobs that entries
    may point into already. What it uploads counts only with the table.
    """

    def __init__(
        self,
        store: ObjectStore,
        table: TableId,
        *,
        threshold: int,
        compression: str,
        known: Iterable[BlobRef] = (),
    ) -> None:
        self._store = store
        self._table = table
        self.threshold = threshold
        self._compression = compression
        self._known = {ref.id: ref for ref in known}
        self._number = 0
        self._builder: BlobBuilder | None = None

    def separate(self, entries: Packed) -> Packed:
        """``entries`` with pointers where they have large values. Uploads blobs that are full."""
        large = self._large(entries)
        if not len(large):
            return entries
        kinds = entries.kinds.copy()
        pointers = {}
        for position in large.tolist():
            stored = entries.value(position)
            if kinds[position] == PUT:
                pointers[position] = self.put(stored).stored
            else:
                value, expires = unpack_expiring(stored)
                pointers[position] = pack_expiring(expires, self.put(value).stored)
        kinds[large] = np.where(kinds[large] == PUT, BLOB, BLOB_WITH_EXPIRY)
        return entries.with_values(pointers, kinds)

    def _large(self, entries: Packed) -> Order:
        """Positions of what goes to a blob. What is merged stays: it will be another value once it
        is folded."""
        if not self.threshold or (entries.shape and entries.shape[1] < self.threshold):
            return _NONE
        sizes, kinds = entries.lengths[:, 1], entries.kinds
        expiring = (kinds == PUT_WITH_EXPIRY) & (sizes >= self.threshold + EXPIRY_SIZE)
        large: Flags = ((kinds == PUT) & (sizes >= self.threshold)) | expiring
        return large.nonzero()[0]

    def finish(self, pointed: Mapping[BlobId, tuple[int, int]]) -> tuple[BlobRef, ...]:
        """Upload the last blob; returns what the table, which points at ``pointed`` (values and
        bytes of each blob), has to say of them all. They are durable then."""
        self._upload()
        return tuple(
            replace(self._known[blob], values=values, bytes=size)
            for blob, (values, size) in sorted(pointed.items())
        )

    def put(self, value: bytes) -> BlobPointer:
        """Put a value into a blob; returns the pointer to it. Uploads a blob that is full."""
        builder = self._builder
        if builder is None:
            builder = BlobBuilder(blob_id(self._table, self._number), self._compression)
            self._builder = builder
        pointer = builder.add(value)
        if builder.size >= BLOB_SIZE:
            self._upload()
        return pointer

    def _upload(self) -> None:
        builder = self._builder
        if builder is None:
            return
        built = builder.finish()
        upload(self._store, blob_name(builder.blob), built.data, built.checksum)
        self._known[builder.blob] = BlobRef(
            id=builder.blob,
            size=len(built.data),
            checksum=built.checksum,
            total=built.total,
            values=0,
            bytes=0,
        )
        self._number += 1
        self._builder = None
