"""Sorted entries in, the bytes of a table out."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from operator import lt, ne, neg
from typing import NamedTuple

import msgspec
import numpy as np
from crc32c import crc32c

from seerdb.errors import InternalError
from seerdb.ids import MAX_SEQ, BlobId
from seerdb.storage.digest import NONE, digest
from seerdb.storage.entry import BLOB, BLOB_WITH_EXPIRY, DELETE, MERGE, PUT, RangeTombstone
from seerdb.storage.pieces import Pieces
from seerdb.storage.pointer import POINTER_SIZE, count_by_blob
from seerdb.storage.sstable.block import KINDS
from seerdb.storage.sstable.blocks import BlockEncoder
from seerdb.storage.sstable.compressor import Compressor, Payload
from seerdb.storage.sstable.filter import build_filter, key_hash, prefix_hash
from seerdb.storage.sstable.format import (
    TRAILER_SIZE,
    UNASSIGNED_SEQ,
    Footer,
    TableProperties,
    encode_footer,
    seal,
    seal_all,
    seal_rows,
)
from seerdb.storage.sstable.hashing import hash_rows
from seerdb.storage.sstable.index import build_index, separators_of
from seerdb.storage.sstable.order import Bytes, Flags
from seerdb.storage.sstable.packed import Hashes, Packed, join
from seerdb.storage.value import expiries, expiry_marks


@dataclass(frozen=True, slots=True)
class BuiltTable:
    """A finished table, and what the manifest records of it as ``TableMeta``."""

    stretches: tuple[Payload, ...]
    """Neighbouring blocks, joined."""
    lengths: tuple[int, ...]
    """Of the blocks."""
    tail: bytes
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
    first_expiry: int
    half_expired: int
    digest: str
    pointed: dict[BlobId, tuple[int, int]]
    """Into which blobs it points, at how many values and at how many bytes."""

    @property
    def data(self) -> Pieces:
        """All of its bytes."""
        return Pieces((*self.stretches, self.tail))

    def blocks(self) -> Iterator[memoryview]:
        """The stored form of each block."""
        lengths = iter(self.lengths)
        for stretch in self.stretches:
            rest = memoryview(stretch)
            while rest:
                size = next(lengths)
                yield rest[:size]
                rest = rest[size:]


_BLOCKS_AT_ONCE = 256
"""About so many blocks of the usual size stay in the processor's cache from one step to the next;
each step has a price, too."""
_WORD = 8
_WITHOUT_END = bytes((PUT, DELETE, BLOB))


class _Stretch(NamedTuple):
    """Entries that are not in a block yet, and what is known of their keys: ``is_new`` tells which
    differ from the one before, ``None`` that all do."""

    entries: Packed
    hashes: Hashes
    is_new: Flags | None

    @classmethod
    def joined(cls, several: Sequence[_Stretch]) -> _Stretch:
        """All of them as one."""
        if len(several) == 1:
            return several[0]
        flags = None
        if any(each.is_new is not None for each in several):
            flags = np.concatenate([each.flags() for each in several])
        return cls(
            join([each.entries for each in several]),
            np.concatenate([each.hashes for each in several]),
            flags,
        )

    def flags(self) -> Flags:
        """``is_new`` of each."""
        return np.ones(len(self.entries), np.bool_) if self.is_new is None else self.is_new

    def after_key(self, stop: int) -> int:
        """The first entry from ``stop`` on that has another key than the one before it."""
        if self.is_new is None:
            return stop
        more = self.is_new[stop:]
        return stop + int(more.argmax()) if more.any() else len(self.is_new)

    def borders(self, block_size: int) -> list[int]:
        """Where blocks begin that are full, with all versions of their keys, and where the last of
        them ends."""
        entries = self.entries
        if entries.shape and self.is_new is None:
            return list(range(0, len(entries) + 1, full_block(entries, block_size)))
        ends = entries.end_positions()
        borders, begins = [0], 0
        while ends[-1] - begins > block_size:
            fitting = bisect_right(ends, begins + block_size)
            stop = self.after_key(max(fitting, borders[-1] + 1))
            if stop == len(ends):
                break
            borders.append(stop)
            begins = ends[stop - 1]
        return borders

    def between(self, start: int, stop: int) -> _Stretch:
        """Those at the positions from ``start`` up to ``stop``."""
        return _Stretch(
            self.entries.between(start, stop),
            self.hashes[start:stop],
            None if self.is_new is None else self.is_new[start:stop],
        )


def full_block(entries: Packed, block_size: int) -> int:
    """How many entries a block of this size has at most, if they are of one shape; else 1."""
    return max(1, block_size // sum(entries.shape)) if entries.shape else 1


def _ascends(rows: Bytes) -> bool:
    """Whether each row is above the one before: mostly its first eight bytes tell."""
    keys = rows.view(f"S{rows.shape[1]}")[:, 0]
    if rows.shape[1] < _WORD:
        return bool((keys[1:] > keys[:-1]).all())
    words = rows[:, :_WORD].view(">u8")[:, 0].astype(np.uint64)
    tied = (words[1:] == words[:-1]).nonzero()[0]
    return bool((words[1:] >= words[:-1]).all() and (keys[tied + 1] > keys[tied]).all())


class TableBuilder:
    """Builds one table. For one use, by one thread.

    Memory: the blocks so far in their stored form, one unfinished block, 8 bytes an entry, and
    8 more for one that expires.
    """

    def __init__(
        self,
        *,
        block_size: int,
        compression: str,
        filter_bits_per_key: int,
        filter_prefix: int = 0,
        index: str = "bisect",
    ) -> None:
        """``block_size`` bounds the keys and values of a block, before compression (``"zstd"``
        or ``"none"``), unless it holds a single entry or ends with many versions of a key.
        ``filter_prefix``: the filter has prefixes of so many bytes, too. ``index`` is ``"bisect"``
        or ``"learned"``."""
        self._block_size = block_size
        self._filter_bits_per_key = filter_bits_per_key
        self._filter_prefix = filter_prefix
        self._learned = index == "learned"
        self._compressor = Compressor() if compression == "zstd" else None
        self._encoder = BlockEncoder(0 if self._compressor else TRAILER_SIZE)
        self._stretches: list[Payload] = []
        self._lengths: list[int] = []
        self._blocks_size = 0
        self._crc = 0
        self._separators: list[bytes] = []
        self._written_to: bytes | None = None
        self._entries = 0
        self._hashes: list[Hashes] = []
        self._tombstones: set[RangeTombstone] = set()
        self._last = b""
        self._seq_bounds: set[int] = set()
        self._deletes = self._merges = 0
        self._expiries = array("Q")
        self._pointed: dict[BlobId, tuple[int, int]] = {}
        self._raw_bytes = 0
        self._unfinished: list[_Stretch] = []
        self._unfinished_size = 0
        self._digest = NONE  # of what is in the blocks: as late as can be, to see what was lost

    @property
    def size_estimate(self) -> int:
        """About how many bytes the table would have if it were finished now."""
        filter_size = self._entries * self._filter_bits_per_key // 8
        return self._blocks_size + self._unfinished_size + filter_size

    def add(self, entries: Packed) -> None:
        """Append entries that follow all earlier ones: key ascending, then seq descending. All
        versions of a key come by one call.

        Raises ``InternalError`` when they do not, or are no entries of a table.
        """
        count = len(entries)
        if not count:
            return
        rows = entries.key_rows()
        if rows is None:
            keys = entries.keys()
            ascends = all(map(lt, keys, islice(keys, 1, None)))
            hashes = np.fromiter(map(key_hash, keys), np.uint64, count)
        else:
            ascends, hashes = _ascends(rows), hash_rows(rows)
        is_new = self._check(entries, ascends=ascends)
        self._last = entries.key(count - 1)
        self._entries += count
        self._raw_bytes += entries.parts.size
        self._hashes.append(hashes)
        if self._filter_prefix:
            self._hashes.append(self._prefix_hashes(entries.keys()))
        self._unfinished.append(_Stretch(entries, hashes, is_new))
        self._unfinished_size += entries.parts.size
        if self._unfinished_size > self._block_size:
            self._cut_blocks()

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
        if not self._entries and not self._tombstones:
            raise InternalError("a table must not be empty")
        if self._unfinished:
            stretch = _Stretch.joined(self._unfinished)
            self._write_blocks(stretch, [0, len(stretch.entries)])
        if self._digest.entries != self._entries:
            raise InternalError(f"{self._digest.entries} entries in blocks, of {self._entries}")
        properties = self._properties(min_timestamp_us, max_timestamp_us, created_by)
        first_expiry, half_expired = expiry_marks(self._expiries, self._entries)
        tail = b"".join(self._tail(properties))
        return BuiltTable(
            stretches=tuple(self._stretches),
            lengths=tuple(self._lengths),
            tail=tail,
            tail_offset=self._blocks_size,
            checksum=crc32c(tail, self._crc),
            entries=properties.entries,
            deletes=properties.deletes,
            range_deletes=properties.range_deletes,
            smallest=properties.smallest,
            largest=properties.largest,
            min_seq=properties.min_seq,
            max_seq=properties.max_seq,
            expiring=properties.expiring,
            merges=properties.merges,
            first_expiry=first_expiry,
            half_expired=half_expired,
            digest=str(self._digest),
            pointed=self._pointed,
        )

    def _check(self, entries: Packed, *, ascends: bool) -> Flags | None:
        """Check entries, note what they are, and tell which have a new key; ``None``: all.
        ``ascends``: each of their keys is above the one before."""
        kinds = entries.kinds.tobytes()
        deletes = kinds.count(DELETE)
        if kinds.count(PUT) + deletes != len(kinds):
            if kinds.translate(None, KINDS):
                raise InternalError(f"a table holds no entries of kinds {set(kinds)}")
            self._merges += kinds.count(MERGE)
            if kinds.translate(None, _WITHOUT_END):
                self._expiries.extend(expiries(kinds, entries.values()))
            self._count_pointers(entries)
        low, high = int(entries.seqs.min()), int(entries.seqs.max())
        if high > MAX_SEQ:
            raise InternalError(f"not a sequence number: {high}")
        is_new = None
        if not ascends or self._last >= entries.first_key:
            is_new = self._check_versions(entries.keys(), entries.seqs.tolist())
        self._deletes += deletes
        self._seq_bounds |= {low, high}
        if UNASSIGNED_SEQ in self._seq_bounds and len(self._seq_bounds) > 1:
            raise InternalError("a table with and without sequence numbers")
        return is_new

    def _prefix_hashes(self, keys: list[bytes]) -> Hashes:
        size = self._filter_prefix
        prefixes = dict.fromkeys([key[:size] for key in keys if len(key) >= size])
        return np.fromiter(map(prefix_hash, prefixes), np.uint64, len(prefixes))

    def _count_pointers(self, entries: Packed) -> None:
        pointing = (entries.kinds == BLOB) | (entries.kinds == BLOB_WITH_EXPIRY)
        pointers = entries.tails(pointing, POINTER_SIZE)
        for blob, (count, size) in count_by_blob(pointers).items():
            count_before, size_before = self._pointed.get(blob, (0, 0))
            self._pointed[blob] = count_before + count, size_before + size

    def _check_versions(self, keys: list[bytes], seqs: list[int]) -> Flags:
        entries = list(zip(keys, map(neg, seqs), strict=True))
        if keys[0] <= self._last:
            raise InternalError(f"entries out of order: {keys[0]!r} after {self._last!r}")
        for left, right in pairwise(entries):
            if left >= right:
                raise InternalError(f"entries out of order: {left} before {right}")
        return np.fromiter(map(ne, (self._last, *keys), keys), np.bool_, len(keys))

    def _cut_blocks(self) -> None:
        """Write the blocks that are full."""
        stretch = _Stretch.joined(self._unfinished)
        borders = stretch.borders(self._block_size)
        count, begins = len(stretch.entries), stretch.entries.start(borders[-1])
        blocks = len(borders) - 1
        step = -(-blocks // max(1, round(blocks / _BLOCKS_AT_ONCE))) or 1
        for at in range(0, blocks, step):
            few = borders[at : at + step + 1]
            begin, end = few[0], few[-1]
            self._write_blocks(stretch.between(begin, end), [border - begin for border in few])
        self._unfinished = [stretch.between(borders[-1], count)] if borders[-1] < count else []
        self._unfinished_size = stretch.entries.parts.size - begins

    def _write_blocks(self, stretch: _Stretch, borders: list[int]) -> None:
        stored, lengths = self._sealed(self._encoder.encode(*stretch, borders))
        self._stretches.append(stored)
        self._lengths += lengths
        self._blocks_size += len(stored)
        self._crc = crc32c(stored, self._crc)
        self._digest += digest(stretch.entries)
        first_keys = stretch.entries.keys_at(borders[:-1])
        last_keys = stretch.entries.keys_at([border - 1 for border in borders[1:]])
        self._separators += separators_of(first_keys, last_keys, self._written_to)
        self._written_to = last_keys[-1]

    def _sealed(self, payloads: Bytes | Sequence[bytes]) -> tuple[Payload, list[int]]:
        """The stored forms, joined, and the length of each."""
        if not isinstance(payloads, np.ndarray):
            return seal_all(payloads, self._compressor)
        if self._compressor is None:
            return seal_rows(payloads), [payloads.shape[1]] * len(payloads)
        return seal_all([row.data for row in payloads], self._compressor)

    def _properties(
        self, min_timestamp_us: int, max_timestamp_us: int, created_by: str
    ) -> TableProperties:
        entries = self._entries
        bounds = [key for t in self._tombstones for key in (t.start, t.end)]
        if entries:
            bounds += (self._separators[0], self._last)
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
            expiring=len(self._expiries),
            merges=self._merges,
            filter_prefix=self._filter_prefix,
            pointers=sum(count for count, _ in self._pointed.values()),
            raw_bytes=self._raw_bytes,
            created_by=created_by,
        )

    def _tail(self, properties: TableProperties) -> list[bytes]:
        encode = msgspec.msgpack.encode
        index = build_index(
            self._separators,
            self._last,
            self._lengths,
            learned=self._learned,
        )
        parts = [
            seal(encode(sorted(self._tombstones)), self._compressor),
            seal(build_filter(self._hashes, self._filter_bits_per_key), None),
            seal(encode(index), self._compressor),
            seal(encode(properties), self._compressor),
        ]
        starts = accumulate(map(len, parts[:-1]), initial=self._blocks_size)
        return [*parts, encode_footer(Footer(*starts))]
