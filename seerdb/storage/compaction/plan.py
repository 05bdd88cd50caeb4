"""A merge, as data: which tables go, where what they hold comes to lie, and what may be dropped.

Pure. Policies decide *what* to merge (``policy/``) and call :func:`make_plan`, which works out
the rest. Several plans may run at the same time, and flushes go on meanwhile.

A run has a *position*: its level, then its number, the higher the newer. What every plan keeps,
whichever of those that run together is done first (:func:`check_plan`):

- P1  its inputs are tables of the version, and of no other running plan;
- P2  **order**: where two tables may hold the same key, the one that was newer stays newer. A
  table that overlaps an input of another run is on the same side of the output as it was of
  that input; and so are outputs of running plans;
- P3  the outputs fit between the tables that stay in the run they join;
- P4  **bottom** is claimed only if nothing that is left can be older than the inputs where they
  lie, so that tombstones have nothing left to hide (I7);
- P5  a **move**, which gives tables another place and rewrites nothing, moves only what does not
  overlap, and nothing that could be dropped or folded.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from operator import attrgetter

from seerdb.errors import InternalError
from seerdb.ids import BlobId, TableId
from seerdb.storage.blob.liveness import find_dying
from seerdb.storage.manifest.version import Run, TableMeta, Version

BOTTOM_LEVEL = 7
"""Where the oldest run settles; the levels above are filled from there upwards."""

SPLIT_TABLES = 8
"""A merge is split into parts that read about as many full tables."""

MOVED_SHARE = 8
"""Tables that are on average smaller than this part of a full one are merged, not moved."""

Position = tuple[int, int]
"""Level and negated number of a run: the less, the newer."""


@dataclass(frozen=True)
class Plan:
    """One merge. Picklable. Build it with :func:`make_plan`."""

    inputs: tuple[Run, ...]
    """What goes, newest first: of each run the tables that take part."""
    level: int
    run: int
    """The run that the outputs form or join."""
    table_size: int
    """Bytes at which an output table is finished and the next one begun."""
    bottom: bool
    """Nothing older is left where the inputs lie: tombstones go (P4)."""
    move: bool
    """The inputs become the outputs; nothing is read or written (P5)."""
    splits: tuple[bytes, ...] = ()
    """Keys at which the merge is cut into parts that may be done apart."""
    dying: frozenset[BlobId] = frozenset()
    """Blobs that are mostly dead: values of the inputs that lie in them move."""

    @property
    def tables(self) -> list[TableMeta]:
        """All inputs."""
        return [table for run in self.inputs for table in run.tables]

    @property
    def size(self) -> int:
        """Bytes of all inputs."""
        return sum(run.size for run in self.inputs)

    @property
    def position(self) -> Position:
        """Of the outputs."""
        return self.level, -self.run

    @property
    def parts(self) -> list[tuple[bytes | None, bytes | None]]:
        """The half-open key ranges to be merged, each apart, in order; ``None``: no bound."""
        return list(pairwise((None, *self.splits, None)))


def position(run: Run) -> Position:
    """Where a run is."""
    return run.level, -run.number


def overlapping(run: Run, start: bytes, end: bytes) -> Run:
    """The tables of ``run`` that may hold keys from ``start`` to ``end``, both inclusive."""
    low = bisect_left(run.tables, start, key=attrgetter("largest"))
    high = bisect_right(run.tables, end, key=attrgetter("smallest"))
    return Run(run.level, run.number, run.tables[low:high])


def between(runs: Sequence[Run], start: bytes | None, end: bytes | None) -> tuple[Run, ...]:
    """Of ``runs``, the tables that may hold keys in ``[start, end)``; no run without any."""
    parts = []
    for run in runs:
        low = 0 if start is None else bisect_left(run.tables, start, key=attrgetter("largest"))
        high = None if end is None else bisect_left(run.tables, end, key=attrgetter("smallest"))
        if run.tables[low:high]:
            parts.append(Run(run.level, run.number, run.tables[low:high]))
    return tuple(parts)


def bounds(runs: Iterable[Run]) -> tuple[bytes, bytes]:
    """The smallest and the largest key of runs that are not empty."""
    ends = [(run.tables[0].smallest, run.tables[-1].largest) for run in runs]
    return min(start for start, _ in ends), max(end for _, end in ends)


def free_stretches(runs: Sequence[Run], running: Iterable[Plan]) -> list[Sequence[Run]]:
    """``runs`` without those that take part in a running plan, cut where such are left out; at
    least one stretch, the newest first, of which the last may be empty."""
    busy = {position(run) for plan in running for run in plan.inputs}
    stretches: list[list[Run]] = [[]]
    for run in runs:
        if position(run) not in busy:
            stretches[-1].append(run)
        elif stretches[-1]:
            stretches.append([])
    return list(stretches)


def make_plan(
    version: Version,
    inputs: Sequence[Run],
    target: Position,
    table_size: int,
    *,
    rewrites: frozenset[BlobId] | None = None,
) -> Plan | None:
    """The merge of ``inputs`` (newest first; empty ones do not count) into a run at ``target``.

    ``None`` when all of them are there already and nothing could be dropped, folded or, in blobs
    that are mostly dead, moved. With ``rewrites`` they are rewritten in any case, and the values in
    these blobs move.
    """
    inputs = tuple(run for run in inputs if run.tables)
    tables = [table for run in inputs for table in run.tables]
    bottom = not _older(version, inputs, target)
    drops = bottom and any(map(may_shrink, tables))
    dying = find_dying(version, tables) | (rewrites or frozenset())
    is_there = all(position(run) == target for run in inputs)
    needed = drops or rewrites is not None
    if is_there and not needed and not dying:
        return None
    small = sum(table.size for table in tables) < len(tables) * (table_size // MOVED_SHARE)
    move = not needed and not is_there and not (small and len(tables) > 1) and _are_apart(inputs)
    return Plan(
        inputs=inputs,
        level=target[0],
        run=-target[1],
        table_size=table_size,
        bottom=bottom,
        move=move,
        splits=() if move else _splits(inputs, table_size),
        dying=frozenset() if move else dying,
    )


def rewrite(
    version: Version, run: Run, table: TableMeta, table_size: int, splits: tuple[bytes, ...] = ()
) -> Plan:
    """The merge of a table with nothing, into where it is, cut at ``splits``."""
    inputs = (Run(run.level, run.number, (table,)),)
    return Plan(
        inputs=inputs,
        level=run.level,
        run=run.number,
        table_size=table_size,
        bottom=not _older(version, inputs, position(run)),
        move=False,
        splits=splits,
        dying=find_dying(version, [table]),
    )


def changes_nothing(plan: Plan, now: int) -> bool:
    """Whether a plan takes one run to where it is, in which at the second ``now`` nothing can be
    dropped or folded, and which needs nothing of blobs that are mostly dead."""
    if plan.dying or len(plan.inputs) > 1 or position(plan.inputs[0]) != plan.position:
        return False
    return not any(
        table.deletes
        or table.range_deletes
        or table.merges
        or (table.expiring and table.first_expiry <= now)
        for table in plan.tables
    )


def check_plan(version: Version, plan: Plan, running: Iterable[Plan] = ()) -> None:
    """Raise ``InternalError`` when ``plan`` breaks a rule of the module docstring, alone or beside
    those that are ``running``. Cheap beside any merge: a bisect for each pair of table and run."""
    fault = _fault(version, plan)
    if fault:
        raise InternalError(f"a compaction of {_names(plan)} would break the order: {fault}")
    for other in running:
        if collides(plan, other):
            raise InternalError(f"compactions of {_names(plan)} and {_names(other)} collide")


def collides(plan: Plan, other: Plan) -> bool:
    """Whether two plans, each good for the same version, must not run at the same time."""
    if {table.id for table in plan.tables} & {table.id for table in other.tables}:
        return True
    if plan.position == other.position:
        start, end = bounds(plan.inputs)
        other_start, other_end = bounds(other.inputs)
        if start <= other_end and other_start <= end:
            return True
    return any(
        _swaps((mine, plan.position), (theirs, other.position)) and _overlap(run, each)
        for run, mine in ((run, position(run)) for run in plan.inputs)
        for each, theirs in ((run, position(run)) for run in other.inputs)
        if mine != theirs
    )


def _swaps(one: tuple[Position, Position], another: tuple[Position, Position]) -> bool:
    """Whether two runs, each moving from a position to another, whichever goes first, are ever in
    another order than they were, or at the same place."""
    newer = one[0] < another[0]
    return any(here == there or (here < there) != newer for here in one for there in another)


def _fault(version: Version, plan: Plan) -> str:
    """Which rule ``plan`` breaks alone, in words; "" when none."""
    return _unknown_inputs(version, plan) or _disorder(version, plan) or _false_claim(version, plan)


def _unknown_inputs(version: Version, plan: Plan) -> str:
    known = {position(run): {table.id for table in run.tables} for run in version.runs}
    for run in plan.inputs:
        if not run.tables or not {t.id for t in run.tables} <= known.get(position(run), set()):
            return f"level {run.level} run {run.number} does not hold what it is to give"
    return ""


def _disorder(version: Version, plan: Plan) -> str:
    start, end = bounds(plan.inputs)
    for stays in _staying(version, plan.inputs):
        place = position(stays)
        if any(
            _swaps((position(run), plan.position), (place, place)) and _overlap(run, stays)
            for run in plan.inputs
            if position(run) != place
        ):
            return f"it would pass level {stays.level} run {stays.number}, which overlaps it"
        if place == plan.position and _holds_between(stays, start, end):
            return f"level {stays.level} run {stays.number} keeps tables among its outputs"
    return ""


def _false_claim(version: Version, plan: Plan) -> str:
    if plan.bottom and _older(version, plan.inputs, plan.position):
        return "it claims the bottom above older data"
    if plan.move and not _are_apart(plan.inputs):
        return "it moves tables that overlap"
    if plan.move and plan.bottom and any(map(may_shrink, plan.tables)):
        return "it moves what could be dropped or folded"
    return ""


def may_shrink(table: TableMeta) -> bool:
    """Whether at the bottom something of a table may be dropped, or folded, now or later."""
    return table.deletes > 0 or table.range_deletes > 0 or table.special


def _names(plan: Plan) -> str:
    return ", ".join(str(table.id) for table in plan.tables)


def _splits(inputs: Sequence[Run], table_size: int) -> tuple[bytes, ...]:
    """Borders of tables of the largest run, about equally far apart in bytes of all inputs."""
    largest = max(inputs, key=attrgetter("size"))
    share = sum(run.size for run in inputs) / largest.size
    splits = []
    gathered = 0.0
    for table in largest.tables:
        if gathered >= SPLIT_TABLES * table_size:
            splits.append(table.smallest)
            gathered = 0.0
        gathered += table.size * share
    return tuple(splits)


def _older(version: Version, inputs: Sequence[Run], target: Position) -> bool:
    """Whether a table that stays, below ``target``, may hold something older than an input."""
    newest = max(table.max_seq for run in inputs for table in run.tables)
    return any(
        table.min_seq < newest
        for stays in _staying(version, inputs)
        if position(stays) > target
        for run in inputs
        for table in _overlapped(stays, run)
    )


def _staying(version: Version, inputs: Sequence[Run]) -> list[Run]:
    """The runs of a version without the inputs; those that are emptied are left out."""
    taken = {position(run): {table.id for table in run.tables} for run in inputs}
    stays = []
    for run in version.runs:
        gone: set[TableId] = taken.get(position(run), set())
        if gone:
            tables = tuple(table for table in run.tables if table.id not in gone)
            run = Run(run.level, run.number, tables)  # noqa: PLW2901 - the same run, less
        if run.tables:
            stays.append(run)
    return stays


def _overlapped(run: Run, by: Run) -> Iterator[TableMeta]:
    """The tables of ``run``, some perhaps twice, that may hold a key that ``by`` may hold too."""
    if len(run.tables) < len(by.tables):
        return (t for t in run.tables if overlapping(by, t.smallest, t.largest).tables)
    return (t for each in by.tables for t in overlapping(run, each.smallest, each.largest).tables)


def _overlap(run: Run, other: Run) -> bool:
    return any(True for _ in _overlapped(run, other))


def _are_apart(runs: Sequence[Run]) -> bool:
    """Whether no table overlaps one of another run."""
    return not any(_overlap(run, other) for run, other in combinations(runs, 2))


def _holds_between(run: Run, start: bytes, end: bytes) -> bool:
    """Whether a table of ``run`` begins or ends strictly between two keys."""
    return any(table.largest > start and table.smallest < end for table in run.tables)
