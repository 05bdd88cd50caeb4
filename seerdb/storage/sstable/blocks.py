"""Many blocks at once: what a table is built from and merged from. See ``block.py`` for the format.

Most tables hold entries of one shape: every key has one length, and every value. Then neighbouring
blocks look the same, and each column of all of them is put there, or taken from there, by one call.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from seerdb.errors import CorruptionError, InternalError
from seerdb.storage.sstable.block import (
    FINGERPRINT_SHIFT,
    HEADER,
    HEADER_SIZE,
    MAX_PAYLOAD,
    MAX_STRIDE,
    SEVERAL_VERSIONS,
    Places,
    check_kinds,
    in_planes,
    offsets_in,
    offsets_of,
    places_in,
    planes_for,
    planes_of,
    stride_for,
    stride_of,
)
from seerdb.storage.sstable.compressor import Payloads
from seerdb.storage.sstable.order import Bytes, Flags
from seerdb.storage.sstable.packed import Hashes, Lengths, Packed, Seqs, Shape

_SEQ_SIZE = 8
_COUNT_SIZE = 4
_KEPT = 16 << 20
"""Bytes that an encoder keeps at most."""


class BlockEncoder:
    """Makes the payloads of blocks. For one thread.

    Those that look the same are rows of one array, with ``room`` bytes after each. Without room,
    it is mostly memory that is used again: what is new must be zeroed by the system first.
    """

    def __init__(self, room: int = 0) -> None:
        self._room = room
        self._memory: Bytes = np.empty(0, np.uint8)

    def encode(
        self, entries: Packed, hashes: Hashes, is_new: Flags | None, borders: Sequence[int]
    ) -> Bytes | Sequence[bytes]:
        """The payloads of the blocks between each border and the next; rows, with their room, if
        they look the same: those are good until the next call, but with room as long as wanted.

        ``hashes`` are those of the keys; ``is_new`` tells which keys differ from the one before,
        ``None`` that all do. Requires: entries in order; borders ascend from 0 to their number.
        Raises ``InternalError`` when a block exceeds 4 GiB.
        """
        alike = None if is_new is not None else self._encode_alike(entries, hashes, borders)
        return list(_encode_each(entries, hashes, is_new, borders)) if alike is None else alike

    def _encode_alike(
        self, entries: Packed, hashes: Hashes, borders: Sequence[int]
    ) -> Bytes | None:
        """Blocks that all look the same: as many entries of one shape in each, all of different
        keys. They are made a column of all blocks at a time. ``None`` unless they do."""
        blocks, count = len(borders) - 1, borders[1]
        seq_planes = {
            planes_for(largest) or 1
            for largest in np.maximum.reduceat(entries.seqs, borders[:-1]).tolist()
        }
        if not entries.shape or count > MAX_STRIDE or len(seq_planes) > 1:
            return None
        if any(stop - start != count for start, stop in pairwise(borders)):
            return None
        planes = seq_planes.pop()
        offset_planes = stride_for(*entries.shape, count).offset_planes
        parts_end = HEADER_SIZE + count * sum(entries.shape)
        kinds, seqs = parts_end + count, parts_end + 2 * count
        offsets = seqs + planes * count
        size = offsets + len(offset_planes)
        if size > MAX_PAYLOAD:
            return None
        header = HEADER.pack(count, 0, planes, planes_for(parts_end))
        table = self._table(blocks, size + self._room)
        table[:, :HEADER_SIZE] = np.frombuffer(header, np.uint8)
        table[:, HEADER_SIZE:parts_end] = entries.parts.reshape(blocks, -1)
        table[:, parts_end:kinds] = (hashes >> FINGERPRINT_SHIFT).reshape(blocks, -1)
        table[:, kinds:seqs] = entries.kinds.reshape(blocks, -1)
        numbers = in_planes(entries.seqs)[:planes].reshape(planes, blocks, count)
        for plane, at in enumerate(range(seqs, offsets, count)):
            table[:, at : at + count] = numbers[plane]
        table[:, offsets:size] = np.frombuffer(offset_planes, np.uint8)
        return table

    def _table(self, rows: int, columns: int) -> Bytes:
        """Memory for so many rows, which may hold anything."""
        size = rows * columns
        if self._room:
            return np.empty((rows, columns), np.uint8)
        memory = self._memory if size <= self._memory.size else np.empty(size, np.uint8)
        if size <= _KEPT:
            self._memory = memory
        return memory[:size].reshape(rows, columns)


def _encode_each(
    entries: Packed, hashes: Hashes, is_new: Flags | None, borders: Sequence[int]
) -> Iterator[bytes]:
    """The payloads of blocks of any kind, one by one."""
    parts, kinds = entries.parts.data, entries.kinds.tobytes()
    fingerprints = (hashes >> FINGERPRINT_SHIFT).astype(np.uint8).tobytes()
    planes = np.ascontiguousarray(in_planes(entries.seqs))
    largest = np.maximum.reduceat(entries.seqs, borders[:-1]).tolist()
    ends = [entries.start(border) for border in borders]
    for number, (start, stop) in enumerate(pairwise(borders)):
        low, high = ends[number], ends[number + 1]
        count, parts_end = stop - start, HEADER_SIZE + high - low
        seq_planes = planes_for(largest[number]) or 1
        offset_planes = planes_for(parts_end)
        if parts_end + count * (2 + seq_planes) + (2 * count + 1) * offset_planes > MAX_PAYLOAD:
            raise InternalError(f"versions of {entries.key(start)!r} exceed 4 GiB: end snapshots")
        several = is_new is not None and not is_new[start + 1 : stop].all()
        yield b"".join(
            (
                HEADER.pack(count, SEVERAL_VERSIONS * several, seq_planes, offset_planes),
                parts[low:high],
                fingerprints[start:stop],
                kinds[start:stop],
                planes[:seq_planes, start:stop].tobytes(),
                _offset_planes(entries, start, stop),
            )
        )


def _offset_planes(entries: Packed, start: int, stop: int) -> bytes:
    if entries.shape and stop - start <= MAX_STRIDE:
        return stride_for(*entries.shape, stop - start).offset_planes
    return planes_of(offsets_of(entries.lengths[start:stop]))


def packed_blocks(payloads: Payloads, *, name: str, offset: int) -> Packed:
    """The entries of neighbouring blocks of table ``name``, the first of them at ``offset``: taken
    apart together, for a fourth of what a ``Block`` each would cost. Raises as ``Block`` does."""
    entries = _packed_alike(payloads)
    if entries is None:
        return _packed_blocks(payloads, name=name, offset=offset)
    check_kinds(entries.kinds.tobytes(), name=name, offset=offset)
    return entries


def counts_in(payloads: Payloads) -> Lengths:
    """How many entries each of some blocks has."""
    counts = np.ascontiguousarray(_columns(payloads, 0, _COUNT_SIZE)).view("<u4")
    return counts[:, 0].astype(np.int64)


def _columns(payloads: Payloads, start: int, stop: int) -> Bytes:
    """What all have between two places, a row each."""
    if isinstance(payloads, np.ndarray):
        return payloads[:, start:stop]
    parts = b"".join([payload[start:stop] for payload in payloads])
    return np.frombuffer(parts, np.uint8).reshape(len(payloads), -1)


def _packed_alike(payloads: Payloads) -> Packed | None:
    """The entries of blocks that all look the same: as many of one shape in each. ``None`` unless
    they do."""
    size = len(payloads[0])
    places = places_in(payloads[0])
    if places is None or any(len(payload) != size for payload in payloads):
        return None
    count, _, seq_planes, parts_end, kinds, seqs, offsets = places
    stride = stride_of(bytes(payloads[0][offsets:]), count, parts_end)
    headers = _columns(payloads, 0, HEADER_SIZE)
    if stride is None or (headers != headers[0]).any():
        return None
    blocks = len(payloads)
    table = _columns(payloads, kinds, size)
    if (table[:, offsets - kinds :] != np.frombuffer(stride.offset_planes, np.uint8)).any():
        return None
    numbers = np.zeros((blocks, count, _SEQ_SIZE), np.uint8)
    planes = table[:, seqs - kinds : offsets - kinds].reshape(blocks, seq_planes, count)
    for plane in range(seq_planes):
        numbers[:, :, plane] = planes[:, plane]
    return Packed(
        np.ascontiguousarray(_columns(payloads, HEADER_SIZE, parts_end)).reshape(-1),
        numbers.reshape(-1).view(np.uint64),
        table[:, : seqs - kinds].ravel(),
        shape=stride.shape,
    )


def _packed_blocks(payloads: Payloads, *, name: str, offset: int) -> Packed:
    parts, kinds, found = [], [], []
    shapes: set[Shape | None] = set()
    lengths = []
    for payload in map(bytes, payloads):
        places = places_in(payload)
        offsets = places and offsets_in(payload, places)
        if places is None or offsets is None:
            raise CorruptionError("a block is malformed", name=name, offset=offset)
        parts.append(memoryview(payload)[HEADER_SIZE : places.parts_end])
        kinds.append(payload[places.kinds : places.seqs])
        shapes.add(offsets[1] and offsets[1].shape)
        lengths.append(offsets[0])
        found.append(places)
    shape = shapes.pop() if len(shapes) == 1 else None
    joined = b"".join(kinds)
    check_kinds(joined, name=name, offset=offset)
    return Packed(
        np.frombuffer(b"".join(parts), np.uint8),
        _seqs_in(payloads, found),
        np.frombuffer(joined, np.uint8),
        lengths=None if shape else np.concatenate([_lengths_of(each) for each in lengths]),
        shape=shape,
    )


def _lengths_of(offsets: array[int]) -> Lengths:
    numbers = np.frombuffer(offsets, offsets.typecode).astype(np.int64)
    return (numbers[1:] - numbers[:-1]).reshape(-1, 2)


def _seqs_in(payloads: Payloads, found: Sequence[Places]) -> Seqs:
    """The seqs of all blocks, a plane at a time."""
    numbers = np.zeros((sum(places.entries for places in found), 8), np.uint8)
    for plane in range(max(places.seq_planes for places in found)):
        column = [
            payload[(start := places.seqs + plane * places.entries) : start + places.entries]
            if plane < places.seq_planes
            else bytes(places.entries)
            for payload, places in zip(payloads, found, strict=True)
        ]
        numbers[:, plane] = np.frombuffer(b"".join(column), np.uint8)
    return numbers.view(np.uint64)[:, 0]
