"""Putting values in the place of their pointers, a bounded number of bytes at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from seerdb.ids import BlobId
from seerdb.storage.blob.reader import BlobReader
from seerdb.storage.merge import Chunk
from seerdb.storage.pointer import BlobPointer
from seerdb.storage.value import Expiring, Merge, Value, pointer_in, with_bytes

FIRST_BYTES = 256 << 10
"""A scan fetches about so much at first, as it may be a short one, then twice as much each time."""

MOST_BYTES = 8 << 20
"""Values in memory at a time, unless a single one is larger."""

Wants = Callable[[Value], BlobPointer | None]
"""The pointer in a value that is to become bytes, if any."""


class Resolver:
    """Resolves the pointers of many chunks, one after another. For one thread."""

    def __init__(self, blobs: BlobReader, wants: Wants, *, at_first: int = MOST_BYTES) -> None:
        self._blobs = blobs
        self._wants = wants
        self._allowed = at_first

    def pieces(self, chunk: Chunk, *, reverse: bool = False) -> Iterator[Chunk]:
        """``chunk`` with the wanted values, in pieces that come from its end if ``reverse``."""
        wanted = [self._wants(value) for value in chunk.values]
        if not any(wanted):
            yield chunk
            return
        count = len(wanted)
        for start, stop in self._spans(wanted[::-1] if reverse else wanted):
            span = slice(count - stop, count - start) if reverse else slice(start, stop)
            yield self._resolved(Chunk(*(column[span] for column in chunk)), wanted[span])  # type: ignore[arg-type]

    def _spans(self, wanted: Sequence[BlobPointer | None]) -> Iterator[tuple[int, int]]:
        start = gathered = 0
        for at, pointer in enumerate(wanted):
            length = pointer.length if pointer else 0
            if gathered and gathered + length > self._allowed:
                yield start, at
                start, gathered = at, 0
                self._allowed = min(2 * self._allowed, MOST_BYTES)
            gathered += length
        yield start, len(wanted)

    def _resolved(self, chunk: Chunk, wanted: Sequence[BlobPointer | None]) -> Chunk:
        fetched = self._blobs.get_many(filter(None, wanted))
        values = [
            value if pointer is None else with_bytes(value, fetched[pointer])
            for value, pointer in zip(chunk.values, wanted, strict=True)
        ]
        return chunk._replace(values=values)


def carried(
    chunks: Iterator[Chunk], blobs: BlobReader, dying: frozenset[BlobId], second: int
) -> Iterator[Chunk]:
    """The chunks of a compaction with the values that it must have: those of ``dying`` blobs,
    unless they expire by ``second``, and bases of merges, which are to be folded. All other
    pointers stay."""

    def wants(value: Value) -> BlobPointer | None:
        pointer = pointer_in(value)
        if pointer is None or isinstance(value, Merge):
            return pointer
        if isinstance(value, Expiring) and value.expires <= second:
            return None
        return pointer if dying and pointer.place.blob in dying else None

    resolver = Resolver(blobs, wants)
    return chain.from_iterable(map(resolver.pieces, chunks))
