"""The parts of a merge: key ranges, each done by a job of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from seerdb.clock import ForwardClock
from seerdb.errors import ClosedError
from seerdb.ids import TableId
from seerdb.storage.compaction.plan import Plan, between
from seerdb.storage.compaction.run import CompactionJob, CompactionResult, run_compaction
from seerdb.storage.flush.publish import Publisher
from seerdb.storage.flush.run import TableFormat
from seerdb.storage.jobs.control import JobControl, JobCounts
from seerdb.storage.jobs.runners import JobRunner
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.retention.outputs import TableOutputs
from seerdb.storage.value import SECOND_US


@dataclass(eq=False)
class Part:
    """A key range of a plan, merged apart; ``None``: no bound."""

    start: bytes | None
    end: bytes | None
    control: JobControl = field(default_factory=JobControl)
    is_running: bool = False
    result: CompactionResult | None = None
    """Of the job that is done. It counts once all parts are."""
    seconds: float = 0.0
    """That this job took."""

    @property
    def is_left(self) -> bool:
        """Whether it is to be merged, and nobody does."""
        return not self.is_running and self.result is None

    def finish(self, result: CompactionResult | None, seconds: float) -> None:
        """Its job has ended; ``None``: in vain."""
        if result is None:
            self.leave()
        else:
            self.is_running, self.result, self.seconds = False, result, seconds

    def leave(self) -> None:
        """It is to be merged again, and what was done does not count."""
        self.is_running, self.result, self.seconds = False, None, 0.0
        self.control.counts = JobCounts()


class PartMerger:
    """Makes the jobs and has them run. Thread-safe."""

    def __init__(
        self,
        publisher: Publisher,
        outputs: TableOutputs,
        runner: JobRunner,
        *,
        table_format: TableFormat,
        requests: int,
        clock: ForwardClock,
    ) -> None:
        """``requests``: how many may be under way beside the work of a job; 1: none, it
        waits for each."""
        self._publisher = publisher
        self._outputs = outputs
        self._runner = runner
        self._format = table_format
        self._requests = requests
        self._clock = clock

    def run(self, plan: Plan, part: Part) -> CompactionResult:
        """Merge one part; blocks until its job is done. Its tables are in use, and pinned where
        they are to be, until somebody lets go of them. Raises: what the job raises; ``ClosedError``
        when it is cancelled."""
        if part.control.is_cancelled:
            raise ClosedError("the merge was cancelled; what it has made so far does not count")
        start, end = part.start, part.end
        outputs = self._outputs.begin(CompactionJob.outputs_needed(plan, start, end))
        settled = self._clock.settled_us() // SECOND_US  # before looking where operands are
        made: tuple[TableMeta, ...] = ()
        size = sum(run.size for run in between(plan.inputs, start, end))
        try:
            with self._room_for_copies(plan, size, outputs) as copies:
                job = CompactionJob(
                    plan,
                    start,
                    end,
                    outputs,
                    self._format,
                    now_us=self._clock.now_us(),
                    forgotten=min(settled, self._publisher.merged_elsewhere(plan.tables)),
                    expiring_below=self._publisher.expires,
                    copies=copies,
                    requests=self._requests,
                )
                result = self._runner.run(run_compaction, job, Purpose.COMPACTION, part.control)
                made = result.tables
                self._publisher.pins.adopt(made)
        finally:
            self._outputs.finish(set(outputs) - {table.id for table in made})
        return result

    def _room_for_copies(
        self, plan: Plan, size: int, outputs: Sequence[TableId]
    ) -> AbstractContextManager[str | None]:
        """Where the job sees the local disk."""
        if not self._runner.shares_disk:
            return nullcontext()
        return self._publisher.pins.room(plan.level, size, outputs)
