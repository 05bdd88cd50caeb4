"""A simulated tree in which time passes: memtables take their time to fill, and merges to run.

What is flushed while a merge runs has to wait for the next one, which then takes more runs at once
and so writes less for each. Writes are held back as the engine holds them back, the more the more
runs wait for a merge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.simulator.tree import Merge, SimulatedTree
from seerdb.storage.write.pressure import MAX_RUNS, URGENT_RUNS, Gauge, Reason, rate


@dataclass(frozen=True)
class Speeds:
    """How fast a database takes in writes and merges them."""

    flush_seconds: float
    """From one flush to the next, where writes are not held back."""
    log_bytes: float
    """Of the log for each flush, which is what is held back; of the database, not of the tree."""
    merge_seconds: float
    """For each byte of the tree that a merge reads or writes; 0: merges take no time."""
    slots: int = 1
    """How many merges run at once."""
    merges_here: bool = True
    """Whether they share the interpreter with writers."""


@dataclass(eq=False)
class _Running:
    merge: Merge
    seconds_left: float


class TimedTree:
    """``tree`` under a load that writes as fast as it may."""

    def __init__(self, tree: SimulatedTree, speeds: Speeds) -> None:
        self._tree = tree
        self._speeds = speeds
        self._running: list[_Running] = []
        self.seconds = 0.0
        """Since the load began."""

    def flush(self, writes: Sequence[tuple[int, bool]]) -> None:
        """Fill a memtable, wait where there are too many runs, flush it, and begin what is due."""
        unfilled = 1.0
        while unfilled * self._fill_seconds() > self._until_next():
            unfilled -= self._until_next() / self._fill_seconds()
            self._end_next()
        self._pass(unfilled * self._fill_seconds())
        while self._waiting_runs() >= MAX_RUNS:
            self._end_next()
        self._tree.flush(writes)
        self._tree.count(len(writes), 0, 0)
        self._begin()

    def rest(self) -> None:
        """Let the merges come to their end, and those that are due then."""
        while self._running:
            self._end_next()

    def _fill_seconds(self) -> float:
        """For a whole memtable, with as many runs as there are now."""
        runs = self._waiting_runs()
        severity = Gauge(Reason.RUNS, runs, URGENT_RUNS, MAX_RUNS, "").severity
        held_back = self._speeds.log_bytes / rate(severity) if severity else 0.0
        return self._speeds.flush_seconds + held_back

    def _waiting_runs(self) -> int:
        """As the engine counts them: what the policy leaves as it is waits for nothing, nor does
        what another process merges."""
        runs = self._tree.version.runs
        if not self._running or self._speeds.merges_here:
            return len(runs) if self._running else 0
        merging = {table.id for each in self._running for table in each.merge.plan.tables}
        return sum(any(table.id not in merging for table in run.tables) for run in runs)

    def _until_next(self) -> float:
        """Seconds until the next merge ends."""
        return min((each.seconds_left for each in self._running), default=float("inf"))

    def _pass(self, seconds: float) -> None:
        self.seconds += seconds
        for each in self._running:
            each.seconds_left -= seconds

    def _end_next(self) -> None:
        self._pass(self._until_next())
        ended = min(self._running, key=lambda each: each.seconds_left)
        self._running.remove(ended)
        self._tree.finish(ended.merge)
        self._begin()

    def _begin(self) -> None:
        """What is due, in the slots that are free; what takes no time is done at once."""
        while len(self._running) < self._speeds.slots:
            merge = self._tree.begin([each.merge for each in self._running])
            if merge is None:
                return
            seconds = merge.size * self._speeds.merge_seconds
            if seconds:
                self._running.append(_Running(merge, seconds))
            else:
                self._tree.finish(merge)
