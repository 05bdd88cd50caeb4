"""A tree of sizes and keys: what the policies plan is done, but nothing is stored.

Bytes are counted as of uncompressed entries of a fixed size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from msgspec.structs import replace

from benchmarks.simulator.loads import FLUSH_ENTRIES
from seerdb.ids import Epoch, TableId, table_id
from seerdb.storage.compaction.plan import Plan, check_plan
from seerdb.storage.compaction.policy import POLICIES
from seerdb.storage.compaction.policy.adaptive import choose
from seerdb.storage.compaction.policy.given import LAZY_LEVELED, PolicyOptions, PolicyStatistics
from seerdb.storage.manifest.version import TableMeta, Version

PUT_SIZE = 100
DELETE_SIZE = 30
BLOCK_ENTRIES = 40

FLUSH_SIZE = FLUSH_ENTRIES * PUT_SIZE
OPTIONS = PolicyOptions(
    base_size=FLUSH_SIZE * 5 // 4, table_size=5 * FLUSH_SIZE, block_size=BLOCK_ENTRIES * PUT_SIZE
)
"""In proportion to a flush as a database has them with its defaults, for small values."""

_FADES = 0.85
"""What a flush ago counts, to the adaptive policy."""
_MANY_PLANS = 1_000


@dataclass(frozen=True)
class Merge:
    """A plan that is being done, and the tables that it makes."""

    plan: Plan
    made: list[TableMeta]

    @property
    def size(self) -> int:
        """Bytes that it reads and writes: none where tables are only moved."""
        return 0 if self.plan.move else self.plan.size + self.written

    @property
    def written(self) -> int:
        """Bytes that it writes."""
        return 0 if self.plan.move else sum(table.size for table in self.made)


class SimulatedTree:
    """A tree that ``policy`` keeps in shape."""

    def __init__(self, policy: str, options: PolicyOptions = OPTIONS) -> None:
        self._policy = POLICIES[policy]
        self._options = options
        self.version = Version()
        self.live: set[int] = set()
        self.flushed = 0
        """Bytes, as all that follows."""
        self.merged = 0
        """Written by merges."""
        self.merges = self.moves = self.largest_merge = 0
        self.shape = LAZY_LEVELED
        self._rows: dict[TableId, dict[int, bool]] = {}
        self._tables = 0
        self._recent = (0.0, 0.0, 0.0)

    @property
    def stored(self) -> int:
        """Of all tables."""
        return sum(run.size for run in self.version.runs)

    @property
    def space_amplification(self) -> float:
        """Bytes stored for each that is live."""
        return self.stored / (PUT_SIZE * max(1, len(self.live)))

    def flush(self, writes: Sequence[tuple[int, bool]]) -> None:
        """Add a table of level 0."""
        rows = dict(writes)
        for key, is_put in rows.items():
            if is_put:
                self.live.add(key)
            else:
                self.live.discard(key)
        run = 1 + max((each.number for each in self.version.runs), default=0)
        table = self._table(rows, sorted(rows), 0, run)
        self.flushed += table.size
        self.version = self.version.changed(add=[table], remove=[])

    def settle(self, puts: int, gets: int, scans: int) -> None:
        """Do what the policy wants, until it is content, after so many operations more.

        Raises ``RuntimeError`` when it never is.
        """
        self.count(puts, gets, scans)
        for _ in range(_MANY_PLANS):
            merge = self.begin()
            if merge is None:
                return
            self.finish(merge)
        raise RuntimeError("the policy is never content")

    def count(self, puts: int, gets: int, scans: int) -> None:
        """So many operations more."""
        counts = (puts, gets, scans)
        self._recent = tuple(  # type: ignore[assignment]
            _FADES * before + now for before, now in zip(self._recent, counts, strict=True)
        )

    def begin(self, running: Sequence[Merge] = ()) -> Merge | None:
        """What the policy wants next, beside what is ``running``; the tree is as it was."""
        plans = [merge.plan for merge in running]
        plan = self._next_plan(plans)
        if plan is None:
            return None
        check_plan(self.version, plan, plans)
        return Merge(plan, _moved(plan) if plan.move else self._merge(plan))

    def finish(self, merge: Merge) -> None:
        """What it makes takes the place of its inputs."""
        gone = [table.id for table in merge.plan.tables]
        if merge.plan.move:
            self.moves += 1
        else:
            self.merges += 1
            self.largest_merge = max(self.largest_merge, merge.plan.size)
            self.merged += merge.written
            for table in gone:
                del self._rows[table]
        self.version = self.version.changed(add=merge.made, remove=gone)

    def tables_asked(self, key: int) -> int:
        """How many tables a lookup has to ask for a key, filters aside, until one has it."""
        name, asked = key.to_bytes(8), 0
        for run in self.version.runs:
            for table in run.tables:
                if table.smallest <= name <= table.largest:
                    asked += 1
                    if key in self._rows[table.id]:
                        return asked
        return asked

    def _next_plan(self, running: Sequence[Plan]) -> Plan | None:
        puts, gets, scans = self._recent
        given = PolicyStatistics(puts=puts, gets=gets, scans=scans, shape=self.shape)
        self.shape = choose(self.version, given, self._options)
        given = PolicyStatistics(puts=puts, gets=gets, scans=scans, shape=self.shape)
        return self._policy(self.version, given, self._options, running)

    def _merge(self, plan: Plan) -> list[TableMeta]:
        rows: dict[int, bool] = {}
        for run in reversed(plan.inputs):
            for table in run.tables:
                rows |= self._rows[table.id]
        keys = sorted(key for key, is_put in rows.items() if is_put or not plan.bottom)
        made, first, size = [], 0, 0
        for last, size_so_far in enumerate(accumulate(_size(rows[key]) for key in keys), 1):
            if size_so_far - size >= plan.table_size or last == len(keys):
                made.append(self._table(rows, keys[first:last], plan.level, plan.run))
                first, size = last, size_so_far
        return made

    def _table(self, rows: dict[int, bool], keys: list[int], level: int, run: int) -> TableMeta:
        """A table of some of ``rows``. All have the same seqs: which is newer, only their places
        tell."""
        self._tables += 1
        held = {key: rows[key] for key in keys}
        puts = sum(held.values())
        table = TableMeta(
            id=table_id(Epoch(1), self._tables),
            level=level,
            run=run,
            size=puts * PUT_SIZE + (len(held) - puts) * DELETE_SIZE,
            checksum=0,
            entries=len(held),
            deletes=len(held) - puts,
            range_deletes=0,
            smallest=keys[0].to_bytes(8),
            largest=keys[-1].to_bytes(8),
            min_seq=1,
            max_seq=2,
            tail_offset=0,
        )
        self._rows[table.id] = held
        return table


def _moved(plan: Plan) -> list[TableMeta]:
    return [replace(table, level=plan.level, run=plan.run) for table in plan.tables]


def _size(is_put: bool) -> int:  # noqa: FBT001 - what a row is
    return PUT_SIZE if is_put else DELETE_SIZE
