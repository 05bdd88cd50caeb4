"""How much a tree under a load should write, by three models, beside how much it writes.

By the book: what the cost model of the policy says of trees of these sizes. Simulated: what the
policy does where merges take no time. Modelled: what it does where a merge takes as long as it
takes, and flushes go on meanwhile. The last one is given sizes and *speeds* of the load, and never
what its merges were or how much they wrote for each byte that came in.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from time import perf_counter

from benchmarks.simulator.loads import FLUSH_ENTRIES
from benchmarks.simulator.timed import Speeds, TimedTree
from benchmarks.simulator.tree import FLUSH_SIZE, SimulatedTree
from seerdb import DB
from seerdb.storage.compaction.policy.cost import levels, write_amplification
from seerdb.storage.compaction.policy.given import LAZY_LEVELED, PolicyOptions
from seerdb.storage.status.statistics import Statistics
from seerdb.storage.workers.processes import PROCESSES, Pool
from seerdb.storage.write.pressure import Reason

BYTES_A_GIGABYTE = 1e9


class WriteModel:
    """The models of the tree of one database, which is watched while it grows.

    As in the simulator, the beginning does not count: a small tree is hardly merged at all.
    """

    def __init__(self, db: DB, key_share: float) -> None:
        """``key_share``: different keys for each entry that is written. The load begins now."""
        self._db = db
        self._key_share = key_share
        self._options = PolicyOptions.of(db.options, has_merges=False)
        self._started = perf_counter()
        self._seconds = 0.0
        self._warm = self._loaded = db.statistics()
        self._flushed = 0
        self._written = 0.0

    def begin(self) -> None:
        """Count from now on."""
        self._warm = self._db.statistics()
        self._flushed = self._warm.flushes.bytes
        self._written = 0.0

    def look(self) -> None:
        """Count what was flushed since the last look as written to a tree of this size. The load
        ends with the last look that finds a flush."""
        statistics = self._db.statistics()
        flushed = statistics.flushes.bytes
        if flushed > self._flushed:
            self._seconds, self._loaded = perf_counter() - self._started, statistics
            count = levels(statistics.table_bytes, self._options)
            each = write_amplification(LAZY_LEVELED, count, self._options.size_ratio)
            self._written += (flushed - self._flushed) * each
            self._flushed = flushed

    def amplifications(self, end: Statistics) -> dict[str, float]:
        """Measured up to ``end``, at rest, and by the three models; and the speeds."""
        flushed = end.flushes.bytes - self._warm.flushes.bytes
        merged = end.compactions.bytes_written - self._warm.compactions.bytes_written
        speeds = self._speeds()
        write, modelled = 1 + merged / flushed, self._replayed(end, speeds)
        return {
            "write": write,
            "write_textbook": self._written / flushed,
            "write_simulated": self._replayed(end, replace(speeds, merge_seconds=0.0)),
            "write_modelled": modelled,
            "write_off_percent": abs(write / modelled - 1) * 100,
            "flush_seconds": speeds.flush_seconds,
            "merge_seconds_per_gb": speeds.merge_seconds * BYTES_A_GIGABYTE,
        }

    def _speeds(self) -> Speeds:
        """Of this database under the load, not at rest; bytes are its own, those of merges too."""
        load = self._loaded
        held_back = sum(
            each.slowed_seconds + each.stopped_seconds
            for each in load.stalls.reasons
            if each.reason == Reason.RUNS
        )
        merges, running = load.compactions, [job for job in load.jobs if job.rate]
        merged = merges.bytes_read + merges.bytes_written
        merged += sum(job.bytes_read + job.bytes_written for job in running)
        seconds = merges.seconds
        seconds += sum((job.bytes_read + job.bytes_written) / job.rate for job in running)
        elsewhere = self._db.options.background == "process"
        return Speeds(
            flush_seconds=(self._seconds - held_back) / load.flushes.flushes,
            log_bytes=load.wal.appended_bytes / load.flushes.flushes,
            merge_seconds=seconds / max(1, merged),
            slots=PROCESSES[Pool.MERGES] if elsewhere else 1,
            merges_here=not elsewhere,
        )

    def _replayed(self, end: Statistics, speeds: Speeds) -> float:
        """As many flushes, of keys that are overwritten as often, in proportion."""
        flushes = end.flushes.flushes
        scale = FLUSH_SIZE * flushes / end.flushes.bytes
        tree, random = SimulatedTree(LAZY_LEVELED, self._scaled(scale)), Random(1)
        seconds = speeds.merge_seconds / scale
        timed = TimedTree(tree, replace(speeds, merge_seconds=seconds))
        keys = max(1, round(flushes * FLUSH_ENTRIES * self._key_share))
        flushed = merged = 0
        for number in range(flushes):
            if number == self._warm.flushes.flushes:
                flushed, merged = tree.flushed, tree.merged
            timed.flush([(random.randrange(keys), True) for _ in range(FLUSH_ENTRIES)])
        timed.rest()
        return 1 + (tree.merged - merged) / (tree.flushed - flushed)

    def _scaled(self, scale: float) -> PolicyOptions:
        options = self._options
        return PolicyOptions(
            base_size=max(1, round(options.base_size * scale)),
            table_size=max(1, round(options.table_size * scale)),
            block_size=max(1, round(options.block_size * scale)),
        )
