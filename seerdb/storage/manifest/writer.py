"""The one writer of the manifest: its commits, and how it learns that it lost.

The only commit point of the database is the creation of the next numbered object, and the
store lets exactly one creation of a name succeed. Two outcomes need care:

*The name is taken.* What is there is either an earlier attempt of this writer (it remembers
the write ids) and becomes part of its state, after which the commit decides again; or it is
somebody else's, and then this writer is fenced for good.

*The outcome is unknown.* The state stays as it was and the write id is remembered. The next
commit simply tries the same number: if the lost attempt happened, the name is taken and the
case above settles it, so that a commit tried again is never applied twice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from seerdb.clock import Clock
from seerdb.errors import AlreadyExistsError, FencedError, NotFoundError, UnavailableError
from seerdb.ids import Epoch, SegmentId, SeqNo, TableId
from seerdb.storage.manifest.edit import Checkpoint, Edit, ManifestRecord, encode_record
from seerdb.storage.manifest.fencing import (
    Claimant,
    RandomBytes,
    in_history,
    place_after,
    take_over,
)
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import read_record
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import manifest_name

CHECKPOINT_EVERY = 64
"""Objects after a checkpoint before the next one: bounds the GETs of a load."""


class ManifestWriter:
    """Commits changes of the manifest, one at a time. Thread-safe.

    Once fenced it stays fenced: every later call raises ``FencedError`` without a request.
    """

    def __init__(
        self,
        store: ObjectStore,
        state: ManifestState,
        *,
        before: ManifestState | None = None,
        clock: Clock,
        random_bytes: RandomBytes,
    ) -> None:
        # Constant.
        self.before = before or ManifestState()
        """What the claim of this writer followed: the state of the writer that it shut out."""
        self._store = store
        self._clock = clock
        self._random_bytes = random_bytes
        # Written under the lock, read by anyone.
        self._state = state
        self._fenced = ""
        # Guarded by the lock.
        self._lock = Lock()
        self._attempts: set[str] = set()  # write ids tried at the next number, outcome unknown

    @classmethod
    def claim(
        cls,
        store: ObjectStore,
        state: ManifestState | None,
        *,
        claimant: Claimant,
        clock: Clock,
        random_bytes: RandomBytes = os.urandom,
    ) -> ManifestWriter:
        """Open for writing, shutting out every writer before; raises as ``take_over``.

        ``state`` is what ``load`` gave. It may have moved on, so look at the writer's.
        """
        before, after = take_over(
            store, state, claimant=claimant, clock=clock, random_bytes=random_bytes
        )
        return cls(store, after, before=before, clock=clock, random_bytes=random_bytes)

    @property
    def state(self) -> ManifestState:
        """The state after the last object this writer knows of."""
        return self._state

    @property
    def epoch(self) -> Epoch:
        """The epoch of this writer's claim."""
        return self._state.epoch

    @property
    def fenced(self) -> bool:
        """Whether this writer has found out that another one took over."""
        return bool(self._fenced)

    def commit(
        self,
        *,
        add: Sequence[TableMeta] = (),
        remove: Sequence[TableId] = (),
        last_seq: SeqNo | None = None,
        log_start: SegmentId | None = None,
        reason: str,
    ) -> ManifestState:
        """Make tables come and go in one step, and raise ``last_seq`` and ``log_start`` to at
        least the given. Returns the new state. Durable then.

        A change already in effect costs nothing: retry a failed commit with the **same**
        arguments. Raises: ``FencedError``; ``UnavailableError`` (outcome unknown, retry);
        ``InternalError`` for a change that does not fit, before anything is written.
        """
        change = _Change(
            tuple(add), tuple(remove), last_seq or SeqNo(0), log_start or SegmentId(0), reason
        )
        with self._lock:
            self._check_fenced()
            self._checkpoint_if_due()
            while not change.in_effect(self._state):
                self._write(self._edit(change))
            return self._state

    def checkpoint_if_due(self) -> None:
        """Keep loads short also where writers come and go that commit nothing: each leaves a claim.

        Requires: nobody else may acknowledge writes any more, as who comes next takes whatever
        follows a claim for a sign of that. Raises as ``commit``.
        """
        with self._lock:
            self._check_fenced()
            self._checkpoint_if_due()

    def checkpoint(self) -> ManifestState:
        """Make the newest object a checkpoint unless it is one, so that the next load is one
        GET; for a clean close. Settles whatever outcome was unknown. Raises as ``commit``."""
        with self._lock:
            self._check_fenced()
            while self._attempts or self._state.checkpoint != self._state.number:
                self._write(self._checkpoint())
            return self._state

    def _checkpoint_if_due(self) -> None:
        while self._state.number - self._state.checkpoint >= CHECKPOINT_EVERY:
            self._write(self._checkpoint())

    def _write(self, record: ManifestRecord) -> None:
        """Create the next object. The state then holds ``record``, or an earlier attempt of
        ours that turned out to be there, and the caller decides again."""
        after = self._state.after(record)
        data = encode_record(record)
        confirm = bool(self._attempts)
        self._attempts.add(record.write_id)
        try:
            self._store.put_if_absent(manifest_name(record.number), data)
        except AlreadyExistsError:
            record = self._found(record.number)
            after = self._state.after(record)
        if confirm and not in_history(self._store, record):
            raise self._fence(f"history went on past manifest object {record.number}")
        self._state = after
        self._attempts.clear()

    def _found(self, number: int) -> ManifestRecord:
        """The attempt of ours that has ``number``."""
        try:
            record = read_record(self._store, number)
        except NotFoundError as error:
            raise UnavailableError(
                f"the store says that {manifest_name(number)} exists, then that it does not"
            ) from error
        if record.write_id not in self._attempts:
            raise self._fence(f"manifest object {number} was written in epoch {record.epoch}")
        return record

    def _check_fenced(self) -> None:
        if self._fenced:
            raise FencedError(self._fenced)

    def _fence(self, evidence: str) -> FencedError:
        self._fenced = (
            f"another writer took over from epoch {self.epoch}: {evidence}; close this database, "
            "and open it again only if the other one is not meant to be the writer"
        )
        return FencedError(self._fenced)

    def _edit(self, change: _Change) -> Edit:
        state = self._state
        return Edit(
            **place_after(state, self._clock, self._random_bytes),
            epoch=state.epoch,
            checkpoint=state.checkpoint,
            last_seq=max(state.last_seq, change.last_seq),
            log_start=max(state.log_start, change.log_start),
            add=list(change.add),
            remove=list(change.remove),
            reason=change.reason,
        )

    def _checkpoint(self) -> Checkpoint:
        state = self._state
        return Checkpoint(
            **place_after(state, self._clock, self._random_bytes),
            epoch=state.epoch,
            checkpoint=state.number + 1,
            checkpoint_before=state.checkpoint,
            last_seq=state.last_seq,
            log_start=state.log_start,
            database_id=state.database_id,
            home=state.home,
            store=state.store,
            capabilities=state.capabilities,
            merge_operator=state.merge_operator,
            lease=state.lease,
            loans=state.loans,
            claims=list(state.claims),
            tables=state.version.tables,
        )


@dataclass(frozen=True, slots=True)
class _Change:
    """What a commit wants to be true."""

    add: tuple[TableMeta, ...]
    remove: tuple[TableId, ...]
    last_seq: SeqNo
    log_start: SegmentId
    reason: str

    def in_effect(self, state: ManifestState) -> bool:
        """Whether it is true already. A table both removed and added is moved."""
        if self.last_seq > state.last_seq or self.log_start > state.log_start:
            return False
        present = {table.id: table for table in state.version.tables}
        added = {table.id for table in self.add}
        return all(present.get(table.id) == table for table in self.add) and not any(
            table in present for table in self.remove if table not in added
        )
