"""What a follower shows: the tables of a manifest state, and in memtables the log after them.

Memtables end where the writer's segments end, which is where its memtables and so its flushes end:
a newer state covers whole memtables, and they are dropped. Should it end within one, that one is
kept whole, since its versions are the newest of their keys all the same. Unless it has operands,
which would be folded twice: then the state is not shown before a later one, or the end of the
memtable, makes it fit.

What was taken may turn out void, when another home takes the database over (see
``shipping/shipped.py``). So it is remembered how far each epoch's log was taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seerdb.clock import ForwardClock
from seerdb.errors import CorruptionError
from seerdb.storage.entry import DELETE, PUT
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.memtable import ENTRY_OVERHEAD, Memtable, points_of
from seerdb.storage.operators import MergeOperator
from seerdb.storage.read.layout import Layout
from seerdb.storage.read.state import LiveState, State
from seerdb.storage.replication.compare import Flush, compare
from seerdb.storage.replication.running import AppliedDigest, Commit, Mark
from seerdb.storage.replication.shipped import Listing, Piece
from seerdb.storage.tiers.row_cache import RowCache
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.wal.columns import Record
from seerdb.storage.wal.format import SINGLE, decode_batch

APPLIED_AT_ONCE = 256
"""Records between two moments in which snapshots may be taken."""


def gap(expected: int, found: int) -> CorruptionError:
    """The error that names what is missing of the log."""
    return CorruptionError(
        "the log has a gap",
        name="the followed log",
        expected=f"seq {expected}",
        found=f"seq {found}",
        hint="it closes when the missing log is shipped, or when its writes are in tables",
    )


class Contents:
    """The state that readers of a follower look at, and how it changes. One thread at a time;
    readers need not wait."""

    def __init__(
        self,
        state: ManifestState,
        tables: TableStore,
        rows: RowCache,
        clock: ForwardClock,
        operator: MergeOperator | None,
    ) -> None:
        self._tables = tables
        self._rows = rows
        self._clock = clock
        self.operator = operator
        layout = Layout(state.version, tables, rows)
        self.live = LiveState(State(Memtable([], operator), (), layout), state.last_seq)
        self._flushed = int(state.last_seq)
        """Up to here all is in the tables that are shown."""
        self._source = (0, 0)
        """Epoch and segment of what the active memtable holds."""
        self._taken: dict[int, int] = {}
        """By epoch, the last seq above the tables that came from it."""
        self._epochs: list[tuple[Memtable, int]] = []
        """From which epoch's log each memtable comes."""
        self.diverged: CorruptionError | None = None
        """Why nothing more is shown."""
        self.compared_seq = 0
        """The newest commit of those that were found to be what the writer has."""
        self.applied = AppliedDigest()
        self._pass_time(state.time_us)

    @property
    def seq(self) -> int:
        """The newest commit that is shown."""
        return self.live.visible_seq

    def take(self, piece: Piece) -> int | None:
        """Show what follows; what is known already is passed over.

        Returns the seq that comes after a gap, before which all is shown; ``None``: there is none.
        Raises: ``CorruptionError`` for a record that is damaged.
        """
        self.check()
        seq = self.seq
        records = [record for record in piece.records if record[0] > seq]
        whole = _without_gap(records, seq)
        if whole:
            self._begin(piece)
            self._pass_time(records[whole - 1][1])
            for start in range(0, whole, APPLIED_AT_ONCE):
                self._apply(records[start : min(start + APPLIED_AT_ONCE, whole)])
            self._taken[piece.epoch] = self.seq
        return records[whole][0] if whole < len(records) else None

    def _pass_time(self, time_us: int) -> None:
        """What expires goes by a clock that is not behind what is shown."""
        self._clock.committed_us = max(self._clock.committed_us, time_us)

    def _begin(self, piece: Piece) -> None:
        self.applied.expect(piece.header, self.seq)
        source = piece.epoch, piece.header.segment
        if source != self._source:
            self._source = source
            if self.live.current.active:
                self.live.rotate(Memtable([], self.operator))
            self._epochs.append((self.live.current.active, piece.epoch))

    def check(self) -> None:
        """Raise what ends it all, if something has."""
        if self.diverged is not None:
            raise self.diverged

    def _apply(self, records: list[Record]) -> None:
        operations = [_decoded(*record) for record in records]
        made = [points_of(*each[1:4]) if len(each) == 5 else None for each in operations]
        live = self.live
        with live.lock:
            active = live.current.active
            start = len(active.values)
            for operation, points in zip(operations, made, strict=True):
                if len(operation) == 4:
                    active.put(*operation)
                else:
                    active.apply(*operation, points)
            live.visible_seq = records[-1][0]
        self.applied.add(operations, active, start)

    def compare(self, mark: Mark) -> None:
        """Hold what was taken against what the writer has sent.

        Raises: ``CorruptionError`` when it is something else; nothing more is shown then.
        """
        self.check()
        try:
            if self.seq < mark.seq:
                raise self.applied.difference(mark)
            if self.applied.compare(mark):
                self.compared_seq = max(self.compared_seq, mark.seq)
        except CorruptionError as error:
            self.diverged = error
            raise

    def adopt(self, state: ManifestState, flushes: Sequence[Flush] = ()) -> bool:
        """Show the tables of a later state, and drop the memtables that they cover; whether that
        could be done now. ``flushes`` are those since the state before that are known.

        Raises: ``CorruptionError`` when a memtable is not what its writer flushed; nothing more is
        shown then.
        """
        self.check()
        live, rows = self.live, self._rows
        former = live.current.layout
        covered = [each for each in self._memtables() if each.last_seq <= state.last_seq]
        is_cut = self._is_cut(state.last_seq)
        if is_cut and any(each.special for each in self._memtables()):
            return False
        self._compare(covered, state.epoch, flushes)
        self._epochs = [each for each in self._epochs if each[0] not in covered]
        if is_cut or state.last_seq > live.visible_seq:
            rows = self._rows = rows.anew()
        else:
            for memtable in covered:
                rows.advance(memtable)
        layout = Layout(state.version, self._tables, rows, former=former)
        self._pass_time(state.time_us)
        with live.lock:
            kept = [each for each in live.current.memtables if each not in covered]
            active, *sealed = kept or [Memtable([], self.operator)]
            live.current = State(active, tuple(sealed), layout)
            live.visible_seq = max(live.visible_seq, state.last_seq)
        self._flushed = state.last_seq
        self._taken = {e: last for e, last in self._taken.items() if last > state.last_seq}
        gone = {table.id for table in former.version.tables} - {
            table.id for table in state.version.tables
        }
        self._tables.drop_cached(gone)
        return True

    def _compare(self, covered: list[Memtable], epoch: int, flushes: Sequence[Flush]) -> None:
        """Hold memtables against the tables that the writer made of the same commits. What another
        epoch logged may be void; that is found out elsewhere."""
        before = self._flushed
        for memtable in covered:
            came = (epoch for each, epoch in self._epochs if each is memtable)
            try:
                if epoch in came and compare(memtable, before, flushes):
                    self.compared_seq = max(self.compared_seq, memtable.last_seq)
            except CorruptionError as error:
                self.diverged = error
                raise
            before = memtable.last_seq

    def _memtables(self) -> Iterator[Memtable]:
        """Those that hold something, the oldest first."""
        return (each for each in reversed(self.live.current.memtables) if each)

    def _is_cut(self, flushed: int) -> bool:
        """Whether tables up to ``flushed`` end within a memtable."""
        before = self._flushed
        for memtable in self._memtables():
            if before < flushed < memtable.last_seq:
                return True
            before = memtable.last_seq
        return False

    def is_void(self, listing: Listing) -> bool:
        """Whether something was taken that does not count any more."""
        return any(last >= listing.void_from(epoch) for epoch, last in self._taken.items())

    def begin_anew(self, state: ManifestState) -> Contents:
        """Contents with nothing but the tables of ``state``, for :meth:`replace`."""
        return Contents(state, self._tables, self._rows.anew(), self._clock, self.operator)

    def replace(self, other: Contents) -> None:
        """Show from now on what ``other`` shows, which is given up."""
        with self.live.lock:
            self.live.current = other.live.current
            self.live.visible_seq = other.live.visible_seq
        self._rows = other._rows
        self._flushed, self._source, self._taken = other._flushed, other._source, other._taken
        self._epochs, self.diverged = other._epochs, other.diverged
        self.applied, self.compared_seq = other.applied, other.compared_seq


def _without_gap(records: list[Record], seq: int) -> int:
    """How many of ``records``, whose seqs rise, follow ``seq`` one by one."""
    if not records or records[-1][0] == seq + len(records):
        return len(records)
    return next(at for at, record in enumerate(records) if record[0] != seq + 1 + at)


def _decoded(seq: int, time_us: int, payload: bytes) -> Commit:
    """A record as :meth:`Memtable.put` takes it, where it is one put or delete, or else as
    :meth:`Memtable.apply` does."""
    if len(payload) >= SINGLE.size:
        count, kind, key_length, value_length = SINGLE.unpack_from(payload)
        split = SINGLE.size + key_length
        is_single = count == 1 and split + value_length == len(payload)
        if is_single and kind in (PUT, DELETE) and key_length:
            value = payload[split:] if kind == PUT else None
            memory = key_length + value_length + ENTRY_OVERHEAD
            return seq, payload[SINGLE.size : split], value, memory
    return seq, *decode_batch(payload, f"the batch of seq {seq}"), time_us
