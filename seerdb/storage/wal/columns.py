"""Many records of a segment as columns, without an object for each."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from seerdb.storage.wal.starts import Bytes, Places

Record: TypeAlias = tuple[int, int, bytes]
"""seq, timestamp in microseconds, payload of a BATCH."""
Numbers: TypeAlias = NDArray[np.uint64]


class RecordColumns(Sequence[Record]):
    """Records of a segment. Immutable, so thread-safe.

    The payload of each is ``sizes`` bytes of ``data`` from ``starts`` on.
    """

    def __init__(
        self, data: Bytes, seqs: Numbers, times_us: Numbers, starts: Places, sizes: Places
    ) -> None:
        self.data = data
        self.seqs = seqs
        self.times_us = times_us
        self.starts = starts
        self.sizes = sizes

    @classmethod
    def of(cls, records: Sequence[Record]) -> RecordColumns:
        """Some records, at least one, as columns."""
        seqs, times, payloads = zip(*records, strict=True)
        sizes = np.fromiter(map(len, payloads), np.int64, len(payloads))
        return cls(
            np.frombuffer(b"".join(payloads), np.uint8),
            np.frombuffer(array("Q", seqs), np.uint64),
            np.frombuffer(array("Q", times), np.uint64),
            sizes.cumsum() - sizes,
            sizes,
        )

    def __len__(self) -> int:
        return len(self.seqs)

    @overload
    def __getitem__(self, at: int) -> Record: ...

    @overload
    def __getitem__(self, at: slice) -> RecordColumns: ...

    def __getitem__(self, at: int | slice) -> Record | RecordColumns:
        if isinstance(at, slice):
            columns = self.seqs[at], self.times_us[at], self.starts[at], self.sizes[at]
            return RecordColumns(self.data, *columns)
        start = int(self.starts[at])
        payload = self.data[start : start + int(self.sizes[at])].tobytes()
        return int(self.seqs[at]), int(self.times_us[at]), payload

    def __iter__(self) -> Iterator[Record]:
        return zip(self.seqs.tolist(), self.times_us.tolist(), self._payloads(), strict=True)

    def _payloads(self) -> list[bytes]:
        rows = self.rows(0)
        if rows is not None:
            payloads: list[bytes] = rows.tolist()
            return payloads
        data, ends = self.data.tobytes(), self.starts + self.sizes
        bounds = zip(self.starts.tolist(), ends.tolist(), strict=True)
        return [data[start:end] for start, end in bounds]

    def rows(self, begin: int) -> NDArray[np.void] | None:
        """Each payload from its byte ``begin`` on, as one item, where it lies; ``None`` if there is
        none, and unless all are of one size, above that, and at one distance."""
        if not len(self):
            return None
        first, size = int(self.starts[0]), int(self.sizes[0])
        apart = int(self.starts[1]) - first if len(self) > 1 else size
        if size <= begin or (self.sizes != size).any() or (np.diff(self.starts) != apart).any():
            return None
        form = f"V{size - begin}"
        return np.ndarray((len(self),), form, self.data.data, first + begin, (apart,))
