"""One block of a table: columns of entries, found in place or decoded in bulk.

Payload, little-endian, ``n`` entries ordered by key ascending and seq descending::

    n               u32
    flags           u8              1: some key has several versions
    seq planes      u8              1 to 8, as many as the largest seq needs
    offset planes   u8              1 to 4, as many as the largest offset needs
    zero            u8
    parts           joined          key 0, value 0, key 1, value 1, …
    fingerprints    u8 x n          top 8 bits of the key's hash, filter.py
    kinds           u8 x n          PUT or DELETE
    seqs            planes x n
    offsets         planes x (2n + 1)   part i is payload[offset i : offset i + 1]

A column in planes holds the lowest byte of every number, then the second byte of every
number, and so on. Neighbours differ little in their high bytes, so zstd stores it in far
less, and expands it faster, than numbers side by side.

All versions of a user key are in one block. A point lookup finds the fingerprint with one
``memchr`` and compares few keys; no other entry is decoded. A block that is asked often
becomes a dict when its owner, the block cache, has room for that.
"""

from __future__ import annotations

import struct
from array import array
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

from seerdb.errors import CorruptionError, InternalError

PROMOTE_SHARE = 4
"""A block becomes a dict after finds for one in so many of its entries."""

FINGERPRINT_SHIFT = 56
"""``h >> FINGERPRINT_SHIFT`` is the fingerprint of a key with hash ``h``."""

_SEVERAL_VERSIONS = 1
_HEADER = struct.Struct("<IBBBx")
HEADER_SIZE = _HEADER.size
_MAX_PAYLOAD = (1 << 32) - 1
_WIDTHS: dict[Literal["I", "Q"], int] = {"I": 4, "Q": 8}

_BLOCK_MEMORY = 1200
"""Measured: a Block, its columns' headers and its place in the cache."""
_POINT_MEMORY = 220
"""Measured: an entry of a block that became a dict, beside the bytes of key and value."""


class Columns(NamedTuple):
    """Entries as columns of equal length, ordered by key ascending and seq descending."""

    keys: list[bytes]
    seqs: list[int]
    kinds: bytes
    values: list[bytes]


class Owner(Protocol):
    """Who answers for the memory of a block: the block cache."""

    def charge(self, block: Block, memory: int) -> bool:
        """Let ``block`` cost ``memory`` bytes from now on; ``False`` when there is no room."""


def encode_block(
    parts: list[bytes],
    offsets: list[int],
    seqs: list[int],
    kinds: bytes,
    hashes: array[int],
    *,
    several_versions: bool,
) -> bytes:
    """The payload of a block.

    ``parts`` are key 0, value 0, key 1 …; ``offsets`` where each starts and the last ends,
    from ``HEADER_SIZE`` on; ``hashes`` (typecode Q) are those of the keys. Requires: at least
    one entry, in order. Raises ``InternalError`` when the block exceeds 4 GiB.
    """
    count = len(seqs)
    seq_planes, offset_planes = _planes_for(max(seqs)), _planes_for(offsets[-1])
    columns_size = count * (2 + seq_planes) + (2 * count + 1) * offset_planes
    if offsets[-1] + columns_size > _MAX_PAYLOAD:
        raise InternalError(f"versions of key {parts[0]!r} exceed 4 GiB: release snapshots")
    return b"".join(
        (
            _HEADER.pack(count, _SEVERAL_VERSIONS * several_versions, seq_planes, offset_planes),
            *parts,
            hashes.tobytes()[FINGERPRINT_SHIFT // 8 :: 8],
            kinds,
            _to_planes(array("Q", seqs), seq_planes),
            _to_planes(array("I", offsets), offset_planes),
        )
    )


def _planes_for(largest: int) -> int:
    return (largest.bit_length() + 7) // 8


def _to_planes(numbers: array[int], planes: int) -> bytes:
    raw, width = numbers.tobytes(), numbers.itemsize
    return b"".join([raw[plane::width] for plane in range(planes)])


def _from_planes(planes: bytes, count: int, typecode: Literal["I", "Q"]) -> memoryview[int]:
    width = _WIDTHS[typecode]
    raw = bytearray(width * count)
    for plane in range(len(planes) // count):
        raw[plane::width] = planes[plane * count : plane * count + count]
    return memoryview(raw).cast(typecode)


class _Packed(NamedTuple):
    """A payload and its columns; part ``i`` is ``payload[offsets[i] : offsets[i + 1]]``."""

    payload: bytes
    offsets: memoryview[int]
    fingerprints: bytes
    kinds: bytes
    seqs: memoryview[int]

    def columns(self) -> Columns:
        """All entries."""
        payload = self.payload
        parts = [payload[start:end] for start, end in pairwise(self.offsets.tolist())]
        return Columns(parts[0::2], self.seqs.tolist(), self.kinds, parts[1::2])


def _unpack(payload: bytes) -> tuple[_Packed, int] | None:
    """The columns and flags of a payload; ``None`` when its lengths do not fit together."""
    size = len(payload)
    if size < HEADER_SIZE:
        return None
    count, flags, seq_planes, offset_planes = _HEADER.unpack_from(payload)
    offsets_start = size - offset_planes * (2 * count + 1)
    seqs_start = offsets_start - seq_planes * count
    kinds_start = seqs_start - count
    parts_end = kinds_start - count
    if not (count and 1 <= seq_planes <= 8 and 1 <= offset_planes <= 4 and parts_end > HEADER_SIZE):
        return None
    offsets = _from_planes(payload[offsets_start:], 2 * count + 1, "I")
    if offsets[0] != HEADER_SIZE or offsets[-1] != parts_end:
        return None
    packed = _Packed(
        payload,
        offsets,
        payload[parts_end:kinds_start],
        payload[kinds_start:seqs_start],
        _from_planes(payload[seqs_start:offsets_start], count, "Q"),
    )
    return packed, flags


class Block:
    """A decoded block. Thread-safe: a reader sees it packed or as a dict, whole either way.

    ``visited`` is set by whoever finds the block in its slot, and cleared by the cache.
    ``memory`` is what the block costs now, in bytes. ``owner`` is the cache that took it in.
    ``several_versions`` says that some key occurs more than once.
    """

    __slots__ = ("_finds", "_packed", "_points", "memory", "owner", "several_versions", "visited")

    def __init__(self, payload: bytes, *, name: str, offset: int) -> None:
        """``payload`` is that of table ``name``'s block at ``offset``.

        Raises ``CorruptionError`` when it is no block.
        """
        unpacked = _unpack(payload)
        if unpacked is None:
            raise CorruptionError("a block is malformed", name=name, offset=offset)
        packed, flags = unpacked
        self._packed: _Packed | None = packed
        self._points: dict[bytes, tuple[int, int, bytes]] | None = None
        self._finds = 0
        self.several_versions = bool(flags & _SEVERAL_VERSIONS)
        columns_size = 2 * len(packed.kinds) + packed.seqs.nbytes + packed.offsets.nbytes
        self.memory = _BLOCK_MEMORY + len(payload) + columns_size
        self.owner: Owner | None = None
        self.visited = False

    @property
    def first_key(self) -> bytes:
        """The smallest key in the block."""
        packed = self._packed
        if packed is None:
            return next(iter(self._points or ()))
        return packed.payload[HEADER_SIZE : packed.offsets[1]]

    def find(self, key: bytes, fingerprint: int, seq_limit: int) -> tuple[int, int, bytes] | None:
        """Seq, kind and value of the newest version of ``key`` with a seq up to ``seq_limit``.

        Requires: ``fingerprint`` is that of ``key``.
        """
        points = self._points
        if points is not None:
            found = points.get(key)
            return found if found is not None and found[0] <= seq_limit else None
        packed = self._packed
        if packed is None:
            return self.find(key, fingerprint, seq_limit)
        payload, offsets, fingerprints, kinds, seqs = packed
        self._finds += 1
        if self._finds * PROMOTE_SHARE > len(kinds):
            self._promote(packed)
        i = fingerprints.find(fingerprint)
        while i >= 0:
            key_end = offsets[i + i + 1]
            if payload[offsets[i + i] : key_end] == key and seqs[i] <= seq_limit:
                return seqs[i], kinds[i], payload[key_end : offsets[i + i + 2]]
            i = fingerprints.find(fingerprint, i + 1)
        return None

    def columns(self) -> Columns:
        """All entries, decoded in bulk; not kept, because that would treble the memory."""
        packed = self._packed
        if packed is not None:
            return packed.columns()
        points = self._points or {}
        seqs, kinds, values = zip(*points.values(), strict=True)
        return Columns(list(points), list(seqs), bytes(kinds), list(values))

    def _promote(self, packed: _Packed) -> None:
        """Become a dict, if the owner pays for it: finding is then several times as fast.

        Tried when one in ``PROMOTE_SHARE`` entries has been asked for: by then decoding pays.
        """
        self._finds = 0
        data_size = packed.offsets[-1]
        memory = _BLOCK_MEMORY + data_size + len(packed.kinds) * _POINT_MEMORY
        owner = self.owner
        if self.several_versions or owner is None or not owner.charge(self, memory):
            return
        keys, seqs, kinds, values = packed.columns()
        self._points = dict(zip(keys, zip(seqs, kinds, values, strict=True), strict=True))
        self._packed = None
        self.memory = memory
