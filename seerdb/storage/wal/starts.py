"""Where frames start: found by few calls over many of them, and not checked.

Mostly neighbouring frames are of one size, which shows at once; else their salt tells where they
are. Frames among which somebody has written their salt are walked.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from seerdb.storage.wal.format import FRAME_HEADER_SIZE, SegmentHeader, aligned

Bytes: TypeAlias = NDArray[np.uint8]
Flags: TypeAlias = NDArray[np.bool_]
Places: TypeAlias = NDArray[np.int64]

_STORED = struct.Struct("<4xI")


def windows(data: Bytes, size: int) -> NDArray[np.void]:
    """The ``size`` bytes from each place of ``data`` on that has so many: the same memory."""
    return np.ndarray((max(len(data) - size + 1, 0),), f"V{size}", data.data, strides=(1,))


def gather(data: Bytes, starts: Places, form: np.dtype[np.void]) -> NDArray[np.void]:
    """The fields of ``form`` from each of ``starts`` on. Raises ``IndexError`` beyond the end."""
    return windows(data, form.itemsize)[starts].view(form)


def salt_of(header: SegmentHeader) -> bytes:
    """What each frame of the segment begins with."""
    return header.salt.to_bytes(4, "little")


def end_of_frame(data: bytes, start: int, header: SegmentHeader) -> int:
    """Where the frame at ``start`` ends, padding and all."""
    stored: int = _STORED.unpack_from(data, start)[0]
    return aligned(start + FRAME_HEADER_SIZE + stored, header.alignment)


def whole_frames(data: bytes, header: SegmentHeader) -> tuple[Places, int]:
    """Where the whole frames at the beginning of ``data`` start, and where the last one ends."""
    salt = salt_of(header)
    if not data.startswith(salt) or len(data) < FRAME_HEADER_SIZE:
        return np.empty(0, np.int64), 0
    size = end_of_frame(data, 0, header)
    same = _of_one_size(data, size)
    starts = size * np.arange(same)
    rest = size * same
    if data.startswith(salt, rest):
        found = _by_salt(data, rest, header)
        starts = np.concatenate((starts, _walked(data, rest, header) if found is None else found))
        if end_of_frame(data, int(starts[-1]), header) > len(data):
            starts = starts[:-1]
    return starts, end_of_frame(data, int(starts[-1]), header) if len(starts) else 0


def _of_one_size(data: bytes, size: int) -> int:
    """How many whole frames at the beginning are as large as the first, ``size``."""
    begins = np.ndarray((len(data) // size,), "<u8", data, strides=(size,))
    differs: Flags = begins != int.from_bytes(data[:8], "little")
    return int(differs.argmax()) if differs.any() else len(begins)


def _by_salt(data: bytes, start: int, header: SegmentHeader) -> Places | None:
    """Where the salt is from ``start`` on; ``None`` if frames do not begin everywhere there. The
    last frame may not be whole."""
    found = (np.frombuffer(data, np.uint8)[start : len(data) - 7] == header.salt & 255).nonzero()[0]
    begins = np.ndarray((len(data) - 7,), "V8", data, strides=(1,))[found + start].view("<u4")
    is_frame: Flags = begins[::2] == header.salt
    starts: Places = found[is_frame] + start
    ends = starts + FRAME_HEADER_SIZE + begins[1::2][is_frame]
    ends = -(-ends // header.alignment) * header.alignment
    return starts if len(starts) and (ends[:-1] == starts[1:]).all() else None


def _walked(data: bytes, start: int, header: SegmentHeader) -> Places:
    starts, salt = [], salt_of(header)
    while data.startswith(salt, start) and start + FRAME_HEADER_SIZE <= len(data):
        starts.append(start)
        start = end_of_frame(data, start, header)
    return np.array(starts, np.int64)
