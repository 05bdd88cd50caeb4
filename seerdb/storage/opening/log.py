"""The log that an opening goes on with: that of the local disk, completed from the bucket, or the
shipped one, where the data directory does not continue the manifest."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from seerdb.errors import ConflictError, DiskError
from seerdb.events import LogOvertaken
from seerdb.options import Options
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.opening.overtaken import find_overtaken, in_words
from seerdb.storage.opening.recovery import Recovery, quarantine, recover
from seerdb.storage.operators import MergeOperator
from seerdb.storage.runtime import Components
from seerdb.storage.shipping.shipped import list_shipped, newest_shipped, read_shipped
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.home import Home, save_home
from seerdb.storage.wal.repair import frame_bodies
from seerdb.storage.wal.replay import Replay
from seerdb.storage.wal.segments import list_segments, segment_path
from seerdb.storage.wal.writer import LogWriter
from seerdb.storage.workers.threads import Workers


class OpeningLog:
    """The log of a data directory while a database is opened in it. For one thread.

    :meth:`continued` or :meth:`adopted` tells what there is, then :meth:`rewrite` and
    :meth:`put_apart` what becomes of it.
    """

    def __init__(
        self,
        path: str,
        options: Options,
        components: Components,
        workers: Workers,
        shipped: ObjectStore,
    ) -> None:
        """``path``: the data directory. ``shipped``: where the bucket has the log."""
        self._wal = f"{path}/wal"
        self._quarantine = f"{path}/quarantine"
        self._options = options
        self._components = components
        self._files = components.files
        self._workers = workers
        self._shipped = shipped
        self.shipped_records = 0
        """How many of its records came from the bucket."""
        self.shipped_seq = 0
        """Up to here it was shipped before."""
        self.overtaken: LogOvertaken | None = None
        """What was here and is not gone on with."""
        self.quarantined: list[str] = []
        """The files that were put apart."""

    @property
    def _strict(self) -> bool:
        return self._options.recovery == "strict"

    def check_lost(self, state: ManifestState | None) -> None:
        """Refuse to go on without writes of a log that another writer has overtaken.

        Raises: ``ConflictError``.
        """
        self._refuse_loss(self._find_overtaken(state))

    def _find_overtaken(
        self, state: ManifestState | None, reach: int | None = None
    ) -> LogOvertaken | None:
        return find_overtaken(self._files, self._wal, self._shipped, state, reach)

    def _refuse_loss(self, log: LogOvertaken | None) -> None:
        if log is None or log.nothing_lost:
            return
        raise ConflictError(
            f"another data directory has taken this database over; {in_words(log)}; "
            "`seerdb inspect wal` shows what was written; open with recovery='salvage', or as a "
            "standby, to move that log to quarantine/ and go on without it"
        )

    def continued(
        self,
        state: ManifestState,
        operator: MergeOperator | None,
        *,
        contested_seq: int | None,
        is_new: bool,
    ) -> Recovery:
        """The log that is here; and of one that is not new what was shipped of it and this disk has
        lost, but nothing after ``contested_seq``, where it branches off."""
        recovery = self._recover(state, operator, contested_seq)
        if contested_seq is not None:
            branches = (contested_seq, recovery.branch_seq)
            recovery.branch_seq = min(each for each in branches if each is not None)
        if not is_new:
            self._complete(state, recovery, contested_seq)
        return recovery

    def _recover(
        self, state: ManifestState, operator: MergeOperator | None, contested_seq: int | None
    ) -> Recovery:
        def missing(after: int, upto: int) -> list[Record]:
            if contested_seq is not None and upto > contested_seq:
                return []  # a copy of this home may have shipped it
            listed = [each for each in list_shipped(self._shipped) if each.first <= upto]
            found = read_shipped(
                self._shipped, state.database_id, after, strict=False, listed=listed
            )
            return [record for record in found.records if record[0] <= upto]

        options = self._options
        recovery = recover(
            self._files,
            self._wal,
            database_id=state.database_id,
            mode=options.recovery,
            log_start=state.log_start,
            flushed_seq=state.last_seq,
            memtable_capacity=options.memtable_capacity,
            operator=operator,
            missing=missing,
        )
        self.shipped_records = recovery.filled
        return recovery

    def _complete(
        self, state: ManifestState, recovery: Recovery, contested_seq: int | None
    ) -> None:
        """Take from the bucket what was shipped of this home's log and its disk has lost; but
        nothing where a copy may have shipped it, or no more than a point in time is wanted."""
        listed = list_shipped(self._shipped)
        newest = newest_shipped(listed)
        wanted = recovery.branch_seq is None or self._options.recovery == "salvage"
        if wanted and contested_seq is None and newest > recovery.last_seq:
            lost = read_shipped(
                self._shipped,
                state.database_id,
                recovery.last_seq,
                strict=self._strict,
                listed=listed,
            )
            self._take_shipped(recovery, lost.records)
            if lost.sound_seq < newest and recovery.branch_seq is None:
                recovery.branch_seq = lost.sound_seq
        if recovery.damages and recovery.branch_seq is None:
            recovery.branch_seq = recovery.last_seq
        branch = recovery.branch_seq
        self.shipped_seq = min(newest, recovery.last_seq if branch is None else branch)

    def _take_shipped(self, recovery: Recovery, records: list[Record]) -> None:
        self.shipped_records += len(records)
        if records:
            recovery.relog += records
            recovery.last_seq, recovery.last_timestamp_us, _ = records[-1]

    def adopted(self, state: ManifestState, home: Home, *, needs_all: bool) -> Recovery:
        """Begin a home with the log in the bucket; a log that was here before is put apart.

        The home is complete only when that log is durable here: until then the next opening
        begins anew. What comes out of a damaged object is behind the branch, which voids that, and
        is shipped anew.
        """
        shipped = read_shipped(
            self._shipped,
            state.database_id,
            state.last_seq,
            strict=self._strict,
            fetch=partial(self._workers.fetchers.map, self._shipped.get),
        )
        segments = list_segments(self._files, self._wal)
        recovery = Recovery(last_seq=state.last_seq, last_segment=max(segments, default=0))
        self._take_shipped(recovery, shipped.records)
        recovery.branch_seq = self.shipped_seq = shipped.sound_seq
        overtaken = self._find_overtaken(state, recovery.last_seq)
        if needs_all:
            self._refuse_loss(overtaken)  # once more: others may have claimed in between
        if overtaken is not None:
            self.overtaken = replace(overtaken, directory=self._quarantine)
            self._components.listener(self.overtaken)
        self.put_apart(segments)
        save_home(self._files, self._wal, home)
        return recovery

    def put_apart(self, segments: list[int]) -> None:
        """Move segments to where nobody reads them by himself."""
        self.quarantined += quarantine(self._files, self._wal, self._quarantine, segments)

    def rewrite(
        self,
        log: LogWriter,
        segment: int,
        recovery: Recovery,
        flushed_seq: int,
        operator: MergeOperator | None,
    ) -> None:
        """Write records that were saved to a segment of their own, which replaces where they
        were. One that fails is removed: all of them are still there."""
        records = recovery.relog
        before = recovery.memtables[-1].last_seq if recovery.memtables else flushed_seq
        # No later than what came before: what was lost in between is no gap in the log.
        first = before + 1
        log.start(segment, first)
        try:
            for body in frame_bodies(log.salt, records):
                log.append(body)
            log.seal(records[-1][0], len(records))
        except BaseException:
            log.close()
            with suppress(DiskError):
                self._files.remove(segment_path(self._wal, segment))
            raise
        log.close()
        replay = Replay(operator=operator)
        replay.take(records)
        recovery.memtables.append(replay.memtable([segment]))
