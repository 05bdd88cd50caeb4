"""Which tables a database consists of that no manifest tells any more, and which is above which.

Pure. Kept is every table that has something which no table with a higher id makes superfluous; see
``compare.py``. So nothing that is left is lost, but what a merge has dropped may come back where
its inputs still lie there: that is a doubt, and told.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from msgspec.structs import replace

from seerdb.ids import BlobId
from seerdb.storage.compaction.plan import BOTTOM_LEVEL
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.object_store.names import table_name
from seerdb.storage.repair.compare import Facts
from seerdb.storage.repair.report import Doubt, Loss
from seerdb.storage.repair.survey import SoundTable, loss_of


@dataclass
class Arrangement:
    """The tables, each with its level and run."""

    tables: list[TableMeta] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    lost: list[Loss] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)


def arrange(
    tables: Sequence[SoundTable], facts: Facts, *, is_vouched_for: bool = False
) -> Arrangement:
    """Choose among ``tables``, which ascend by id, and put the chosen into runs.

    ``is_vouched_for``: a manifest says that no others count, and none of them was replaced but for
    a damaged one.
    """
    made = Arrangement()
    kept = []
    for position, table in enumerate(tables):
        if position in facts.kept:
            kept.append(position)
        elif not table.is_gone:
            made.left_out.append(
                f"{table_name(table.meta.id)}: tables made later hold all that counts of it"
            )
    kept = _without_overfull(tables, kept, made)
    for position in kept:
        made.doubts += _doubts(tables, position, facts, kept)
    made.tables = _in_runs([tables[each].meta for each in _newest_first(tables, kept, facts, made)])
    if not is_vouched_for:
        made.doubts += _unvouched(made.tables)
    return made


def _doubts(
    tables: Sequence[SoundTable], position: int, facts: Facts, kept: list[int]
) -> list[Doubt]:
    table = tables[position]
    name, found = table_name(table.meta.id), []
    if position in facts.successors and position in facts.open:
        because = (
            "a merge took in at least a part of it: keys that were deleted may be back, and "
            "operands may count twice"
        )
        found.append(Doubt(name, because, *facts.open[position]))
    if not table.has_seq and _meets(tables, position, kept):
        because = (
            "an ingest made it, and the manifest alone knew when: where other tables have the same "
            "keys, older values may hide newer ones"
        )
        found.append(Doubt(name, because, table.meta.smallest, table.meta.largest))
    return found


def _meets(tables: Sequence[SoundTable], position: int, kept: list[int]) -> bool:
    meta = tables[position].meta
    others = (tables[each].meta for each in kept if each != position)
    return any(meta.smallest <= each.largest and each.smallest <= meta.largest for each in others)


def _without_overfull(
    tables: Sequence[SoundTable], kept: list[int], made: Arrangement
) -> list[int]:
    """Leave out, oldest first, what points a second time at the same values of a blob: a manifest
    must not say that more of a blob is live than there is."""
    live: dict[BlobId, int] = {}
    fitting = []
    for position in reversed(kept):
        meta = tables[position].meta
        sums = {ref.id: live.get(ref.id, 0) + ref.bytes for ref in meta.blobs}
        if any(sums[ref.id] > ref.total for ref in meta.blobs):
            problem = "left out: tables made later point at the same values of its blobs"
            made.lost.append(loss_of(meta, problem))
        else:
            live.update(sums)
            fitting.append(position)
    return fitting[::-1]


def _newest_first(
    tables: Sequence[SoundTable], kept: list[int], facts: Facts, made: Arrangement
) -> list[int]:
    """An order in which whoever has a newer version comes first, as far as there is one; else the
    one with the highest seq."""
    members = set(kept)
    below: dict[int, set[int]] = {each: set() for each in kept}
    above: dict[int, set[int]] = {each: set() for each in kept}
    for newer, older in facts.newer:
        if newer in members and older in members:
            below[newer].add(older)
            above[older].add(newer)

    def rank(position: int) -> tuple[int, int]:
        return -tables[position].meta.max_seq, -position

    ready = [(rank(each), each) for each in kept if not above[each]]
    heapify(ready)
    order: list[int] = []
    while members:
        chosen = heappop(ready)[1] if ready else min(members, key=rank)
        if chosen not in members:
            continue
        members.remove(chosen)
        order.append(chosen)
        if left := above[chosen] & members:
            made.doubts.append(_disorder(tables, chosen, left))
        for older in below[chosen] & members:
            above[older].discard(chosen)
            if not above[older]:
                heappush(ready, (rank(older), older))
    return order


def _disorder(tables: Sequence[SoundTable], position: int, newer: set[int]) -> Doubt:
    meta = tables[position].meta
    names = ", ".join(table_name(tables[each].meta.id) for each in sorted(newer))
    return Doubt(
        table_name(meta.id),
        f"it is newer than {names} in some keys and older in others: older values may be shown",
        meta.smallest,
        meta.largest,
    )


def _in_runs(newest_first: list[TableMeta]) -> list[TableMeta]:
    """Each table in the lowest run that is above all older ones which it overlaps. The oldest run
    is at the bottom, the others are as flushes leave them."""
    runs: list[list[tuple[bytes, bytes]]] = []
    placed = []
    for table in reversed(newest_first):
        depth = len(runs)
        while depth and not _overlaps(runs[depth - 1], table):
            depth -= 1
        if depth == len(runs):
            runs.append([])
        insort(runs[depth], (table.smallest, table.largest))
        level = 0 if depth else BOTTOM_LEVEL
        placed.append(replace(table, level=level, run=depth + 1))
    return Version.of(placed).tables


def _overlaps(run: list[tuple[bytes, bytes]], table: TableMeta) -> bool:
    after = bisect_left(run, (table.smallest,))
    if after < len(run) and run[after][0] <= table.largest:
        return True
    return after > 0 and run[after - 1][1] >= table.smallest


def _unvouched(tables: list[TableMeta]) -> list[Doubt]:
    """The ranges of keys in which a table may be one that a merge had replaced."""
    because = (
        "no manifest says that the tables here are the newest: if a merge had replaced one and its "
        "outputs share nothing with it, keys that were deleted may be back"
    )
    found: list[Doubt] = []
    for table in sorted(tables, key=lambda each: (each.smallest, each.id)):
        if found and table.smallest <= found[-1].largest:
            last = found.pop()
            largest = max(last.largest, table.largest)
            found.append(Doubt(last.name, because, last.smallest, largest))
        else:
            found.append(Doubt(table_name(table.id), because, table.smallest, table.largest))
    return found
