"""What an operator's request brought about."""

from __future__ import annotations

import msgspec


class FlushReport(msgspec.Struct, frozen=True):
    """What a flush brought about: the seq the tables reach, and the tables that came."""

    last_seq: int
    tables: list[str]


class CompactionReport(msgspec.Struct, frozen=True):
    """The tables that went and those that came."""

    removed: list[str]
    added: list[str]
