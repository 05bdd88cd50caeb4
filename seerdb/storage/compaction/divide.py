"""A merge that somebody waits for, divided among all that may do a part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import attrgetter
from typing import TypeAlias

from seerdb.ids import TableId
from seerdb.storage.compaction.plan import Plan
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.sstable.reader import TableReader

Readers: TypeAlias = Callable[[TableId], TableReader | None]
"""Of the tables whose index is in memory."""

_PLACES = 64
"""Where a part may begin is looked for at about so many places in each part."""


def divide(plan: Plan, among: int, readers: Readers) -> Plan:
    """The same merge, in parts of about one size that ``among`` jobs do in as few turns as before,
    but none smaller than a table.

    A part begins within a table where the index of that is in memory, else where a table does.
    """
    turns = -(-len(plan.parts) // among)
    parts = min(turns * among, plan.size // plan.table_size)
    if among == 1 or parts <= 1 or plan.move:
        return plan
    largest = max(plan.inputs, key=attrgetter("size"))
    share = largest.size / parts
    places = -(-_PLACES * parts // len(largest.tables))
    splits: list[bytes] = []
    before = 0.0
    for table in largest.tables:
        starts = list(_starts(table, readers(table.id), places))
        for start in starts:
            if before >= share * (len(splits) + 1):
                splits.append(start)
            before += table.size / len(starts)
    return replace(plan, splits=tuple(splits))


def _starts(table: TableMeta, reader: TableReader | None, count: int) -> Iterator[bytes]:
    """About ``count`` keys that cut a table into stretches of one size, which begin with them."""
    yield table.smallest
    if reader is not None:
        step = max(1, reader.block_count // count)
        yield from map(reader.separator, range(step, reader.block_count, step))
