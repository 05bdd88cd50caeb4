"""Following the manifest and the log: what is looked at, in which order, and what may be shown.

A look reads on in the manifest and in the shipped log. It shows log only after it has seen that
nobody had taken over when that was listed: what was shipped before a claim is known to whoever made
it, so what comes through the bucket is not taken back. What comes live may be: the primary streams
what is durable on its disk, and if that is lost, so are those writes. The branch that the next
writer begins says from where on; then all is shown anew from the tables on. So tables of a new
epoch are shown only after that: memtables of the one before may hide what these hold.

Each new epoch is *settled* before anything of it is taken live: its branch, if it has one, is there
before its writer answers anybody, so one listing made after that tells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.storage.operators import MergeOperator
from seerdb.storage.replication.contents import Contents, gap
from seerdb.storage.replication.lag import Lag
from seerdb.storage.replication.manifest_tail import ManifestTail
from seerdb.storage.replication.running import Mark
from seerdb.storage.replication.shipped import Listing, Piece, ShippedLog
from seerdb.storage.retention.loans import check_not_dropped

RELOAD_SECONDS = 60.0
"""How often the manifest is listed, and not only asked for its next record."""

READ_AT_ONCE = 16 << 20
"""Bytes of operations that are read of the shipped log before they are shown."""


class Tail:
    """Keeps contents up to date. :meth:`look` belongs to one thread, the rest is thread-safe."""

    def __init__(
        self,
        manifest: ManifestTail,
        log: ShippedLog,
        contents: Contents,
        lag: Lag,
        gap_found: Callable[[CorruptionError], None],
    ) -> None:
        self.manifest = manifest
        self.lag = lag
        self._log = log
        self._gap_found = gap_found
        # Of the looking thread:
        self._shown_number = manifest.state.number
        self._reload_at = lag.now() + RELOAD_SECONDS
        self._lists_all = True
        # Written by the looking thread, read by any:
        self.gap: CorruptionError | None = None
        """What is missing of the log, and has to come before what is there."""
        self.begun = self.completed = 0
        """Numbers of the last look, and of the last one that went well."""
        self.restarts = 0
        """How often what was shown turned out to be void."""
        self._settled = int(manifest.state.epoch)
        self.told = 0
        """The newest epoch that was found to have said where it goes on: from then on, what it
        voids is listed."""
        # Set by any thread:
        self._reload_wanted = False
        self._greeted = 0
        # Guarded by the mutex:
        self._mutex = threading.Lock()
        self._contents = contents
        self._live_epoch = 0

    @property
    def seq(self) -> int:
        """The newest commit that is shown."""
        return self._contents.seq

    @property
    def compared_seq(self) -> int:
        """The newest commit of those that were found to be what the writer has."""
        return self._contents.compared_seq

    @property
    def mark(self) -> Mark | None:
        """The newest digest of the log that was taken."""
        return self._contents.applied.mark

    @property
    def is_live(self) -> bool:
        """Whether the log comes from the primary."""
        return self._live_epoch != 0 and self.is_settled(self._live_epoch)

    @property
    def settled(self) -> int:
        """The newest epoch of which is known, and heeded in what is shown, what it voids."""
        return self._settled

    def is_settled(self, epoch: int) -> bool:
        """Whether ``epoch`` is the newest one, and what it voids is not shown any more."""
        return epoch == self._settled == self.manifest.state.epoch

    def merge_with(self, operator: MergeOperator) -> None:
        """The database has an operator from now on."""
        self._contents.operator = operator

    def reload(self) -> None:
        """Have the next look list the manifest."""
        self._reload_wanted = True

    def look(self) -> bool:
        """Look once; whether to look again at once.

        Raises: ``UnavailableError``, ``CorruptionError``; what could be shown is shown then.
        ``NotFoundError``: the database is a clone that was dropped.
        """
        self.begun += 1
        at = self.lag.now()
        self._contents.check()
        self._advance(self._contents, self._settled)
        if self.is_live:
            self._tell_of_gap(None)  # the primary sends all that follows
        elif not self._look_at_log(at):
            return True
        self.completed = self.begun
        return False

    def _look_at_log(self, at: float) -> bool:
        epoch, greeted = self.manifest.state.epoch, self._greeted
        lists_all = self._lists_all or epoch != self._settled
        listing = self._log.list_all(epoch) if lists_all else self._log.list(epoch)
        if self._contents.is_void(listing):
            self._restart(listing)
        else:
            self._adopt(self._contents)
        if listing.tells_where or greeted == epoch:
            self._settle(epoch)
        found = self._read_on(self._contents, listing)
        with self._mutex:
            self._contents.applied.settle()
        if self.manifest.state.epoch != epoch:
            return False
        self._lists_all = found is not None
        if found is not None and not lists_all:
            return False
        self._tell_of_gap(found)
        if epoch == self._settled or listing.last <= self.seq:
            newest = max(listing.newest, self.manifest.state.last_seq)
            self.lag.heard(newest, at, self.seq)
        return True

    def _settle(self, epoch: int) -> None:
        if epoch != self._settled:
            self.lag.forget()
        self._settled = self.told = epoch

    def _advance(self, contents: Contents, epoch: int) -> None:
        """Read on in the manifest, and show what it has new, unless it is beyond ``epoch``. Raises:
        as :meth:`ManifestTail.reload`, ``NotFoundError`` for a clone that was dropped."""
        if self._reload_wanted or self.lag.now() >= self._reload_at:
            self._reload_wanted = False
            self._reload_at = self.lag.now() + RELOAD_SECONDS
            self.manifest.reload()
        else:
            self.manifest.advance()
        check_not_dropped(self.manifest.state)
        if self.manifest.state.epoch == epoch:
            self._adopt(contents)

    def _adopt(self, contents: Contents) -> None:
        """Show the tables of the manifest. Requires: of its epoch, what it voids is not shown."""
        state = self.manifest.state
        if state.number != self._shown_number or contents is not self._contents:
            with self._mutex:
                restored = self.manifest.restored > self._shown_number
                if contents.adopt(state, () if restored else self.manifest.flushes):
                    self._shown_number = state.number
                    self.manifest.flushes = []

    def _read_on(self, contents: Contents, listing: Listing) -> int | None:
        """Take what was listed, as long as nobody takes over; the seq that comes after a gap,
        ``None`` where there is none."""
        while True:
            seq = contents.seq
            pieces = self._pieces(listing, seq + 1)
            if not pieces and listing.after(seq) is None:
                return None
            self._advance(contents, listing.epoch)
            if self.manifest.state.epoch != listing.epoch:
                return None
            with self._mutex:
                found = next(filter(None, map(contents.take, pieces)), None)
            if contents.seq == seq:
                return found or listing.after(seq)

    def _pieces(self, listing: Listing, seq: int) -> list[Piece]:
        pieces: list[Piece] = []
        size = 0
        while size < READ_AT_ONCE:
            try:
                piece = self._log.read(listing, seq)
            except NotFoundError:
                break  # collected, as tables hold it by now
            if piece is None or not piece.records:
                break
            pieces.append(piece)
            seq = piece.records[-1][0] + 1
            size += sum(len(payload) for _, _, payload in piece.records)
        return pieces

    def _restart(self, listing: Listing) -> None:
        """Show the tables and what counts of the log after them, and no more what is void."""
        contents = self._contents.begin_anew(self.manifest.state)
        try:
            self._read_on(contents, listing)
        finally:
            with self._mutex:
                self._contents.replace(contents)
            self.lag.forget()
            self.restarts += 1

    def _tell_of_gap(self, found: int | None) -> None:
        before = self.gap
        self.gap = None if found is None else gap(self.seq + 1, found)
        if self.gap is not None and str(self.gap) != str(before):
            self._gap_found(self.gap)

    # The live tail.

    def greet(self, epoch: int) -> None:
        """The writer of ``epoch`` answers: have the next look settle that."""
        self._greeted = epoch

    def begin_live(self, epoch: int, first: int) -> bool:
        """Take the log from ``first`` on live, from the writer of ``epoch``; whether that can be
        done now. Raises: ``CorruptionError`` when nothing more is shown."""
        with self._mutex:
            self._contents.check()
            self._live_epoch = epoch if self.is_settled(epoch) and first <= self.seq + 1 else 0
            return self.is_live

    def end_live(self) -> None:
        """Go on through the bucket."""
        with self._mutex:
            self._live_epoch = 0

    def take(self, piece: Piece) -> int | None:
        """As :meth:`Contents.take`, live. Raises: ``CorruptionError`` when another writer has taken
        over."""
        with self._mutex:
            if not self.is_live:
                raise CorruptionError(
                    "another writer has taken over",
                    name="the stream of the log",
                    expected=f"epoch {self.manifest.state.epoch}",
                    found=f"epoch {piece.epoch}",
                )
            found = self._contents.take(piece)
        self.lag.reached(self.seq)
        return found

    def compare(self, mark: Mark) -> None:
        """As :meth:`Contents.compare`, live."""
        with self._mutex:
            if self.is_live:
                self._contents.compare(mark)
