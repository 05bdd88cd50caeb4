"""What a merge leaves out by rule, and the proof that it leaves out nothing else.

The entries of the inputs are those of the outputs and those that were dropped: as digests, *in =
out + dropped*. In is what the manifest says of the inputs, out what went into the blocks of the
outputs. Dropped are entries that a newer one hides, tombstones at the bottom, and the difference
that is made where values are folded, expire, are hidden by ranges, or move to or between blobs:
then what was there is dropped, less what there is instead.

So an entry that is lost, doubled or changed anywhere between the blocks of the inputs and those of
the outputs is found before anybody sees the outputs. What is not proved is the rule itself, where
it makes something else of several entries, nor that range tombstones are carried over.
"""

from __future__ import annotations

from collections.abc import Sequence

from seerdb.errors import CorruptionError
from seerdb.storage.digest import NONE, Digest, digest
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.sstable.packed import Packed


class Ledger:
    """Of one part of a merge."""

    def __init__(self) -> None:
        self.dropped = NONE
        """What was left out, less what was made of it."""

    def drop(self, entries: Packed) -> None:
        """These are left out."""
        self.dropped += digest(entries)

    def make(self, entries: Packed) -> None:
        """These were in no input."""
        self.dropped -= digest(entries)


def check_merge(inputs: Sequence[TableMeta], outputs: Sequence[TableMeta], dropped: Digest) -> None:
    """Raise ``CorruptionError`` unless the inputs are the outputs and what was ``dropped``.

    Where an input is older than digests nothing can be told.
    """
    taken = _sum(inputs)
    given = _sum(outputs)
    if taken is None or given is None or taken == given + dropped:
        return
    raise CorruptionError(
        "a merge has lost, doubled or changed entries",
        name=", ".join(table.id for table in inputs),
        expected=f"{taken.entries} entries, {taken}",
        found=f"{(given + dropped).entries} entries, {given + dropped}",
        hint="the merge does not count and is made again; if that fails, verify the database",
    )


def _sum(tables: Sequence[TableMeta]) -> Digest | None:
    total = NONE
    for table in tables:
        sums = table.sums
        if sums is None:
            return None
        total += sums
    return total
