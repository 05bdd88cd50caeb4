"""A table's tail, opened: which block may hold a key, and how to decode that block.

The reader does no I/O: whoever owns it fetches the tail once, and blocks as needed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate, pairwise
from operator import le, lt
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from seerdb.errors import MALFORMED, CorruptionError, TruncatedError
from seerdb.storage.entry import RangeTombstone
from seerdb.storage.object_store.names import table_name
from seerdb.storage.sstable.block import Block
from seerdb.storage.sstable.blocks import counts_in, packed_blocks
from seerdb.storage.sstable.compressor import Payload, Payloads
from seerdb.storage.sstable.filter import PASS_ALL, Filter, prefix_hash, shared_prefix
from seerdb.storage.sstable.format import (
    FOOTER_SIZE,
    UNASSIGNED_SEQ,
    TableProperties,
    decode_footer,
    unseal,
    unseal_all,
)
from seerdb.storage.sstable.index import TableIndex, open_index
from seerdb.storage.sstable.packed import Packed

if TYPE_CHECKING:
    from seerdb.storage.manifest.version import TableMeta

T = TypeVar("T")

_READER_MEMORY = 4096
"""Roughly: a reader with its meta and properties, without what grows with the table."""
_BLOCK_MEMORY = 2 * 8
"""What each block adds beside its place in the index: its slot and its offset."""
_RANGE_MEMORY = 184
"""Measured: a range tombstone, without the bytes of its bounds."""


class TableReader:
    """An open table. Thread-safe: only ``slots`` changes, and each change is one store.

    ``filter`` is over the keys of entries; it says nothing of range tombstones.
    ``rank(key) - 1`` is the block that may hold ``key``, none when that is -1; blocks begin at
    their ``separator``, and ``separators`` are all, for a bisect without the call, or ``None``
    (index.py). ``slots`` has a place for each block: the block while the block cache keeps it,
    else ``None``. ``smallest`` and ``largest`` are ``meta``'s. ``tombstones`` are its range
    tombstones, in order. ``memory`` is what the reader costs in bytes, without cached blocks.
    """

    __slots__ = (
        "_name",
        "_offsets",
        "filter",
        "largest",
        "memory",
        "meta",
        "properties",
        "rank",
        "separator",
        "separators",
        "slots",
        "smallest",
        "tombstones",
    )

    def __init__(self, meta: TableMeta, tail: bytes) -> None:
        """``tail`` is the object from ``meta.tail_offset`` to its end.

        Raises ``CorruptionError`` when it is damaged, or the tail of another table.
        """
        self.meta = meta
        self.smallest = meta.smallest
        self.largest = meta.largest
        self._name = table_name(meta.id)
        parts = self._split(tail)
        self.tombstones = self._decode(tuple[RangeTombstone, ...], *parts[0])
        index = self._decode(TableIndex, *parts[2])
        self.properties = self._decode(TableProperties, *parts[3])
        self._check(index, offset=parts[2][1])
        opened = open_index(index, name=self._name, offset=parts[2][1])
        self.rank, self.separator = opened.rank, opened.separator
        self.separators = opened.separators
        self.slots: list[Block | None] = [None] * len(index.lengths)
        self._offsets = array("Q", accumulate(index.lengths, initial=0))
        self.memory = _READER_MEMORY + opened.memory + self.block_count * _BLOCK_MEMORY
        self.memory += sum(_RANGE_MEMORY + len(t.start) + len(t.end) for t in self.tombstones)
        self.filter = PASS_ALL
        if parts[1][0]:
            self.filter = Filter(parts[1][0], name=self._name, offset=parts[1][1])
            self.memory += self.filter.memory

    @property
    def block_count(self) -> int:
        """How many blocks the table has; none when it holds range tombstones only."""
        return len(self.slots)

    def block_range(self, index: int) -> tuple[int, int]:
        """Offset and stored length of a block in the object; blocks lie back to back."""
        start = self._offsets[index]
        return start, self._offsets[index + 1] - start

    def stretch_end(self, first: int, size: int) -> int:
        """The block after those that, from ``first`` on, have about ``size`` bytes of keys and
        values at most; ``first`` is among them in any case. It is told by the bytes that are
        stored, as if all blocks were compressed alike."""
        most = self._offsets[first] + self._stored(size)
        return max(first + 1, bisect_right(self._offsets, most) - 1)

    def stretch_start(self, last: int, size: int) -> int:
        """The first of those up to, not including, ``last``; as :meth:`stretch_end`."""
        least = self._offsets[last] - self._stored(size)
        return min(last - 1, bisect_left(self._offsets, least))

    def _stored(self, size: int) -> int:
        """As how many bytes ``size`` bytes of keys and values are stored, about."""
        return size * self._offsets[-1] // max(1, self.properties.raw_bytes)

    def decode_block(self, index: int, stored: bytes) -> Block:
        """The block whose bytes, at :meth:`block_range`, are ``stored``.

        Raises ``CorruptionError`` when they are damaged, or those of another block.
        """
        offset, length = self.block_range(index)
        self._check_length(stored, length, offset)
        return self._block(index, unseal(stored, name=self._name, offset=offset))

    def decode_blocks(self, first: int, last: int, stored: Payload) -> Iterator[Block]:
        """The blocks ``first`` to ``last`` (exclusive), at least one, whose bytes are ``stored``,
        each as by :meth:`decode_block`, for less."""
        for index, payload in enumerate(self._unsealed(first, last, stored), first):
            yield self._block(index, bytes(payload))

    def _block(self, index: int, payload: bytes) -> Block:
        offset = self._offsets[index]
        block = Block(payload, name=self._name, offset=offset)
        if self.properties.max_seq == UNASSIGNED_SEQ:
            block.assign_seq(self.meta.max_seq)
        self._check_place(block.first_key, index)
        self._check_place(block.last_key, index)
        return block

    def pack_blocks(self, first: int, last: int, stored: Payload) -> Packed:
        """The entries of the blocks ``first`` to ``last`` (exclusive), at least one; ``stored`` are
        their bytes. Raises as :meth:`decode_block` does."""
        payloads = self._unsealed(first, last, stored)
        entries = packed_blocks(payloads, name=self._name, offset=self._offsets[first])
        if self.properties.max_seq == UNASSIGNED_SEQ:
            entries = entries.with_seq(self.meta.max_seq)
        counts = counts_in(payloads)
        ends = counts.cumsum()
        first_keys = entries.keys_at((ends - counts).tolist())
        last_keys = entries.keys_at((ends - 1).tolist())
        if not self._are_placed(first_keys, last_keys, first):
            for index, keys in enumerate(zip(first_keys, last_keys, strict=True), first):
                for key in keys:
                    self._check_place(key, index)
        return entries

    def _unsealed(self, first: int, last: int, stored: Payload) -> Payloads:
        begin, end = self._offsets[first], self._offsets[last]
        self._check_length(stored, end - begin, begin)
        borders = np.array(self._offsets[first : last + 1], np.int64) - begin
        return unseal_all(stored, borders, name=self._name, offset=begin)

    def _are_placed(self, first_keys: list[bytes], last_keys: list[bytes], first: int) -> bool:
        """Whether blocks with these keys, of which the first is the block ``first``, are where the
        index sends lookups for them; ``False`` says nothing."""
        if self.separators is None:
            return False
        separators = self.separators[first : first + len(first_keys) + 1]
        return all(map(le, separators, first_keys)) and all(map(lt, last_keys, separators[1:]))

    def _check_length(self, stored: Payload, length: int, offset: int) -> None:
        if len(stored) != length:
            raise TruncatedError(
                "a block has the wrong length",
                name=self._name,
                offset=offset,
                expected=length,
                found=len(stored),
            )

    def block_span(self, start: bytes | None, end: bytes | None) -> tuple[int, int]:
        """The first of the blocks that may hold keys in ``[start, end)``, and the one after the
        last."""
        first = 0 if start is None else max(0, self.rank(start) - 1)
        if end is None:
            return first, self.block_count
        last = self.rank(end)
        if last and self.separator(last - 1) == end:
            last -= 1
        return first, max(first, last)

    def may_hold(self, start: bytes | None, end: bytes | None) -> bool:
        """Whether there may be keys in ``[start, end)``, as far as the prefixes in the filter
        tell; ``False`` is certain."""
        prefix = shared_prefix(start, end, self.properties.filter_prefix)
        return prefix is None or self.filter.may_contain(prefix_hash(prefix))

    def _check_place(self, key: bytes, index: int) -> None:
        """Where the index sends lookups for a key of a block must be that block."""
        if self.rank(key) != index + 1:
            raise CorruptionError(
                "not the block that the index names",
                name=self._name,
                offset=self._offsets[index],
                expected=f"keys from {self.separator(index)!r}",
                found=key,
            )

    def _split(self, tail: bytes) -> list[tuple[bytes, int]]:
        """Payload and offset of each part of the tail."""
        start, size = self.meta.tail_offset, self.meta.size
        if len(tail) != size - start:
            raise TruncatedError(
                "the tail has the wrong length",
                name=self._name,
                offset=start,
                expected=size - start,
                found=len(tail),
            )
        footer = decode_footer(tail, name=self._name, tail_offset=start)
        return [
            (unseal(tail[a - start : b - start], name=self._name, offset=a), a)
            for a, b in pairwise((*footer, size - FOOTER_SIZE))
        ]

    def _decode(self, kind: type[T], payload: bytes, offset: int) -> T:
        try:
            return msgspec.msgpack.decode(payload, type=kind)
        except MALFORMED as error:
            raise CorruptionError(
                f"no {kind.__name__} is there: {error}", name=self._name, offset=offset
            ) from error

    def _check(self, index: TableIndex, *, offset: int) -> None:
        """The tail must agree with the manifest, and the index with the blocks."""
        properties = self.properties
        if properties.max_seq == UNASSIGNED_SEQ:
            seq = self.meta.max_seq
            properties = msgspec.structs.replace(properties, min_seq=seq, max_seq=seq)
        for field in (
            "entries",
            "deletes",
            "range_deletes",
            "smallest",
            "largest",
            "min_seq",
            "max_seq",
            "expiring",
            "merges",
            "pointers",
        ):
            expected, found = getattr(self.meta, field), getattr(properties, field)
            if expected != found:
                raise CorruptionError(
                    f"not the table that the manifest names: {field} differs",
                    name=self._name,
                    expected=expected,
                    found=found,
                )
        if min(index.lengths, default=1) < 1 or sum(index.lengths) != self.meta.tail_offset:
            raise CorruptionError("the index is malformed", name=self._name, offset=offset)
