"""The operations in a segment as columns, for digests: found by a few calls over many of them, and
not checked, for whoever asks compares them with something else.

Most frames hold one record of one operation. Where those are of one size, they are rows of a
matrix. A frame of many records is walked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, TypeAlias

import numpy as np
import zstandard
from numpy.typing import NDArray

from seerdb.errors import CorruptionError
from seerdb.storage.digest import Bytes, Numbers, Places, hash_pieces, hash_rows
from seerdb.storage.wal.format import (
    BATCH,
    FRAME_HEADER_SIZE,
    HEADER_SIZE,
    MAX_COMPRESSED_BODY,
    RECORD_FIELDS,
    RECORD_HEADER_SIZE,
    SINGLE_SIZE,
    SegmentHeader,
    decode_columns,
    decode_header,
)
from seerdb.storage.wal.starts import Flags, end_of_frame, gather, salt_of, whole_frames

ReadAt = Callable[[int, int], bytes]
"""Up to so many bytes (second) from an offset (first) on."""

Batch: TypeAlias = tuple[int, bytes]
"""The seq of a commit, and the payload of its record."""
Shape: TypeAlias = tuple[int, int]
"""The length of every key, and that of every value."""

READ_BYTES = 4 << 20
"""How much is looked at together, unless a single frame is larger."""

_LENGTH = struct.Struct("<4xI")
_HEADS = RECORD_HEADER_SIZE + SINGLE_SIZE
_FIELDS = {
    "length": ("<u4", 4),
    "type": ("u1", 8),
    "seq": ("<u8", 9),
    "count": ("<u4", 25),
    "kind": ("u1", 29),
    "key": ("<u2", 30),
    "value": ("<u4", 32),
}
"""Of a record of one operation, up to the key: those of the record, and of its payload."""


def _heads_after(size: int, more: dict[str, tuple[str, int]]) -> np.dtype[np.void]:
    fields = more | {name: (form, size + at) for name, (form, at) in _FIELDS.items()}
    return np.dtype(
        {
            "names": list(fields),
            "formats": [form for form, _ in fields.values()],
            "offsets": [at for _, at in fields.values()],
            "itemsize": size + _HEADS,
        }
    )


_RECORD = _heads_after(0, {})
_FRAME = _heads_after(FRAME_HEADER_SIZE, {"stored": ("<u4", 4), "raw": ("<u4", 8)})
_FEW = 32
"""Operations in a batch up to which they are taken out one by one."""


class Operations(NamedTuple):
    """Some operations, in no order. Each is ``sizes`` bytes of ``data`` from ``starts`` on, a key
    of ``key_sizes`` and the value; or all are rows of one matrix."""

    kinds: Bytes
    seqs: Numbers
    data: Bytes
    starts: Places
    sizes: Places
    key_sizes: Places
    rows: Bytes | None = None

    def hashes(self) -> Numbers:
        """``z`` of each; see ``digest.py``."""
        if self.rows is not None:
            return hash_rows(self.rows, int(self.key_sizes[0]), self.kinds)
        return hash_pieces(self.data, self.starts, self.sizes, self.key_sizes, self.kinds)

    def key_hashes(self) -> Numbers:
        """A hash of the key of each."""
        sizes, kinds = self.key_sizes, np.zeros(len(self.kinds), np.uint8)
        if self.rows is not None:
            size = int(sizes[0])
            return hash_rows(self.rows[:, :size], size, kinds)
        return hash_pieces(self.data, self.starts, sizes, sizes, kinds)

    def chosen(self, flags: Flags) -> Operations:
        """Some of them."""
        if flags.all():
            return self
        return Operations(
            self.kinds[flags],
            self.seqs[flags],
            self.data,
            self.starts[flags],
            self.sizes[flags],
            self.key_sizes[flags],
            None if self.rows is None else self.rows[flags],
        )

    def listed(self) -> list[tuple[bytes, bytes, int]]:
        """Key, value and seq of each."""
        view, found = self.data.data, []
        places = zip(self.starts, self.key_sizes, self.sizes, self.seqs, strict=True)
        for start, key_size, size, seq in (map(int, place) for place in places):
            key = bytes(view[start : start + key_size])
            found.append((key, bytes(view[start + key_size : start + size]), seq))
        return found


def operations_in(read_at: ReadAt, name: str) -> Iterator[Operations]:
    """All operations of a segment, or of as much of one as there is.

    Raises: ``CorruptionError`` where that is no segment, or its frames do not hold together.
    """
    header = decode_header(read_at(0, HEADER_SIZE), name)
    yield from operations_from(read_at, HEADER_SIZE, header, name)


def operations_from(
    read_at: ReadAt, at: int, header: SegmentHeader, name: str
) -> Iterator[Operations]:
    """All operations in the frames from the offset ``at`` on, which are of the segment of
    ``header``. Raises: as :func:`operations_in`."""
    length = READ_BYTES
    try:
        while data := read_at(at, length):
            starts, end = whole_frames(data, header)
            if end:
                at, length = at + end, READ_BYTES
                if starts[-1] + _FRAME.itemsize > len(data):
                    data += bytes(_FRAME.itemsize)
                yield from _operations(np.frombuffer(data, np.uint8), starts)
            elif len(data) == length and data.startswith(salt_of(header)):
                length = end_of_frame(data, 0, header)  # a frame that is larger
            else:
                return
    except (IndexError, ValueError, struct.error, zstandard.ZstdError) as error:
        raise CorruptionError("frames do not hold together", name=name, offset=at) from error


def _operations(data: Bytes, starts: Places) -> Iterator[Operations]:
    heads = gather(data, starts, _FRAME)
    is_single = (heads["raw"] == 0) & (heads["type"] == BATCH) & (heads["count"] == 1)
    is_single &= heads["length"] + np.uint32(RECORD_HEADER_SIZE) == heads["stored"]
    if is_single.all():
        yield _singles(data, starts + _FRAME.itemsize, heads)
        return
    if is_single.any():
        yield _singles(data, starts[is_single] + _FRAME.itemsize, heads[is_single])
    others = heads[~is_single]
    frames = zip(starts[~is_single].tolist(), others["stored"].tolist(), strict=True)
    bodies, size = [], 0
    for (start, stored), raw in zip(frames, others["raw"].tolist(), strict=True):
        begin = start + FRAME_HEADER_SIZE
        body = data[begin : begin + stored].tobytes()
        bodies.append(_decompressed(body, raw) if raw else body)
        size += len(bodies[-1])
        if size >= READ_BYTES:
            yield from _in_body(b"".join(bodies))
            bodies, size = [], 0
    yield from _in_body(b"".join(bodies))


def _decompressed(body: bytes, size: int) -> bytes:
    return zstandard.ZstdDecompressor().decompress(
        body, max_output_size=min(size, MAX_COMPRESSED_BODY)
    )


def _singles(data: Bytes, starts: Places, heads: NDArray[np.void]) -> Operations:
    """Operations that have a record each; ``starts`` are those of the keys."""
    key_sizes = heads["key"].astype(np.int64)
    sizes = key_sizes + heads["value"]
    if int((starts + sizes).max()) > len(data):
        raise IndexError("a record is cut short")
    return Operations(
        kinds=np.ascontiguousarray(heads["kind"]),
        seqs=heads["seq"].astype(np.uint64),
        data=data,
        starts=starts,
        sizes=sizes,
        key_sizes=key_sizes,
        rows=_as_rows(data, starts, sizes, key_sizes),
    )


def _as_rows(data: Bytes, starts: Places, sizes: Places, key_sizes: Places) -> Bytes | None:
    """The operations as a matrix, if they are of one shape and at one distance."""
    size = int(sizes[0])
    if (sizes != size).any() or (key_sizes != key_sizes[0]).any():
        return None
    apart = int(starts[1] - starts[0]) if len(starts) > 1 else size
    if (starts[1:] - starts[:-1] != apart).any():
        return None
    return np.ndarray((len(starts), size), np.uint8, data.data, int(starts[0]), (apart, 1))


def _in_body(body: bytes) -> Iterator[Operations]:
    """The operations of the records of a frame, or of many: of any number, of batches."""
    at, records = 0, []
    while at < len(body):
        records.append(at)
        at += RECORD_HEADER_SIZE + _LENGTH.unpack_from(body, at)[0]
    if at > len(body):
        raise IndexError("a record is cut short")
    if not records:
        return
    data = np.frombuffer(body + bytes(_RECORD.itemsize), np.uint8)
    places = np.array(records, np.int64)
    heads = gather(data, places, _RECORD)
    is_batch = heads["type"] == BATCH
    is_single = is_batch & (heads["count"] == 1)
    if is_single.any():
        yield _singles(data, places[is_single] + _RECORD.itemsize, heads[is_single])
    columns = Columns([], [], [], [])
    for shape, batches in by_shape(_payloads(body, places[is_batch & ~is_single].tolist())):
        if shape:
            yield even_batches(batches, shape)
            continue
        for seq, payload in batches:
            columns.add(seq, *decode_columns(payload))
    if columns.keys:
        yield columns.packed()


def _payloads(body: bytes, starts: list[int]) -> Iterator[Batch]:
    for start in starts:
        _, length, _, seq, _ = RECORD_FIELDS.unpack_from(body, start)
        begin = start + RECORD_HEADER_SIZE
        yield seq, body[begin : begin + length]


def by_shape(batches: Iterable[Batch]) -> Iterator[tuple[Shape | None, list[Batch]]]:
    """Neighbouring batches together, if they are large, and all their keys are of one length and
    their values of one; with ``None``, those that are not."""
    for shape, found in groupby(batches, lambda batch: _shape_of(batch[1])):
        yield shape, list(found)


def _shape_of(payload: bytes) -> Shape | None:
    count = int.from_bytes(payload[:4], "little")
    keys_at = 4 + 7 * count
    if count <= _FEW or len(payload) < keys_at:
        return None
    key_sizes = np.frombuffer(payload, "<u2", count, 4 + count)
    value_sizes = np.frombuffer(payload, "<u4", count, 4 + 3 * count)
    key, value = int(key_sizes[0]), int(value_sizes[0])
    if not key or (key_sizes != key).any() or (value_sizes != value).any():
        return None
    return (key, value) if len(payload) == keys_at + count * (key + value) else None


def even_batches(batches: Sequence[Batch], shape: Shape) -> Operations:
    """The operations of some batches of one ``shape``, in order, as rows; see :func:`by_shape`."""
    key, value = shape
    size = key + value
    counts = [count_of(batch) for batch in batches]
    total = sum(counts)
    rows, kinds, begin = np.empty((total, size), np.uint8), [], 0
    for count, alike in groupby(batches, count_of):  # most often all of them
        payloads = _together([payload for _, payload in alike])
        end = begin + len(payloads) * count
        few = rows[begin:end].reshape(len(payloads), count, size)
        kinds_at, keys_at = 4, 4 + 7 * count
        values_at = keys_at + count * key
        _fill(few[:, :, :key], payloads[:, keys_at:values_at])
        _fill(few[:, :, key:], payloads[:, values_at:])
        kinds.append(payloads[:, kinds_at : kinds_at + count].ravel())
        begin = end
    return Operations(
        np.concatenate(kinds),
        np.repeat(np.array([seq for seq, _ in batches], np.uint64), counts),
        rows.ravel(),
        np.arange(total) * size,
        np.full(total, size),
        np.full(total, key),
        rows,
    )


def count_of(batch: Batch) -> int:
    """How many operations it says it has."""
    return int.from_bytes(batch[1][:4], "little")


def _together(payloads: Sequence[bytes]) -> Bytes:
    """Payloads of one length, a row each."""
    return np.frombuffer(b"".join(payloads), np.uint8).reshape(len(payloads), -1)


def _fill(rows: Bytes, source: Bytes) -> None:
    """Parts of rows from those of each batch: as one item each, which numpy copies faster than
    bytes. One call for many batches: after each another thread may have the interpreter."""
    *outer, size = rows.shape
    if size:
        rows.view(f"V{size}")[..., 0] = source.reshape(*outer, size).view(f"V{size}")[..., 0]


class Columns(NamedTuple):
    """Operations one by one, to be packed: the values as logged, that of a delete empty."""

    kinds: list[bytes]
    seqs: list[int]
    keys: list[bytes]
    values: list[bytes]

    def add(self, seq: int, kinds: bytes, keys: list[bytes], values: list[bytes]) -> None:
        """The operations of a commit."""
        self.kinds.append(kinds)
        self.seqs.extend([seq] * len(keys))
        self.keys.extend(keys)
        self.values.extend(values)

    def packed(self) -> Operations:
        """All of them. Requires: at least one."""
        parts = [b""] * (2 * len(self.keys))
        parts[0::2], parts[1::2] = self.keys, self.values
        lengths = np.fromiter(map(len, parts), np.int64, len(parts)).reshape(-1, 2)
        sizes = lengths.sum(axis=1)
        return Operations(
            kinds=np.frombuffer(b"".join(self.kinds), np.uint8),
            seqs=np.array(self.seqs, np.uint64),
            data=np.frombuffer(b"".join(parts), np.uint8),
            starts=sizes.cumsum() - sizes,
            sizes=sizes,
            key_sizes=lengths[:, 0],
        )
