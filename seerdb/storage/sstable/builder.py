"""Sorted entries in, the bytes of a table out."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from operator import lt, neg

import msgspec
import numpy as np
import zstandard
from crc32c import crc32c

from seerdb.errors import InternalError
from seerdb.ids import MAX_SEQ
from seerdb.storage.entry import DELETE, MERGE, PUT, RangeTombstone
from seerdb.storage.sstable.block import HEADER_SIZE, KINDS, Columns, encode_block
from seerdb.storage.sstable.filter import build_filter, key_hash
from seerdb.storage.sstable.format import (
    UNASSIGNED_SEQ,
    ZSTD_LEVEL,
    Footer,
    TableIndex,
    TableProperties,
    encode_footer,
    seal,
)
from seerdb.storage.value import count_expiring

_STEP = 128
"""Entries handled at a time: few enough to stay near the processor."""


@dataclass(frozen=True, slots=True)
class BuiltTable:
    """A finished table, and what the manifest records of it as ``TableMeta``."""

    data: bytes
    tail_offset: int
    checksum: int
    entries: int
    deletes: int
    range_deletes: int
    smallest: bytes
    largest: bytes
    min_seq: int
    max_seq: int
    expiring: int
    merges: int


class TableBuilder:
    """Builds one table. For one use, by one thread.

    Memory: the blocks so far in their stored form, one unfinished block, 8 bytes an entry.
    """

    def __init__(self, *, block_size: int, compression: str, filter_bits_per_key: int) -> None:
        """``block_size`` bounds the keys and values of a block, before compression (``"zstd"``
        or ``"none"``), unless it holds a single entry or ends with many versions of a key."""
        self._block_size = block_size
        self._filter_bits_per_key = filter_bits_per_key
        self._compressor = (
            zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=False)
            if compression == "zstd"
            else None
        )
        self._blocks: list[bytes] = []
        self._blocks_size = 0
        self._first_keys: list[bytes] = []
        self._hashes = array("Q")
        self._tombstones: set[RangeTombstone] = set()
        self._last: tuple[bytes, int] = (b"", 0)
        self._seq_bounds: set[int] = set()
        self._deletes = self._expiring = self._merges = 0
        self._several_versions = False
        self._raw_bytes = 0
        # The unfinished block, as encode_block wants it.
        self._parts: list[bytes] = []
        self._offsets = [HEADER_SIZE]
        self._seqs: list[int] = []
        self._kinds = bytearray()

    @property
    def size_estimate(self) -> int:
        """About how many bytes the table would have if it were finished now."""
        filter_size = len(self._hashes) * self._filter_bits_per_key // 8
        return self._blocks_size + self._offsets[-1] + filter_size

    def add(
        self,
        keys: list[bytes],
        seqs: list[int],
        kinds: bytes | bytearray | list[int],
        values: list[bytes],
    ) -> None:
        """Append entries that follow all earlier ones: key ascending, then seq descending.

        Raises ``InternalError`` when they do not, or are no entries of a table.
        """
        kinds = bytes(kinds)
        if not len(keys) == len(seqs) == len(kinds) == len(values):
            raise InternalError("the columns of a table differ in length")
        # In steps, so that what one pass over the entries touches is near for the next.
        for start in range(0, len(keys), _STEP):
            step = slice(start, start + _STEP)
            self._add_step(Columns(keys[step], seqs[step], kinds[step], values[step]))

    def add_range_tombstones(self, tombstones: Iterable[RangeTombstone]) -> None:
        """Add range tombstones, in any order. Raises ``InternalError`` for an empty range."""
        for tombstone in tombstones:
            if tombstone.start >= tombstone.end:
                raise InternalError(f"{tombstone} covers nothing")
            self._tombstones.add(tombstone)

    def finish(
        self, min_timestamp_us: int, max_timestamp_us: int, *, created_by: str = "seerdb"
    ) -> BuiltTable:
        """The table; the timestamps are those of its oldest and newest commit.

        Raises ``InternalError`` when nothing was added.
        """
        if not self._hashes and not self._tombstones:
            raise InternalError("a table must not be empty")
        if self._seqs:
            self._write_block(len(self._seqs))
        properties = self._properties(min_timestamp_us, max_timestamp_us, created_by)
        data = b"".join((*self._blocks, *self._tail(properties)))
        return BuiltTable(
            data=data,
            tail_offset=self._blocks_size,
            checksum=crc32c(data),
            entries=properties.entries,
            deletes=properties.deletes,
            range_deletes=properties.range_deletes,
            smallest=properties.smallest,
            largest=properties.largest,
            min_seq=properties.min_seq,
            max_seq=properties.max_seq,
            expiring=properties.expiring,
            merges=properties.merges,
        )

    def _add_step(self, columns: Columns) -> None:
        keys, seqs, kinds, values = columns
        self._check(columns)
        self._last = (keys[-1], seqs[-1])
        self._hashes.extend(map(key_hash, keys))
        parts = [b""] * (2 * len(keys))
        parts[0::2], parts[1::2] = keys, values
        self._parts += parts
        self._offsets += accumulate(map(len, parts), initial=self._offsets.pop())
        self._seqs += seqs
        self._kinds += kinds
        self._cut_blocks()

    def _check(self, columns: Columns) -> None:
        """Check entries, and note their deletes and the range of their seqs."""
        keys, seqs, kinds, values = columns
        deletes = kinds.count(DELETE)
        if kinds.count(PUT) + deletes != len(kinds):
            if kinds.translate(None, KINDS):
                raise InternalError(f"a table holds no entries of kinds {set(kinds)}")
            self._merges += kinds.count(MERGE)
            self._expiring += count_expiring(kinds, values)
        low, high = min(seqs), max(seqs)
        if low < UNASSIGNED_SEQ or high > MAX_SEQ:
            raise InternalError(f"not sequence numbers: {low}, {high}")
        if not all(map(lt, chain((self._last[0],), keys), keys)):
            self._check_versions(keys, seqs)
        self._deletes += deletes
        self._seq_bounds |= {low, high}
        if UNASSIGNED_SEQ in self._seq_bounds and len(self._seq_bounds) > 1:
            raise InternalError("a table with and without sequence numbers")

    def _check_versions(self, keys: Sequence[bytes], seqs: list[int]) -> None:
        entries = list(zip(keys, map(neg, seqs), strict=True))
        previous = self._last[0], -self._last[1]
        for left, right in pairwise((previous, *entries)):
            if left >= right:
                raise InternalError(f"entries out of order: {left} before {right}")
        self._several_versions = True

    def _cut_blocks(self) -> None:
        """Write the blocks that are complete: full, and their last key cannot come again."""
        limit = HEADER_SIZE + self._block_size
        while self._offsets[-1] > limit:
            fitting = (bisect_right(self._offsets, limit) - 1) // 2
            stop = self._after_key(max(fitting, 1) - 1)
            if stop == len(self._seqs):
                return
            self._write_block(stop)

    def _after_key(self, entry: int) -> int:
        """The first entry of the unfinished block with a larger key than ``entry`` has."""
        keys = self._parts[0::2]
        return bisect_right(keys, keys[entry], lo=entry)

    def _write_block(self, stop: int) -> None:
        """Write the first ``stop`` entries of the unfinished block as one block."""
        first = len(self._hashes) - len(self._seqs)
        end = 2 * stop
        payload = encode_block(
            self._parts[:end],
            self._offsets[: end + 1],
            self._seqs[:stop],
            bytes(self._kinds[:stop]),
            self._hashes[first : first + stop],
            several_versions=self._several_versions and len(set(self._parts[0:end:2])) < stop,
        )
        block = seal(payload, self._compressor)
        self._blocks.append(block)
        self._blocks_size += len(block)
        self._first_keys.append(self._parts[0])
        shift = self._offsets[end] - HEADER_SIZE
        self._raw_bytes += shift
        self._offsets = [offset - shift for offset in self._offsets[end:]]
        del self._parts[:end], self._seqs[:stop], self._kinds[:stop]

    def _properties(
        self, min_timestamp_us: int, max_timestamp_us: int, created_by: str
    ) -> TableProperties:
        entries = len(self._hashes)
        bounds = [key for t in self._tombstones for key in (t.start, t.end)]
        if entries:
            bounds += (self._first_keys[0], self._last[0])
        seqs = self._seq_bounds.union(t.seq for t in self._tombstones)
        return TableProperties(
            entries=entries,
            deletes=self._deletes,
            range_deletes=len(self._tombstones),
            smallest=min(bounds),
            largest=max(bounds),
            min_seq=min(seqs),
            max_seq=max(seqs),
            min_timestamp_us=min_timestamp_us,
            max_timestamp_us=max_timestamp_us,
            expiring=self._expiring,
            merges=self._merges,
            raw_bytes=self._raw_bytes,
            created_by=created_by,
        )

    def _tail(self, properties: TableProperties) -> list[bytes]:
        encode = msgspec.msgpack.encode
        index = TableIndex(self._first_keys, list(map(len, self._blocks)), self._last[0])
        parts = [
            seal(encode(sorted(self._tombstones)), self._compressor),
            seal(build_filter(np.asarray(self._hashes), self._filter_bits_per_key), None),
            seal(encode(index), self._compressor),
            seal(encode(properties), self._compressor),
        ]
        starts = accumulate(map(len, parts[:-1]), initial=self._blocks_size)
        return [*parts, encode_footer(Footer(*starts))]
