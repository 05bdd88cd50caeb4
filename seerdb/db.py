"""DB: the handle people hold. Every method is argument checks plus one call down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from seerdb.backups import Backups
from seerdb.errors import FencedError, SeerDBError
from seerdb.options import DBOptions, Directory, Options, chosen, directory_name
from seerdb.reader import Reader
from seerdb.storage.batch import Batch, WriteBatch, check_batch
from seerdb.storage.engine.engine import Engine
from seerdb.storage.ingest.run import IngestReport
from seerdb.storage.lease.takeover import Takeover
from seerdb.storage.outward import check_may_wait
from seerdb.storage.read.rows import bounds
from seerdb.storage.replication.feed import LogCursor, LogFeed
from seerdb.storage.runtime import Components
from seerdb.storage.status.health import HealthCheck, drill_health, health
from seerdb.storage.status.reports import CompactionReport, FlushReport
from seerdb.storage.status.statistics import Statistics, gather
from seerdb.storage.verify import VerifyReport
from seerdb.storage.write.request import (
    LEVELS,
    MEMORY,
    ListSink,
    Outcome,
    Sink,
    Submission,
    level_of,
)


class DB(Backups, Reader):
    """An open database; the only writer of its bucket prefix. Use :meth:`open`.

    Thread-safe. Keys are 1 to 65,535 bytes, values 0 bytes to 1 GiB; an empty value is a
    value. Every method that reads or writes raises ``ClosedError`` once closed, or in a forked
    child, and ``InvalidRequestError`` for bad arguments, changing nothing. Reads raise
    ``UnavailableError`` when the bucket is needed and cannot be reached, ``CorruptionError``
    for damaged bytes. Writes raise ``BusyError`` (slow down), ``DiskFullError``,
    ``FencedError`` (another writer took over), ``PoisonedError`` (reopen).

    A write's ``durability`` (default: the setting) says what its acknowledgement survives:
    ``memory`` the death of the process, ``interval`` a power loss but for the last
    ``sync_interval`` seconds, ``local`` a power loss, ``object`` the loss of the machine.
    """

    _engine: Engine

    def __init__(self, engine: Engine) -> None:
        Reader.__init__(self, engine)
        Backups.__init__(self, engine)
        self._level = LEVELS[engine.options.durability]
        self._head = engine.committer.head
        state = engine.manifest.state
        self._feed = LogFeed(
            engine.log,
            engine.components.files,
            f"{engine.opened.directory}/wal",
            identity=(state.database_id, state.epoch),
            newest=lambda: self.visible_seq,
            check=engine.poison.check,
            clock=engine.opened.clock,
        )

    def begin_closing(self, patience: float | None = None) -> None:
        """End what may take hours: merges, for good, and waits for one, and of writes that are held
        back; these raise ``ClosedError``. All else goes on until :meth:`close`, which is to come
        soon. Never waits; from any thread.

        From ``patience`` seconds on nothing waits any more for a bucket that does not answer: what
        is not flushed then stays in the local log. ``None``: a close takes as long as it takes."""
        self._engine.begin_closing(patience)

    def close(self) -> None:
        """Flush what is in memory and release everything. Ends backups in the background.
        Idempotent.

        If the bucket cannot be reached, what is not flushed stays in the local log. So it does in
        a handler of ``atexit``: Python starts no threads any more then. Close before, by ``with``.
        """
        check_may_wait("closing a database")
        self._end_backups()
        super().close()

    @classmethod
    def open(
        cls,
        path: Directory,
        options: Options | DBOptions | None = None,
        *,
        components: Components | None = None,
        **settings: Any,
    ) -> DB:
        """Open or create the database whose local directory is ``path``.

        ``settings`` (see ``docs/configuration.md``) override ``options``. Raises:
        ``InvalidRequestError`` for unknown or bad settings, for a path that is no ``str`` or
        ``os.PathLike`` of one, and for a store that cannot do what safety needs, ``LockedError``
        when another process has the directory, ``UnavailableError``, ``CorruptionError``.
        """
        directory, given = directory_name(path), chosen(options, settings)
        return cls(Engine(directory, given, components or Components()))

    def put(  # as keywords only, options would cost a put in memory a fiftieth of its time
        self,
        key: bytes,
        value: bytes,
        durability: str | None = None,
        expect: int | None = None,
        ttl: float | None = None,
    ) -> int:
        """Set ``key`` to ``value``; returns the commit's sequence number. Give the others by their
        names.

        ``expect``: do it only if the key's seq is that (0: only if it is absent); raises
        ``ConflictError`` otherwise. ``ttl``: in so many seconds, rounded up to the next whole
        second of the clock, the value is gone.
        """
        level = self._level if durability is None else level_of(durability)
        if level == MEMORY and expect is None and ttl is None:
            put_alone = self._head.lone_put  # called by attribute, it would be searched for
            seq = put_alone(key, value)
            if seq:
                return seq
        batch = Batch()
        batch.put(key, value, ttl)
        return self._engine.commit(batch, level, None if expect is None else (key, expect))

    def delete(
        self, key: bytes, *, durability: str | None = None, expect: int | None = None
    ) -> int:
        """Remove ``key``, whether or not it is there; returns the commit's sequence number.

        ``expect``: as for :meth:`put`.
        """
        batch = Batch()
        batch.delete(key)
        return self._commit(batch, durability, None if expect is None else (key, expect))

    def delete_range(self, start: bytes, end: bytes, *, durability: str | None = None) -> int:
        """Remove every key in ``[start, end)`` in one step, however many there are."""
        batch = Batch()
        batch.delete_range(start, end)
        return self._commit(batch, durability, None)

    def merge(self, key: bytes, operand: bytes, *, durability: str | None = None) -> int:
        """Fold ``operand`` into what ``key`` holds, with the setting ``merge_operator``, without
        reading it; returns the commit's sequence number. A value's time to live stays.

        Raises ``InvalidRequestError`` when there is no operator or it refuses the operand. Where
        the value turns out not to fit, reads of the key raise ``MergeError``.
        """
        batch = Batch()
        batch.merge(key, operand)
        return self._commit(batch, durability, None)

    def batch(self, *, durability: str | None = None) -> WriteBatch:
        """A batch to be used with ``with``: committed atomically on leaving, dropped on an
        exception. Its ``seq`` is set then (0 for an empty batch, which commits nothing), and
        it is empty, to be used again."""
        level = self._level if durability is None else level_of(durability)
        return WriteBatch(lambda batch: self._engine.commit(batch, level, None))

    def write(self, batch: Batch, *, durability: str | None = None) -> int:
        """Commit a batch atomically; returns its sequence number (of the newest commit if
        the batch is empty). The batch keeps its operations and may be written again."""
        check_batch(batch)
        if len(batch):
            return self._commit(batch.copy(), durability, None)
        self._engine.check_open()
        return self.visible_seq

    def _commit(
        self, batch: Batch, durability: str | None, expect: tuple[bytes, int] | None
    ) -> int:
        level = self._level if durability is None else level_of(durability)
        return self._engine.commit(batch, level, expect)

    def prepare(self) -> None:
        """Have at hand what the first writes would do without, or wait for: a log segment that is
        not only reserved but written, and a process for flushes where they run in one. Blocks for
        a fraction of a second with a new database; for servers, before they listen."""
        self._engine.runtime.workers.prepare()
        self._engine.background.prepare_log(lambda: not self._head.lacks_next)

    def submit(
        self,
        batch: Batch,
        *,
        durability: str | None = None,
        expect: tuple[bytes, int] | None = None,
        ticket: object = None,
        sink: Callable[[list[Outcome]], None],
    ) -> None:
        """Commit a batch without waiting: for event loops. Takes the operations out of the
        batch, which is empty then; if it raises, the batch is as it was.

        Later, on another thread, ``sink`` is called once per group of commits with a list
        of (ticket, seq or error), for all of the group that gave the same sink; it must be
        quick and not raise. As a listener (see ``events.py``) it may call what does not wait, such
        as this. ``expect``: a key and the seq it must have (0: absent). While a key that is not
        in memory is fetched for this, all writers wait: where :meth:`try_get_entry` says
        ``NEEDS_IO``, call :meth:`get_entry` in a thread first.
        Raises at once what can be told at once, ``BusyError`` among it.
        """
        check_batch(batch)
        submitted = batch.copy()
        submission = submitted, durability, expect, ticket
        for _, error in self.submit_all([submission], ListSink(sink)):
            raise error
        batch.clear()

    def submit_all(
        self, submissions: Iterable[Submission], sink: Sink
    ) -> list[tuple[object, SeerDBError]]:
        """:meth:`submit` each (batch, durability, expect, ticket), and sync the log once for all.
        Returns the tickets of those that are refused, with what :meth:`submit` would raise. The
        batches of the others belong to the database from then on.

        ``sink`` gets an iterable instead of a list, and runs through it once, soon, on a thread of
        its choice: by that the commits become visible, if no other write has made them so before.
        """
        return self._engine.submit(submissions, self._level, sink)

    @property
    def epoch(self) -> int:
        """Of this writer: with a commit's seq, it names the commit for ever."""
        return self._engine.opened.lineage.epoch

    @property
    def is_fenced(self) -> bool:
        """Whether it takes no more writes because another writer took over, or may have."""
        return isinstance(self._engine.poison.cause, FencedError)

    def check_commit(self, epoch: int, seq: int) -> None:
        """Raise ``LostError`` if the commit ``seq`` that a writer of ``epoch`` acknowledged is not
        part of the database any more, because a later one took over without it; ``FencedError`` if
        ``epoch`` is of a writer that took over from this one."""
        self._engine.check_open()
        self._engine.opened.lineage.check(epoch, seq)

    @property
    def takeover(self) -> Takeover:
        """What this opening took over from the writer before, and what that one had that did not
        come along."""
        return self._engine.opened.takeover

    def flush(self) -> FlushReport:
        """Bring everything committed so far into tables of the bucket; waits."""
        before = set(self._table_ids())
        seq = self._engine.flush()
        return FlushReport(last_seq=seq, tables=sorted(set(self._table_ids()) - before))

    def compact(self, start: bytes | None = None, end: bytes | None = None) -> CompactionReport:
        """Flush, then merge what lies in ``[start, end)``; waits. Without bounds all tables become
        one sorted run, and what a clone borrows becomes its own.

        With a bound only tables that overlap the range are rewritten: those that reach out of it
        are cut at its borders, and what is inside is merged into the oldest run of it, where
        tombstones that hide nothing any more are dropped. The report tells of all tables that went
        and came meanwhile.
        """
        self._engine.check_open()
        low, high = bounds(start, end, None)
        before = set(self._table_ids())
        self._engine.compact(low, high)
        after = set(self._table_ids())
        return CompactionReport(removed=sorted(before - after), added=sorted(after - before))

    def ingest(self, pairs: Iterable[tuple[bytes, bytes]]) -> IngestReport:
        """Put many pairs at once, past log and memory: sorted tables are built and come into
        effect in one step, under one seq, durable in the bucket. For loads of any size.

        The pairs may come in any order; of equal keys the last counts. Memory is bounded; what
        does not fit is sorted on the local disk, in ``ingest/`` beside the log. Reads go on, and
        writes wait only while the end is made. Raises also whatever ``pairs`` raises. After any
        error nothing was changed, with one exception: after ``UnavailableError`` all of it may
        have come into effect, or may yet when the bucket answers again. Ingesting the same
        again does no harm.
        """
        return self._engine.ingest(pairs)

    def _table_ids(self) -> list[str]:
        return [table.id for table in self._engine.manifest.state.version.tables]

    def stats(self) -> Mapping[str, Any]:
        """What there is and what happened since the open, as plain nested data."""
        return self.statistics().to_builtins()

    def statistics(self) -> Statistics:
        """As :meth:`stats`, typed."""
        numbers = gather(self._engine)
        return replace(numbers, drills=self._drills.statistics, log_digest=self._feed.mark)

    def health(self) -> list[HealthCheck]:
        """Named checks of what the database needs to work."""
        return [*health(self._engine), *drill_health(self._drills.statistics)]

    def follow(self, seq: int) -> LogCursor:
        """The durable log from ``seq`` on, as followers read it live. Close it."""
        self._engine.check_open()
        return self._feed.cursor(seq)

    def verify(self) -> VerifyReport:
        """Check every checksum and invariant of tables, manifest and log; changes nothing.

        Reads all tables from the bucket. Damage is in the report, not raised.
        """
        self._engine.check_open()
        return self._engine.verify()
