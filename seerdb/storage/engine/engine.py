"""An open database: its life, and what may be asked of it.

Opening has made a consistent start (``opening/steps.py``), and the parts stand together
(``assembly.py``); this starts the lanes, and takes everything down again.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from threading import Lock

from seerdb.errors import ClosedError, FencedError, SeerDBError
from seerdb.events import WorkFailed
from seerdb.options import Options
from seerdb.storage.batch import Batch
from seerdb.storage.engine.assembly import Assembly
from seerdb.storage.ingest.run import IngestReport
from seerdb.storage.lease.watch import Bid
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.outward import check_may_wait
from seerdb.storage.runtime import Components
from seerdb.storage.tiers.heat import save_heat
from seerdb.storage.verify import LocalLog, VerifyReport, verify_open
from seerdb.storage.workers.threads import Thread
from seerdb.storage.write.request import OBJECT, Sink, Submission, check_expectation

LOOK_SECONDS = 60.0
"""How often it is looked for what reads alone or the time that passes make due, which wake nobody:
by the adaptive policy, and where values expire."""


class Engine(Assembly):
    """One open database. Thread-safe, except that ``close`` is for one thread."""

    def __init__(
        self, path: str, options: Options, components: Components, bid: Bid | None = None
    ) -> None:
        super().__init__(path, options, components, bid)
        self._inbox_thread: Thread | None = None
        self._start_lock = Lock()
        self._closed = False
        try:
            components.listener(self.opened.event)
            self._start()
        except BaseException:
            self.begin_closing()
            self.background.close()
            self._give_up()
            raise

    def _start(self) -> None:
        self.retention.flushed(self.opened.recovery.release)
        self.background.log.wake()
        self.background.flush.wake()
        self.background.compaction.wake()
        telling = partial(self.background.telling_of_the_fence, "ship")
        self.shipping.attach(self.background.ship, self.committer.position, telling)
        self.background.begin_warm_up()
        if not self.runtime.workers.is_inline:
            self._look_later()

    def _look_later(self) -> None:
        self.runtime.workers.timer.call_later(LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        if not self._closed:
            self._look_later()  # first, for the wake may find no thread, and raise
            if self.options.compaction == "adaptive" or self.publisher.expires:
                self.background.compaction.wake()

    # What the handle needs.

    def commit(self, batch: Batch, level: int, expect: tuple[bytes, int] | None = None) -> int:
        """Commit and wait until durable as ``level`` says; see :meth:`Committer.commit`."""
        self.check_open()
        if expect is not None:
            check_expectation(expect)
            # So that the check, for which all other writers wait, finds it in memory.
            self.reads.seq_of(expect[0])
        seq = self.committer.commit(batch, level, expect)
        if level == OBJECT:
            self.shipper.ship(seq)
        return seq

    def submit(
        self, submissions: Iterable[Submission], level: int, sink: Sink
    ) -> list[tuple[object, SeerDBError]]:
        """Commit without waiting; see :meth:`Pipeline.submit`."""
        self.check_open()
        if self._inbox_thread is None:
            self._serve_inbox()
        return self.committer.pipeline.submit(submissions, level, sink)

    def _serve_inbox(self) -> None:
        with self._start_lock:
            self.check_open()
            if self._inbox_thread is None:
                self._inbox_thread = self.runtime.workers.start_loop(
                    self.committer.pipeline.serve, "seerdb-commit"
                )

    def flush(self) -> int:
        """Bring everything committed so far into tables; returns the seq they reach.

        Raises: what made the flush fail, after its first failed attempt.
        """
        check_may_wait("a flush")
        self.check_open()
        self.flushed(self.committer.rotate())
        return self.manifest.state.last_seq

    def flush_and_ship(self) -> None:
        """As :meth:`flush`, and bring the log up to there into the bucket, if it is shipped."""
        self.shipper.finish(self.flush())

    def ingest(self, pairs: Iterable[tuple[bytes, bytes]]) -> IngestReport:
        """Show all pairs at once, in tables of their own; see :meth:`Ingester.ingest`."""
        check_may_wait("an ingest")
        self.check_open()
        self.poison.check()
        with self.background.telling_of_the_fence("ingest"):
            report = self.ingester.ingest(pairs)
        self.background.compaction.wake()
        self.background.begin_warm_up()
        return report

    def compact(self, start: bytes | None = None, end: bytes | None = None) -> None:
        """Flush, then merge everything that lies in ``[start, end)``, without bounds into one run.

        Raises: what makes it fail, or what it waits for, though it is tried again by itself.
        """
        self.flush()
        request, lane = self.compactor.ask(start, end), self.background.compaction
        lane.wake_and_outwait(lambda: request.is_over, lambda: self.compactor.is_paused)
        if not request.is_done:
            self._raise_for(lane, request.error)

    def verify(self) -> VerifyReport:
        """Check the current version and the log; see ``verify.py``."""
        log = LocalLog(self.components.files, f"{self.opened.directory}/wal")
        store = self.stores.of(Purpose.VERIFY)
        return verify_open(store, self.live, log, self.manifest.state.log_start)

    def check_open(self) -> None:
        """Raise ``ClosedError`` when it is closed."""
        if self._closed:
            raise ClosedError("the database is closed; open it again")

    def begin_closing(self, patience: float | None = None) -> None:
        """See :meth:`seerdb.DB.begin_closing`."""
        if patience is not None:
            self.patience.begin(patience)
        self.background.begin_closing(self.compactor.cancel)

    def close(self) -> None:
        """Flush, leave a checkpoint and release everything; merges are cancelled. Idempotent.

        When the bucket cannot be reached the log keeps what is not flushed; nothing is lost.
        """
        if self._closed:
            return
        self.begin_closing()
        try:
            if self.poison.cause is None:
                self._close_cleanly()
        finally:
            with self._start_lock:
                self._closed = True
            self._release()

    def _close_cleanly(self) -> None:
        self.publisher.warms = False
        try:
            self.flush()
            self.shipper.finish()
            self.retention.let_go()
            self.background.flush.close()
            self.background.compaction.close()
            self.manifest.checkpoint()
            if heat := self.warm_up.heat():
                save_heat(self.components.files, self._cache_directory, heat)
        except FencedError as error:
            self.background.failed("close", error, 1, 0)
        except SeerDBError as error:
            self.components.listener(WorkFailed("close", str(error), 1, 0.0))
            self.committer.position()

    def _release(self) -> None:
        self.poison.set(ClosedError("the database is closed; open it again"))
        if self._inbox_thread is not None:
            self.committer.pipeline.stop()
            self._inbox_thread.join()
        self.background.close()
        try:
            self.shipper.close()
        finally:
            self._let_go()
