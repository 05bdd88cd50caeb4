"""What a repair tells: what it used, what it left out, what is lost, and what it cannot be sure of.

Ranges of keys include both ends. Where nothing is known of a damaged object its range is ``None``:
it may have held any key.
"""

from __future__ import annotations

import msgspec


class Loss(msgspec.Struct, frozen=True):
    """An object that is damaged or gone, with what it held as far as that is known."""

    name: str
    problem: str
    smallest: bytes | None = None
    largest: bytes | None = None
    min_seq: int = 0
    max_seq: int = 0
    """0: not known."""


class Doubt(msgspec.Struct, frozen=True):
    """Keys of which the answer may be wrong, and how."""

    name: str
    """The table that the doubt is about."""
    because: str
    smallest: bytes
    largest: bytes


class RepairReport(msgspec.Struct):
    """The outcome of a repair, or of its rehearsal."""

    dry_run: bool = False
    database_id: str = ""
    epoch: int = 0
    """Of the new manifest: no writer before had a higher one."""
    last_seq: int = 0
    """Everything up to here that is left is in tables."""
    log_last_seq: int = 0
    """Where the shipped log that continues them ends; 0 where none does."""
    manifest: str = "none"
    """How the tables were chosen: ``whole``, by a manifest that tells the newest state; ``part``,
    by the records that can be read, and by argument; ``none``, by argument alone."""
    tables: list[str] = []
    blobs: list[str] = []
    shipped: list[str] = []
    """What the new database consists of."""
    bytes: int = 0
    left_out: list[str] = []
    """Sound objects that are not part of it, each with the reason."""
    lost: list[Loss] = []
    doubts: list[Doubt] = []
    notes: list[str] = []

    @property
    def ok(self) -> bool:
        """Whether nothing is lost, as far as can be told, and nothing in doubt."""
        return not (self.lost or self.doubts)
