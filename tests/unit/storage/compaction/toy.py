"""A tree in memory that merges as plans say, and nothing but: for policies to be tried on.

Unlike the real one it keeps every table as a dictionary, and finds of several versions of a key
the newest by the order of the runs alone, never by seq: if a plan breaks that order, reads show
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from msgspec.structs import replace

from seerdb.ids import TableId
from seerdb.storage.compaction.plan import Plan
from seerdb.storage.entry import RangeTombstone
from seerdb.storage.manifest.version import TableMeta, Version
from tests.unit.storage.tables import id_of

ENTRY_SIZE = 10

Rows = dict[bytes, tuple[int, bool]]
"""Seq, and whether it is a put, by key."""


def table(
    number: int,
    size: int = 100,
    *,
    level: int = 0,
    run: int | None = None,
    keys: tuple[bytes, bytes] = (b"a", b"z"),
    seqs: tuple[int, int] | None = None,
    deletes: int = 0,
    range_deletes: int = 0,
    entries: int = 10,
    expiring: int = 0,
    merges: int = 0,
    first_expiry: int = 0,
    half_expired: int = 0,
) -> TableMeta:
    """A table; unless told otherwise a run of its own that covers all keys."""
    low, high = seqs or (number, number)
    return TableMeta(
        id=id_of(number),
        level=level,
        run=number if run is None else run,
        size=size,
        checksum=0,
        entries=entries,
        deletes=deletes,
        range_deletes=range_deletes,
        smallest=keys[0],
        largest=keys[1],
        min_seq=low,
        max_seq=high,
        tail_offset=0,
        expiring=expiring,
        merges=merges,
        first_expiry=first_expiry,
        half_expired=half_expired,
    )


@dataclass
class Tree:
    """A version, and what its tables hold."""

    version: Version = field(default_factory=Version)
    rows: dict[TableId, Rows] = field(default_factory=dict)
    ranges: dict[TableId, list[RangeTombstone]] = field(default_factory=dict)
    seq: int = 0
    tables: int = 0
    truth: dict[bytes, int] = field(default_factory=dict)
    """Seq by key, of what is not deleted."""

    def flush(
        self, puts: Iterable[bytes], deletes: Iterable[bytes], gone: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Range deletes, then deletes, then puts, as a table of its own."""
        rows: Rows = {}
        ranges = []
        for start, end in gone:
            self.seq += 1
            ranges.append(RangeTombstone(start, end, self.seq))
            self.truth = {k: s for k, s in self.truth.items() if not start <= k < end}
        for key in deletes:
            self.seq += 1
            rows[key] = (self.seq, False)
            self.truth.pop(key, None)
        for key in puts:
            self.seq += 1
            rows[key] = (self.seq, True)
            self.truth[key] = self.seq
        if rows or ranges:
            run = 1 + max((each.number for each in self.version.runs), default=0)
            self.version = self.version.changed(add=[self._table(rows, ranges, 0, run)], remove=[])

    def apply(self, plan: Plan) -> None:
        """Do what ``plan`` says."""
        if plan.move:
            made = [replace(each, level=plan.level, run=plan.run) for each in plan.tables]
        else:
            made = [meta for part in plan.parts for meta in self._merge(plan, *part)]
        self.version = self.version.changed(add=made, remove=[each.id for each in plan.tables])

    def read(self, key: bytes) -> int | None:
        """The seq of a key, found as lookups do: the first run that has the key decides."""
        hidden = max((t.seq for t in self._all_ranges() if t.start <= key < t.end), default=0)
        for run in self.version.runs:
            for each in run.tables:
                if key in self.rows[each.id]:
                    seq, is_put = self.rows[each.id][key]
                    return seq if is_put and seq >= hidden else None
        return None

    def tombstones(self, tables: Iterable[TableMeta]) -> int:
        return sum(each.deletes + each.range_deletes for each in tables)

    def _all_ranges(self) -> list[RangeTombstone]:
        return [t for each in self.version.tables for t in self.ranges[each.id]]

    def _merge(self, plan: Plan, start: bytes | None, end: bytes | None) -> list[TableMeta]:
        ranges = [t for each in plan.tables for t in self.ranges[each.id]]
        newest: Rows = {}
        for run in plan.inputs:
            for each in run.tables:
                newest = {**self.rows[each.id], **newest}
        kept = [
            (key, (seq, is_put))
            for key, (seq, is_put) in sorted(newest.items())
            if (start is None or key >= start)
            and (end is None or key < end)
            and seq >= max((t.seq for t in ranges if t.start <= key < t.end), default=0)
            and (is_put or not plan.bottom)
        ]
        count = max(1, plan.table_size // ENTRY_SIZE)
        pieces = [dict(kept[at : at + count]) for at in range(0, len(kept), count)] or [{}]
        borders = [start, *(min(piece) for piece in pieces[1:]), end]
        made = []
        for piece, (low, high) in zip(pieces, pairwise(borders), strict=True):
            cut = [] if plan.bottom else list(_cut(ranges, low, high))
            if piece or cut:
                made.append(self._table(piece, cut, plan.level, plan.run))
        return made

    def _table(
        self, rows: Rows, ranges: Sequence[RangeTombstone], level: int, run: int
    ) -> TableMeta:
        self.tables += 1
        bounds = [*rows, *(t.start for t in ranges), *(t.end for t in ranges)]
        seqs = [*(seq for seq, _ in rows.values()), *(t.seq for t in ranges)]
        meta = table(
            self.tables,
            ENTRY_SIZE * (len(rows) + len(ranges)),
            level=level,
            run=run,
            keys=(min(bounds), max(bounds)),
            seqs=(min(seqs), max(seqs)),
            deletes=sum(not is_put for _, is_put in rows.values()),
            range_deletes=len(ranges),
            entries=len(rows),
        )
        self.rows[meta.id], self.ranges[meta.id] = dict(rows), list(ranges)
        return meta


def _cut(
    ranges: Iterable[RangeTombstone], start: bytes | None, end: bytes | None
) -> Iterable[RangeTombstone]:
    for tombstone in set(ranges):
        low = tombstone.start if start is None else max(start, tombstone.start)
        high = tombstone.end if end is None else min(end, tombstone.end)
        if low < high:
            yield RangeTombstone(low, high, tombstone.seq)
