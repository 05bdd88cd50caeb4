"""The part of ``DB`` that is about other states than the newest: checkpoints, time travel."""

from __future__ import annotations

from functools import partial

from seerdb.storage.batch import check_key
from seerdb.storage.engine.engine import Engine
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.outward import check_may_wait
from seerdb.storage.past.in_place import InPlace, InPlaceReport, Parts
from seerdb.storage.past.time_travel import AsOf, Sources, TimeTravel
from seerdb.storage.past.versions import KeyVersion
from seerdb.storage.read.reads import View
from seerdb.storage.retention.checkpoints import Checkpoint, Checkpoints


class Past:
    """What :class:`~seerdb.db.DB` inherits; not to be used by itself."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        opened, components = engine.opened, engine.components
        self._checkpoints = Checkpoints(
            engine.stores.of(Purpose.MANIFEST),
            engine.manifest,
            engine.flush,
            opened.clock,
            components,
        )
        store = engine.stores.of(Purpose.READ)
        self._time_travel = TimeTravel(
            Sources(
                store=store,
                manifest=engine.manifest,
                tables=engine.tables,
                files=components.files,
                wal=f"{opened.directory}/wal",
                position=engine.committer.position,
                clock=opened.clock,
                operator=opened.operator,
                new_row_cache=engine.runtime.new_row_cache,
                call_later=engine.runtime.workers.timer.call_later,
                fetch_many=partial(engine.tables.fetch_all, store.get),
            ),
            engine.options.history_retention,
        )
        self._in_place = InPlace(
            Parts(
                live=engine.live,
                committer=engine.committer,
                publisher=engine.publisher,
                compactor=engine.compactor,
                merges=engine.background.compaction,
                collector=engine.collector,
                checkpoints=self._checkpoints,
                outputs=engine.outputs,
                runner=engine.runner,
                manifest=engine.manifest,
                tables=engine.tables,
                store=engine.stores.of(Purpose.BACKUP),
                table_format=engine.table_format,
                wal=f"{opened.directory}/wal",
                retention=engine.options.history_retention,
                clock=opened.clock,
                listener=components.listener,
                flushed=engine.flushed,
            )
        )

    def _view(self, as_of: AsOf | None) -> View:
        """What a read looks at: now, or then."""
        self._engine.check_open()
        return self._engine.reads.view() if as_of is None else self._time_travel.view(as_of)

    def seq_at(self, as_of: AsOf) -> int:
        """The newest commit that counts as of an instant; raises as reads ``as_of`` it."""
        return self._view(as_of).at

    def history(self, key: bytes) -> list[KeyVersion]:
        """Every version of ``key`` within ``history_retention``, oldest first, at the beginning the
        one that was in effect then. Reads all of the log since then.

        Raises ``HistoryError``, and what reads raise.
        """
        check_key(key)
        self._engine.check_open()
        return self._time_travel.versions(key, self._engine.reads)

    def restore_in_place(
        self, as_of: AsOf | None = None, *, checkpoint: str | None = None, dry_run: bool = False
    ) -> InPlaceReport:
        """Have the database be again what it was at an instant, named as for reads, or as a
        checkpoint keeps it. It is a commit: what came before stays in the past, and later writes
        follow it. What it replaces is kept by a new checkpoint; restore that to undo it.

        Tables are not copied: it takes a second or so, and as long as a flush of the log that leads
        from the tables of then to the instant. Writers wait only while the end is made; merges
        under way are given up, and planned anew. What has expired since then stays gone.
        As a ``dry_run`` it only says what would be done.

        Raises ``HistoryError`` for what cannot be told any more, ``NotFoundError`` for a checkpoint
        that is not there, ``InvalidRequestError``. After any error nothing was changed, with one
        exception: after ``UnavailableError`` it may have come into effect, or may yet when the
        bucket answers again.
        """
        check_may_wait("a restore in place")
        self._engine.check_open()
        self._engine.poison.check()
        with self._engine.background.telling_of_the_fence("restore in place"):
            return self._in_place.restore(as_of, checkpoint, dry_run=dry_run)

    def checkpoint(
        self, name: str | None = None, expires: float | None = None, *, flush: bool = True
    ) -> Checkpoint:
        """Keep the database as it is now, under ``name`` (default: the time and the seq), for
        ``expires`` seconds or until it is dropped. Flushes first; without ``flush`` it shows what
        the tables hold by now. Costs a few requests and copies nothing.

        Raises ``InvalidRequestError``, ``AlreadyExistsError``, ``BusyError``; after
        ``UnavailableError`` it may be there or not.
        """
        self._engine.check_open()
        return self._checkpoints.create(name, expires, flush=flush)

    def checkpoints(self) -> list[Checkpoint]:
        """What is kept, by name."""
        self._engine.check_open()
        return self._checkpoints.all()

    def drop_checkpoint(self, name: str) -> None:
        """Keep a checkpoint no longer. Raises ``NotFoundError``."""
        self._engine.check_open()
        self._checkpoints.drop(name)
