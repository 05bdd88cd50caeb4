"""Holds what a follower took of the log against what the writer made of it.

The writer's flushes end where its log segments end, and so do a follower's memtables. So when the
manifest brings a flushed table, the follower has a memtable of the same commits, and both have the
same entries, as digests tell. A commit that either has missed, or has otherwise, shows, wherever on
the way from the writer's memory through log, bucket or stream that happened.

What comes live is compared sooner, see ``running.py``; this sees the memtable as a whole, and what
came through the bucket.

Not compared are tables that were merged before they were seen, that hold large values elsewhere, or
operands; and memtables of which the follower has a part only.
"""

from __future__ import annotations

from collections.abc import Sequence

from seerdb.storage.digest import NONE, Digest, digest
from seerdb.storage.flush.run import packed
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.memtable import NEVER, Memtable
from seerdb.storage.merge import collapse
from seerdb.storage.object_store.names import table_name
from seerdb.storage.replication.running import difference

CHUNK = 4096


def compare(memtable: Memtable, after: int, tables: Sequence[TableMeta]) -> bool:
    """Whether the writer's flush of what ``memtable`` holds, the commits after seq ``after``, is
    among ``tables`` and could be compared.

    Raises: ``CorruptionError`` when it holds something else.
    """
    flushed = [table for table in tables if after < table.min_seq and _ends_with(table, memtable)]
    if len(flushed) != 1 or memtable.oldest_operand != NEVER:
        return False
    [table] = flushed
    expected = table.sums
    if expected is None or table.pointers or table.merges:
        return False
    found = _digest(memtable)
    if found != expected:
        where = f"seq {after + 1} to {memtable.last_seq} ({table_name(table.id)})"
        raise difference(where, expected, found)
    return True


def _ends_with(table: TableMeta, memtable: Memtable) -> bool:
    return table.level == 0 and table.max_seq <= memtable.last_seq


def _digest(memtable: Memtable) -> Digest:
    total = NONE
    for gathered in memtable.chunks(CHUNK):
        chunk = collapse([gathered], memtable.tombstones)
        total += digest(packed(chunk, special=memtable.special))
    return total
