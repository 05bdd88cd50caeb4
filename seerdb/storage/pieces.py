"""Bytes in pieces: what was made part by part and is put into a store without being joined.

To join is to fill as much memory again, which nobody has touched yet: on a virtual machine that is
1 to 2 ms a MiB, in one call that holds the interpreter lock. A file can be written from pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crc32c import crc32c

Piece = bytes | memoryview
"""Nobody writes to it any more."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Bytes in pieces, in order; any may be empty. As of ``bytes``, ``len()`` is how many bytes
    there are; ``bytes()`` joins them. Equal if cut alike. ``cold``: nobody is expected to read
    them soon."""

    pieces: tuple[Piece, ...]
    cold: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)


Body = bytes | Pieces
"""The bytes of an object. ``len()`` and ``bytes()`` mean the same of both forms, and the second
copies nothing where there is nothing to join."""


def pieces_of(body: Body) -> Sequence[Piece]:
    """The pieces of ``body``: one, where it is whole."""
    return body.pieces if isinstance(body, Pieces) else (body,)


def crc_of(body: Body) -> int:
    """The CRC32C of all bytes."""
    crc = 0
    for piece in pieces_of(body):
        crc = crc32c(piece, crc)
    return crc


def end_of(body: Body, size: int) -> bytes:
    """The last ``size`` bytes, or all if there are fewer. Requires: ``size >= 1``."""
    end = b""
    for piece in reversed(pieces_of(body)):
        end = (bytes(piece[-size:]) + end)[-size:]
        if len(end) == size:
            break
    return end
