"""DB: the handle people hold. Every method is argument checks plus one call down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from msgspec.structs import replace

from seerdb.backups import Backups
from seerdb.errors import FencedError, SeerDBError
from seerdb.forked import keep_from_children, refuse_all
from seerdb.options import DBOptions, Directory, Options, chosen, directory_name
from seerdb.snapshot import Snapshot
from seerdb.storage.batch import Batch, WriteBatch, check_batch, check_key, check_keys
from seerdb.storage.content import ContentDigest, content_digest
from seerdb.storage.engine import Engine
from seerdb.storage.ingest import IngestReport
from seerdb.storage.lease.takeover import Takeover
from seerdb.storage.lookup import Need
from seerdb.storage.outward import check_may_wait
from seerdb.storage.read_side import ReadSide
from seerdb.storage.reads import View
from seerdb.storage.replication.feed import LogCursor, LogFeed
from seerdb.storage.request import (
    LEVELS,
    MEMORY,
    ListSink,
    Outcome,
    Sink,
    Submission,
    level_of,
)
from seerdb.storage.rows import Entry, bounds, entries, key_entries, keys, pairs, rows
from seerdb.storage.runtime import Components
from seerdb.storage.scan import Wanted
from seerdb.storage.status.health import HealthCheck, drill_health, health
from seerdb.storage.status.reports import CompactionReport, FlushReport
from seerdb.storage.status.statistics import Statistics, gather
from seerdb.storage.time_travel import AsOf
from seerdb.storage.value import Shown
from seerdb.storage.verify import VerifyReport


class NeedsIO:
    """The type of :data:`NEEDS_IO`."""

    def __repr__(self) -> str:
        return "NEEDS_IO"


NEEDS_IO: Final = NeedsIO()
"""What a read that must not block returns when it would have to."""


class Reader(ABC):
    """What can be read of an open database, whether or not this process may write to it."""

    def __init__(self, engine: ReadSide) -> None:
        self._engine = engine
        keep_from_children(self, refuse_all)
        engine.sampler.attach(self._serve_gets)

    @abstractmethod
    def _view(self, as_of: AsOf | None) -> View:
        """What a read looks at: now, or then."""

    def _serve_gets(self, try_get: Callable[[bytes], Shown | Need | None]) -> None:
        self._try_get = try_get

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release everything. Idempotent."""
        check_may_wait("closing a database")
        self._engine.sampler.end(self._refuse)
        self._engine.close()

    def _refuse(self, key: bytes) -> Shown | Need | None:
        self._engine.check_open()
        return self._engine.reads.try_get(key)

    def get(  # as a keyword only, an option would cost a hot get a twentieth of its time
        self,
        key: bytes,
        fill_cache: bool = True,  # noqa: FBT001, FBT002
        as_of: AsOf | None = None,
    ) -> bytes | None:
        """The value of ``key``; ``None`` when it is absent. Give the others by their names.

        Where a read takes ``as_of``, it tells what the database was then: after the commit of
        that seq, or at a time, as a ``datetime`` or a float of seconds since 1970. Raises
        ``HistoryError`` where that cannot be told.

        Where a read takes ``fill_cache=False``, what it has to load is kept neither in memory
        nor on disk: for reads of what will not be read again, so that they displace nothing.
        """
        if type(key) is not bytes or not 0 < len(key) <= 65_535:
            check_key(key)
        if as_of is not None:
            return self.multi_get([key], fill_cache=fill_cache, as_of=as_of)[0]
        try_get = self._try_get
        found = try_get(key)
        if isinstance(found, Need):
            found = self._engine.reads.finish(key, found, fill=fill_cache)
        return None if found is None else found[1]

    def get_entry(self, key: bytes, *, fill_cache: bool = True) -> Entry | None:
        """As :meth:`get`, with the sequence number."""
        check_key(key)
        self._engine.check_open()
        return _entry(key, self._engine.reads.get(key, fill=fill_cache))

    def try_get_entry(self, key: bytes) -> Entry | NeedsIO | None:
        """As :meth:`get_entry`, from memory only: never blocks, may return ``NEEDS_IO``."""
        if type(key) is not bytes or not 0 < len(key) <= 65_535:
            check_key(key)
        version = self._try_get(key)
        return NEEDS_IO if isinstance(version, Need) else _entry(key, version)

    def multi_get(
        self, keys: list[bytes], *, fill_cache: bool = True, as_of: AsOf | None = None
    ) -> list[bytes | None]:
        """The values of several keys, in order, all of one moment; blocks that are not in
        memory are fetched in parallel. ``fill_cache`` and ``as_of`` as for :meth:`get`."""
        return [version and version[1] for version in self._get_many(keys, fill_cache, as_of)]

    def multi_get_entries(
        self, keys: list[bytes], *, fill_cache: bool = True, as_of: AsOf | None = None
    ) -> list[Entry | None]:
        """As :meth:`multi_get`, with sequence numbers."""
        return list(map(_entry, keys, self._get_many(keys, fill_cache, as_of)))

    def _get_many(
        self,
        keys: list[bytes],
        fill: bool,  # noqa: FBT001
        as_of: AsOf | None,
    ) -> list[Shown | None]:
        check_keys(keys)
        return self._engine.reads.get_many_at(self._view(as_of), keys, fill=fill)

    def scan(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
        fill_cache: bool = True,
        as_of: AsOf | None = None,
    ) -> Iterator[Any]:
        """Keys and values (or keys, if ``keys_only``) in ``[start, end)`` and with ``prefix``,
        ascending, or descending if ``reverse``; at most ``limit``. ``fill_cache`` and
        ``as_of`` as for :meth:`get`.

        The view is that of the call, whatever is written or expires while the iterator is used.
        """
        view = self._view(as_of)
        wanted = Wanted(*bounds(start, end, prefix), reverse, limit, fill_cache, keys_only)
        chunks = self._engine.reads.scan(view, wanted)
        return rows(chunks, keys if keys_only else pairs, reverse=reverse, limit=limit)

    def scan_entries(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
        fill_cache: bool = True,
        as_of: AsOf | None = None,
    ) -> Iterator[Entry]:
        """As :meth:`scan`, with sequence numbers; values are empty if ``keys_only``."""
        view = self._view(as_of)
        wanted = Wanted(*bounds(start, end, prefix), reverse, limit, fill_cache, keys_only)
        chunks = self._engine.reads.scan(view, wanted)
        return rows(chunks, key_entries if keys_only else entries, reverse=reverse, limit=limit)

    def digest(self, seq: int | None = None, *, second: int | None = None) -> ContentDigest:
        """A digest of all keys and values as of the commit ``seq``, or now: databases that show the
        same have the same. Reads everything. ``second``: what expires by that second since 1970
        does not count, to compare with a digest that was made then."""
        return content_digest(self._engine.reads, self._view(seq), second)

    def snapshot(self) -> Snapshot:
        """The database as it is now, to be read later. Close it: it keeps memory and tables."""
        self._engine.check_open()
        return Snapshot(self._engine)

    @property
    def visible_seq(self) -> int:
        """The newest sequence number that reads see."""
        return self._engine.live.visible_seq

    @property
    def options(self) -> Options:
        """The settings it was opened with."""
        return self._engine.options


class DB(Backups, Reader):
    """An open database; the only writer of its bucket prefix. Use :meth:`open`.

    Thread-safe. Keys are 1 to 65,535 bytes, values 0 bytes to 1 GiB; an empty value is a
    value. Every method that reads or writes raises ``ClosedError`` once closed, or in a forked
    child, and
    ``InvalidRequestError`` for bad arguments, changing nothing. Reads raise
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

    def begin_closing(self) -> None:
        """End what may take hours: merges, for good, and waits for one, and of writes that are held
        back; these raise ``ClosedError``. All else goes on until :meth:`close`, which is to come
        soon. Never waits; from any thread. Idempotent."""
        self._engine.begin_closing()

    def close(self) -> None:
        """Flush what is in memory and release everything. Ends backups in the background.
        Idempotent.

        If the bucket cannot be reached, what is not flushed stays in the local log.
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
        return self._commit(batch.copy(), durability, None) if len(batch) else self.visible_seq

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


def _entry(key: bytes, version: Shown | None) -> Entry | None:
    if version is None or version[1] is None:
        return None
    return Entry(key, version[1], version[0])
