"""What a scan hands out: rows of people's, out of chunks of columns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from seerdb.errors import InvalidRequestError
from seerdb.storage.batch import prefix_end
from seerdb.storage.merge import Chunk


class Entry(NamedTuple):
    """A key, its value, and the sequence number of the commit that wrote it."""

    key: bytes
    value: bytes
    seq: int


def bounds(
    start: bytes | None, end: bytes | None, prefix: bytes | None
) -> tuple[bytes | None, bytes | None]:
    """The range that is meant by all three. Raises ``InvalidRequestError``."""
    for name, bound in (("start", start), ("end", end), ("prefix", prefix)):
        if bound is not None and type(bound) is not bytes:
            raise InvalidRequestError(f"{name} must be bytes, not {type(bound).__name__}")
    if start is not None and end is not None and start >= end:
        raise InvalidRequestError(
            f"the start of a range must be before its end: {start!r}, {end!r}"
        )
    if prefix:
        start = prefix if start is None else max(start, prefix)
        last = prefix_end(prefix)
        if last is not None:
            end = last if end is None else min(end, last)
    return start, end


def check_flags(**flags: object) -> None:
    """Raise ``InvalidRequestError`` unless all are ``True`` or ``False``: ``"false"`` is not."""
    for name, flag in flags.items():
        if flag is not True and flag is not False:
            raise InvalidRequestError(f"{name} must be True or False, not {flag!r}")


def rows(
    chunks: Iterator[Chunk],
    show: Callable[[Chunk], Any],
    *,
    reverse: bool,
    limit: int | None,
) -> Iterator[Any]:
    """What is there in ``chunks``, as ``show`` has it, at most ``limit`` of it; for one thread at
    a time.

    Requires: values are bytes or ``None``. Raises ``InvalidRequestError`` for a bad limit.
    """
    if limit is not None and (type(limit) is not int or limit < 0):
        raise InvalidRequestError(f"limit must be a whole number from 0, not {limit!r}")
    if limit is not None and limit > sys.maxsize:
        raise InvalidRequestError(f"limit must be at most {sys.maxsize:,}, not {limit:,}")
    pieces = (
        list(show(living(chunk)))[::-1] if reverse else show(living(chunk)) for chunk in chunks
    )
    shown = chain.from_iterable(pieces)
    return _guarded(shown if limit is None else islice(shown, limit))


def _guarded(shown: Iterator[Any]) -> Iterator[Any]:
    """The same, with ``ValueError`` for a thread that asks while another one waits for the answer:
    iterators of ``itertools`` free what that one is running in."""
    yield from shown


def living(chunk: Chunk) -> Chunk:
    """What is there of a chunk."""
    if None not in chunk.values:
        return chunk
    kept = [entry for entry in zip(*chunk, strict=True) if entry[2] is not None]
    return Chunk([e[0] for e in kept], [e[1] for e in kept], [e[2] for e in kept])


def keys(chunk: Chunk) -> Sequence[bytes]:
    """A row is a key."""
    return chunk.keys


def pairs(chunk: Chunk) -> Iterator[tuple[bytes, bytes]]:
    """A row is a key and its value."""
    return zip(chunk.keys, chunk.values, strict=True)  # type: ignore[arg-type]


def entries(chunk: Chunk) -> Iterator[Entry]:
    """A row is an entry."""
    return map(Entry, chunk.keys, chunk.values, chunk.seqs)  # type: ignore[arg-type]


def key_entries(chunk: Chunk) -> Iterator[Entry]:
    """A row is an entry without its value."""
    return (Entry(key, b"", seq) for key, seq in zip(chunk.keys, chunk.seqs, strict=True))
