"""Holds what a follower took of the log against what the writer made of it.

The writer's flushes end where its log segments end, and so do a follower's memtables. So when the
manifest tells of a flush, the follower has a memtable of the same commits, and the table has the
same entries, as digests tell. A commit that either has missed, or has otherwise, shows, wherever on
the way from the writer's memory through log, bucket or stream that happened.

What a flush has made is told by its record in the manifest alone: a table that is there later may
be a part of it, or what a merge has left of it, also in its place.

What comes live is compared sooner, see ``running.py``; this sees the memtable as a whole, and what
came through the bucket.

Not compared are tables that hold large values elsewhere, or operands; those whose records were not
read one by one; and memtables of which the follower has a part only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from seerdb.storage.digest import NONE, Digest, digest
from seerdb.storage.flush.run import packed
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.memtable import NEVER, Memtable
from seerdb.storage.merge import uncovered
from seerdb.storage.object_store.names import table_name
from seerdb.storage.replication.running import difference

CHUNK = 4096


class Flush(NamedTuple):
    """What the writer has made a table of: the commits after seq ``after``, up to ``last``."""

    after: int
    last: int
    table: TableMeta


def compare(memtable: Memtable, after: int, flushes: Sequence[Flush]) -> bool:
    """Whether the writer's flush of what ``memtable`` holds, the commits after seq ``after``, is
    among ``flushes`` and could be compared.

    Raises: ``CorruptionError`` when it holds something else.
    """
    wanted = after, memtable.last_seq
    table = next((table for *commits, table in flushes if tuple(commits) == wanted), None)
    if table is None or memtable.oldest_operand != NEVER:
        return False
    expected = table.sums
    if expected is None or table.pointers or table.merges:
        return False
    found = _digest(memtable)
    if found != expected:
        where = f"seq {after + 1} to {memtable.last_seq} ({table_name(table.id)})"
        raise difference(where, expected, found)
    return True


def _digest(memtable: Memtable) -> Digest:
    total = NONE
    for gathered in memtable.chunks(CHUNK):
        chunk = uncovered(gathered, memtable.tombstones)
        total += digest(packed(chunk, special=memtable.special))
    return total
