"""The merge of what lies in a range of keys, which is done when somebody asks for it.

All that the tables hold in ``[start, end)`` comes to lie in the oldest run that has any of it. A
table that reaches out of the range, as those that were flushed mostly do, would have to take what
is older beyond the range with it. So such tables are first cut at the borders of the range, each
apart, and then what is inside is merged: no more is rewritten than the tables that overlap the
range. Where a range tombstone lies across a border, or ends at it, a table seems to reach a little
further than it does; then more may be taken, as the rules of ``plan.py`` have it, and tombstones
may stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import dropwhile
from typing import NamedTuple

from seerdb.storage.compaction.plan import (
    Plan,
    between,
    changes_nothing,
    make_plan,
    may_shrink,
    position,
    rewrite,
)
from seerdb.storage.compaction.policy.given import PolicyOptions
from seerdb.storage.manifest.version import Run, TableMeta, Version


class Range(NamedTuple):
    """``[start, end)``, ``None``: no bound; of what was there up to ``seq``."""

    start: bytes | None
    end: bytes | None
    seq: int


def cut(version: Version, wanted: Range, options: PolicyOptions) -> Plan | None:
    """The next table to be cut before :func:`merge_range`; its parts stay in its run."""
    start, end, seq = wanted
    runs = between(since(version, seq), start, end)
    for run in (*runs[:-1], *_under_which_is_more(version, runs)):
        for table in run.tables:
            borders = tuple(key for key in (start, end) if key is not None and _hides(table, key))
            if borders:
                return rewrite(version, run, table, options.table_size, borders)
    return None


def merge_range(version: Version, wanted: Range, now: int, options: PolicyOptions) -> Plan | None:
    """The merge of all that lies in a range, but for runs of which all is newer; nothing when it
    lies in one run in which, at the second ``now``, nothing is to be dropped or folded."""
    start, end, seq = wanted
    runs = since(version, seq)
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
    plan = make_plan(version, inputs, target, options.table_size)
    return None if plan is None or changes_nothing(plan, now) else plan


def since(version: Version, seq: int) -> Sequence[Run]:
    """The runs of a version but those, the newest, of which all is newer than ``seq``."""
    return tuple(
        dropwhile(lambda run: min(table.min_seq for table in run.tables) > seq, version.runs)
    )


def _under_which_is_more(version: Version, runs: Sequence[Run]) -> Iterator[Run]:
    """Of the oldest run of a range the tables that cover what is older, which can only lie beyond
    the range, if for that reason something could not be dropped."""
    if any(may_shrink(table) for run in runs for table in run.tables):
        oldest = runs[-1]
        older = [run for run in version.runs if position(run) > position(oldest)]
        for table in oldest.tables:
            if between(older, table.smallest, table.largest + b"\x00"):
                yield Run(oldest.level, oldest.number, (table,))


def _hides(table: TableMeta, border: bytes) -> bool:
    """Whether a table lies on both sides of a border. The end of a range tombstone, where there
    is nothing, may be its largest key: then at the border itself is beyond it."""
    if table.range_deletes:
        return table.smallest < border < table.largest
    return table.smallest < border <= table.largest
