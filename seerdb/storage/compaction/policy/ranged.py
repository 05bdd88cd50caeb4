"""The merge of what lies in a range of keys, which is done when somebody asks for it.

All that the tables hold in ``[start, end)`` comes to lie in the oldest run that has any of it. A
table that reaches out of the range, as those that were flushed mostly do, would have to take what
is older beyond the range with it. So such tables are first cut at the borders of the range, each
apart, and then what is inside is merged: no more is rewritten than the tables that overlap the
range. Where a range tombstone lies across a border a table may seem to reach a little further than
it does; then more is taken, as the rules of ``plan.py`` have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import dropwhile

from seerdb.storage.compaction.plan import Plan, between, make_plan, may_shrink, position
from seerdb.storage.compaction.policy.given import PolicyOptions
from seerdb.storage.manifest.version import Run, TableMeta, Version

Bound = bytes | None


def cut(
    version: Version, start: Bound, end: Bound, seq: int, options: PolicyOptions
) -> Plan | None:
    """The next table to be cut before :func:`merge_range`; its parts stay in its run."""
    *newer, oldest = between(_since(version, seq), start, end) or (Run(0, 0, ()),)
    for run in (*newer, *_stuck(version, oldest, start, end)):
        for table in run.tables:
            borders = tuple(key for key in (start, end) if key is not None and _hides(table, key))
            if borders:
                return Plan(
                    inputs=(Run(run.level, run.number, (table,)),),
                    level=run.level,
                    run=run.number,
                    table_size=options.table_size,
                    bottom=False,
                    move=False,
                    splits=borders,
                )
    return None


def merge_range(
    version: Version, start: Bound, end: Bound, seq: int, options: PolicyOptions
) -> Plan | None:
    """The merge of all that lies in ``[start, end)``, but for runs of which all is newer than
    ``seq``; nothing when it lies in one run in which nothing is left to drop or to fold."""
    runs = _since(version, seq)
    parts = between(runs, start, end)
    if not parts:
        return None
    target = position(parts[-1])
    inputs: list[Run] = []
    for run in runs:
        if position(run) <= target:
            for part in between((run,), start, end):
                inputs.append(part)
                # What is older than it, and overlaps it, goes with it.
                start = None if start is None else min(start, part.tables[0].smallest)
                end = None if end is None else max(end, part.tables[-1].largest + b"\x00")
    return make_plan(version, inputs, target, options.table_size)


def _since(version: Version, seq: int) -> Sequence[Run]:
    """The runs from the newest on that has something not newer than ``seq``."""
    return tuple(
        dropwhile(lambda run: min(table.min_seq for table in run.tables) > seq, version.runs)
    )


def _stuck(version: Version, run: Run, start: Bound, end: Bound) -> Iterator[Run]:
    """The tables of the oldest run of a range whose tombstones cannot go for what is older, but
    lies beyond the range."""
    tables = tuple(filter(may_shrink, run.tables))
    older = [each for each in version.runs if position(each) > position(run)]
    if any(between(older, table.smallest, table.largest + b"\x00") for table in tables):
        yield Run(run.level, run.number, tables)


def _hides(table: TableMeta, border: bytes) -> bool:
    """Whether a table lies on both sides of a border. The end of a range tombstone, where there
    is nothing, may be its largest key: then at the border itself is beyond it."""
    if table.range_deletes:
        return table.smallest < border < table.largest
    return table.smallest < border <= table.largest
