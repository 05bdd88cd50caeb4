"""How hard the parts of a table are compressed.

zstd's level 1 entropy-codes what its negative levels leave as it is. Where that saves much, as with
text, it is worth it; where values are half noise it saves a few percent, and takes twice as long,
then and whenever the block is read. So a table tries both now and then, and
goes on with what paid.

The fast way passes over what repeats fewer than seven bytes. Without entropy coding that saves
little, and each such match takes its time, then and whenever the block is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import zstandard

from seerdb.storage.sstable.order import Bytes

Payload = bytes | memoryview
Payloads = Sequence[Payload] | Bytes
"""Of several parts of a table; those that lie apart by one distance may be the rows of an array."""

_FAST = zstandard.ZstdCompressionParameters(
    compression_level=-3, min_match=7, hash_log=13, write_content_size=False
)
_THOROUGH = 1
_WORTH_IT = 16
"""The thorough level is used when it saves at least one byte in so many."""
_TRY_EVERY = 1023
"""Parts that follow a comparison before the next one."""


class Compressor:
    """Compresses the parts of one table, in order. For one thread."""

    def __init__(self) -> None:
        self._fast = zstandard.ZstdCompressor(compression_params=_FAST)
        self._thorough = zstandard.ZstdCompressor(level=_THOROUGH, write_content_size=False)
        self._chosen = self._fast
        self._until_next_try = 0

    def compress(self, payload: Payload) -> bytes:
        """One zstd frame without its content size."""
        if not self._until_next_try:
            return self._try(payload)
        self._until_next_try -= 1
        return self._chosen.compress(payload)

    def compress_all(self, payloads: Sequence[Payload]) -> list[Payload]:
        """A frame for each payload, as by :meth:`compress`. Requires: none is empty.

        Many by one call, and faster: after each call another thread may take the interpreter.
        """
        frames: list[Payload] = []
        while left := payloads[len(frames) :]:
            if not self._until_next_try:
                frames.append(self._try(left[0]))
            else:
                made = self._chosen.multi_compress_to_buffer(list(left[: self._until_next_try]))
                frames += views(made)
                self._until_next_try -= len(made)
        return frames

    def _try(self, payload: Payload) -> bytes:
        self._until_next_try = _TRY_EVERY
        fast, thorough = self._fast.compress(payload), self._thorough.compress(payload)
        if len(thorough) <= len(fast) - len(fast) // _WORTH_IT:
            self._chosen = self._thorough
            return thorough
        self._chosen = self._fast
        return fast


def views(made: zstandard.BufferWithSegmentsCollection) -> list[memoryview]:
    """What one call has made of each of many, without a copy."""
    return [memoryview(made[number]) for number in range(len(made))]  # type: ignore[arg-type]
