"""One block of a table: columns of entries, found in place or decoded in bulk; ``blocks.py`` has
what is done with many.

Payload, little-endian, ``n`` entries ordered by key ascending and seq descending::

    n               u32
    flags           u8              1: some key has several versions
    seq planes      u8              1 to 8, as many as the largest seq needs
    offset planes   u8              1 to 4, as many as the largest offset needs
    zero            u8
    parts           joined          key 0, value 0, key 1, value 1, …
    fingerprints    u8 x n          top 8 bits of the key's hash, filter.py
    kinds           u8 x n          any but DELETE_RANGE; values: value.py
    seqs            planes x n
    offsets         planes x (2n + 1)   part i is payload[offset i : offset i + 1]

A column in planes holds the lowest byte of every number, then the second byte of every
number, and so on. Neighbours differ little in their high bytes, so zstd stores it in far
less, and expands it faster, than numbers side by side.

All versions of a user key are in one block. A point lookup finds the fingerprint with one
``memchr`` and compares few keys; no other entry is decoded.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seerdb.errors import CorruptionError, UnsupportedFormatError
from seerdb.storage.entry import BLOB, BLOB_WITH_EXPIRY, DELETE, MERGE, PUT, PUT_WITH_EXPIRY
from seerdb.storage.sstable.compressor import Payload
from seerdb.storage.sstable.packed import Lengths, Shape
from seerdb.storage.value import Value, decode_value

FINGERPRINT_SHIFT = 56
"""``h >> FINGERPRINT_SHIFT`` is the fingerprint of a key with hash ``h``."""

SEVERAL_VERSIONS = 1
HEADER = struct.Struct("<IBBBx")
HEADER_SIZE = HEADER.size
MAX_PAYLOAD = (1 << 32) - 1

_PUT = bytes((PUT,))
KINDS = bytes((PUT, DELETE, MERGE, PUT_WITH_EXPIRY, BLOB, BLOB_WITH_EXPIRY))
"""Those that a table holds as entries."""
_SIMPLE = bytes((PUT, DELETE))

_BLOCK_MEMORY = 490
"""Measured: a Block, its columns' headers and its place in the cache."""
_OFFSETS_MEMORY = 160
"""Measured: the array of its offsets, which blocks of one stride share."""


MAX_STRIDE = 4096
"""Most entries of a block for which it is remembered how to take it apart."""


class Columns(NamedTuple):
    """Entries as columns of equal length, ordered by key ascending and seq descending."""

    keys: Sequence[bytes]
    seqs: list[int]
    kinds: bytes
    values: Sequence[bytes]


def planes_for(largest: int) -> int:
    """How many planes numbers up to ``largest`` need."""
    return (largest.bit_length() + 7) // 8


def in_planes(numbers: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """The planes of numbers, a row each; the bytes of a row lie apart."""
    return numbers.view(np.uint8).reshape(len(numbers), -1).T


def planes_of(offsets: NDArray[np.uint32]) -> bytes:
    """As many planes as offsets need, joined."""
    return in_planes(offsets)[: planes_for(int(offsets[-1]))].tobytes()


def offsets_of(lengths: Lengths) -> NDArray[np.uint32]:
    """Where in a payload parts of these lengths begin and end."""
    offsets = np.empty(lengths.size + 1, np.uint32)
    offsets[0] = HEADER_SIZE
    offsets[1:] = lengths.ravel().cumsum()
    offsets[1:] += HEADER_SIZE
    return offsets


def _typecode(planes: int) -> Literal["H", "I", "Q"]:
    """Of the narrowest array that holds numbers of so many bytes."""
    return "H" if planes <= 2 else "I" if planes <= 4 else "Q"


def _from_planes(raw: bytes, count: int) -> array[int]:
    """The numbers, in the narrowest array that holds them."""
    planes = len(raw) // count
    numbers = array(_typecode(planes))
    width = numbers.itemsize
    joined = bytearray(width * count)
    for plane in range(planes):
        joined[plane::width] = raw[plane * count : plane * count + count]
    numbers.frombytes(joined)
    return numbers


class Places(NamedTuple):
    """Where the columns of a payload begin; the offsets end with it."""

    entries: int
    flags: int
    seq_planes: int
    parts_end: int
    kinds: int
    seqs: int
    offsets: int


def places_in(payload: Payload) -> Places | None:
    """Where the columns are; ``None`` when the lengths in the payload do not fit together."""
    size = len(payload)
    if size < HEADER_SIZE:
        return None
    count, flags, seq_planes, offset_planes = HEADER.unpack_from(payload)
    offsets = size - offset_planes * (2 * count + 1)
    seqs = offsets - seq_planes * count
    kinds = seqs - count
    parts_end = kinds - count
    if not (count and 1 <= seq_planes <= 8 and 1 <= offset_planes <= 4 and parts_end > HEADER_SIZE):
        return None
    return Places(count, flags, seq_planes, parts_end, kinds, seqs, offsets)


class Stride(NamedTuple):
    """How a block looks whose keys are all of one length and whose values are, too: one call
    takes it apart, in half the time."""

    shape: Shape
    offsets: array[int]
    offset_planes: bytes
    parts: struct.Struct


def stride_of(offset_planes: bytes, count: int, parts_end: int) -> Stride | None:
    """How a block with these columns looks; ``None`` unless all entries are of one shape."""
    width = 2 * count + 1
    first_end = int.from_bytes(offset_planes[1::width], "little")
    row_size, rest = divmod(parts_end - HEADER_SIZE, count)
    key_size = first_end - HEADER_SIZE
    if rest or not 0 < key_size <= row_size or count > MAX_STRIDE:
        return None
    stride = stride_for(key_size, row_size - key_size, count)
    return stride if offset_planes == stride.offset_planes else None


@lru_cache(maxsize=64)
def stride_for(key_size: int, value_size: int, count: int) -> Stride:
    """How a block of so many entries of one shape looks. Requires: at most ``MAX_STRIDE``."""
    shape = key_size, value_size
    offsets = offsets_of(np.broadcast_to(np.array(shape), (count, 2)))
    return Stride(
        shape,
        array(_typecode(planes_for(int(offsets[-1]))), offsets.tolist()),
        planes_of(offsets),
        struct.Struct(f"{key_size}s{value_size}s" * count),
    )


class _Unpacked(NamedTuple):
    """A payload taken apart; part ``i`` is ``parts[offsets[i] : offsets[i + 1]]``."""

    parts: bytes
    offsets: array[int]
    stride: Stride | None
    fingerprints: bytes
    kinds: bytes
    seqs: array[int]
    flags: int


def _unpack(payload: bytes) -> _Unpacked | None:
    """``None`` when the lengths in the payload do not fit together."""
    places = places_in(payload)
    if places is None:
        return None
    count, flags, _, parts_end, kinds, seqs, _ = places
    found = offsets_in(payload, places)
    if found is None:
        return None
    offsets, stride = found
    return _Unpacked(
        payload[:parts_end],
        offsets,
        stride,
        payload[parts_end:kinds],
        payload[kinds:seqs],
        _from_planes(payload[seqs : places.offsets], count),
        flags,
    )


def offsets_in(payload: bytes, places: Places) -> tuple[array[int], Stride | None] | None:
    """The offsets, and how the block looks if all entries are of one shape; ``None`` when they do
    not ascend over the parts."""
    planes, count = payload[places.offsets :], places.entries
    stride = stride_of(planes, count, places.parts_end)
    offsets = stride.offsets if stride else _from_planes(planes, 2 * count + 1)
    if offsets[0] != HEADER_SIZE or offsets[-1] != places.parts_end:
        return None
    return (offsets, stride) if stride or _ascend(offsets) else None


def _ascend(offsets: array[int]) -> bool:
    numbers = np.frombuffer(offsets, offsets.typecode)
    return bool((numbers[1:] >= numbers[:-1]).all())


def check_kinds(kinds: bytes, *, name: str, offset: int) -> None:
    """Raise ``UnsupportedFormatError`` for a kind that a block holds no entries of."""
    unknown = kinds.translate(None, KINDS)
    if unknown:
        raise UnsupportedFormatError(
            "an entry of unknown kind",
            name=name,
            offset=offset,
            expected=tuple(KINDS),
            found=unknown[0],
            hint="a newer release wrote it: upgrade",
        )


class Block:
    """A decoded block. Immutable but for ``visited``, so thread-safe.

    ``visited`` is set by whoever finds the block in its slot, and cleared by the cache.
    ``memory`` is what the block costs, in bytes. ``several_versions`` says that some key
    occurs more than once.
    """

    __slots__ = (
        "_fingerprints",
        "_kinds",
        "_offsets",
        "_parts",
        "_place",
        "_seqs",
        "_stride",
        "memory",
        "several_versions",
        "visited",
    )

    def __init__(self, payload: bytes, *, name: str, offset: int) -> None:
        """``payload`` is that of table ``name``'s block at ``offset``.

        Raises ``CorruptionError`` when it is no block, ``UnsupportedFormatError`` when it has
        entries of a kind that this release does not know.
        """
        unpacked = _unpack(payload)
        if unpacked is None:
            raise CorruptionError("a block is malformed", name=name, offset=offset)
        (
            self._parts,
            self._offsets,
            self._stride,
            self._fingerprints,
            kinds,
            self._seqs,
            flags,
        ) = unpacked
        # In most blocks all are puts; then there is nothing to look up and nothing to keep.
        self._kinds = b"" if kinds.count(PUT) == len(kinds) else kinds
        check_kinds(self._kinds, name=name, offset=offset)
        self._place = (name, offset) if self._kinds.translate(None, _SIMPLE) else None
        self.several_versions = bool(flags & SEVERAL_VERSIONS)
        count = len(kinds)
        self.memory = (
            _BLOCK_MEMORY + len(self._parts) + len(self._kinds) + count * (1 + self._seqs.itemsize)
        )
        if self._stride is None:
            self.memory += _OFFSETS_MEMORY + 2 * count * self._offsets.itemsize
        self.visited = False

    @property
    def first_key(self) -> bytes:
        """The smallest key in the block."""
        return self._parts[HEADER_SIZE : self._offsets[1]]

    @property
    def last_key(self) -> bytes:
        """The largest key in the block."""
        return self._parts[self._offsets[-3] : self._offsets[-2]]

    def assign_seq(self, seq: int) -> None:
        """Give every entry this seq, whatever was stored. Before anybody else has the block."""
        planes = planes_for(seq)
        self.memory -= len(self._seqs) * self._seqs.itemsize
        self._seqs = array(_typecode(planes), [seq]) * len(self._seqs)
        self.memory += len(self._seqs) * self._seqs.itemsize

    def find(self, key: bytes, fingerprint: int, seq_limit: int) -> tuple[int, Value] | None:
        """Seq and value of the newest version of ``key`` with a seq up to ``seq_limit``; the
        value is ``None`` where that is a delete.

        Requires: ``fingerprint`` is that of ``key``.
        """
        fingerprints = self._fingerprints
        offsets = self._offsets
        parts = self._parts
        i = fingerprints.find(fingerprint)
        while i >= 0:
            key_end = offsets[i + i + 1]
            if parts[offsets[i + i] : key_end] == key:
                seq = self._seqs[i]
                if seq <= seq_limit:
                    if self._kinds and self._kinds[i] != PUT:
                        return seq, self._value(i)
                    return seq, parts[key_end : offsets[i + i + 2]]
            i = fingerprints.find(fingerprint, i + 1)
        return None

    def _value(self, i: int) -> Value:
        offsets = self._offsets
        return self.decode(self._kinds[i], self._parts[offsets[i + i + 1] : offsets[i + i + 2]])

    @property
    def special(self) -> bool:
        """Whether some entry is neither a put nor a delete."""
        return self._place is not None

    def decode(self, kind: int, stored: bytes) -> Value:
        """The value of an entry with these in its columns. Raises ``CorruptionError``."""
        try:
            return decode_value(kind, stored)
        except CorruptionError as error:
            name, offset = self._place or ("", None)
            raise CorruptionError(error.reason, name=name, offset=offset) from error

    def columns(self) -> Columns:
        """All entries, decoded in bulk; not kept, because that would treble the memory."""
        keys_and_values = self._split()
        kinds = self._kinds or _PUT * len(self._seqs)
        return Columns(keys_and_values[0::2], self._seqs.tolist(), kinds, keys_and_values[1::2])

    def _split(self) -> Sequence[bytes]:
        """Key 0, value 0, key 1, value 1, …"""
        stride = self._stride
        if stride is not None:
            return stride.parts.unpack_from(self._parts, HEADER_SIZE)
        parts, offsets = self._parts, self._offsets
        return [parts[start:end] for start, end in pairwise(offsets.tolist())]
