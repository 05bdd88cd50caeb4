"""What the manifest amounts to after a record, and the rules by which records follow.

Pure. :meth:`ManifestState.after` is the only transition. It raises ``InternalError`` for a
record that may not follow, which is what a writer wants before it writes; for a record that
was *read* a misfit is damage, and ``store.apply`` says so.

Rules: numbers are contiguous; each record names the write id of the one before; a claim
raises the epoch by one and nothing else changes it; ``last_seq`` and ``log_start`` never
fall and only edits raise them; time grows; the version keeps its own invariants; a checkpoint
says exactly what the records before it amount to.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from seerdb.errors import InternalError
from seerdb.ids import Epoch, SegmentId, SeqNo
from seerdb.storage.manifest.edit import Checkpoint, Claim, Edit, ManifestRecord
from seerdb.storage.manifest.version import Version, check_version
from seerdb.storage.object_store.lender import NO_LOANS, Loans


class ManifestState(msgspec.Struct, frozen=True, kw_only=True):
    """The database after manifest object ``number``. Immutable; 0 and "" mean "none yet"."""

    number: int = 0
    epoch: Epoch = Epoch(0)
    write_id: str = ""
    time_us: int = 0
    database_id: str = ""
    home: str = ""
    """Id of the data directory whose local log continues this state."""
    store: str = ""
    """Fingerprint of the store's URL at the last claim."""
    capabilities: dict[str, bool] = {}
    """Of the store, at the last claim."""
    merge_operator: str = ""
    """Name of the operator that folds what is merged."""
    lease: float = 0.0
    """Seconds that the lease of the epoch's writer runs; 0: it keeps none."""
    version: Version = Version()
    last_seq: SeqNo = SeqNo(0)
    """Everything up to here is in the tables."""
    log_start: SegmentId = SegmentId(0)
    """First segment of the home's log that is still needed; 0: all of them."""
    checkpoint: int = 0
    """Number of the newest checkpoint."""
    checkpoint_before: int = 0
    """Number of the checkpoint before that one."""
    claims: tuple[int, ...] = ()
    """Numbers of all claims, ascending."""
    loans: Loans = NO_LOANS
    """From whom the database borrows objects; the same in all its states."""

    @classmethod
    def of(cls, record: Checkpoint) -> ManifestState:
        """The state that a checkpoint holds. Raises ``InternalError`` if it breaks a rule."""
        if record.checkpoint != record.number:
            raise InternalError("a checkpoint does not name itself as the newest")
        version = Version.of(record.tables)
        check_version(version)
        return cls(
            number=record.number,
            epoch=record.epoch,
            write_id=record.write_id,
            time_us=record.time_us,
            database_id=record.database_id,
            home=record.home,
            store=record.store,
            capabilities=record.capabilities,
            version=version,
            last_seq=record.last_seq,
            log_start=record.log_start,
            checkpoint=record.checkpoint,
            checkpoint_before=record.checkpoint_before,
            claims=tuple(record.claims),
            merge_operator=record.merge_operator,
            lease=record.lease,
            loans=record.loans,
        )

    def after(self, record: ManifestRecord) -> ManifestState:
        """The state after ``record``. Raises ``InternalError`` when it may not follow."""
        self._check_follows(record)
        advanced = replace(
            self,
            number=record.number,
            epoch=record.epoch,
            write_id=record.write_id,
            time_us=record.time_us,
            last_seq=record.last_seq,
        )
        match record:
            case Claim():
                return _claimed(advanced, record)
            case Edit():
                return _edited(advanced, record)
            case Checkpoint():
                return _checkpointed(advanced, record)

    def _check_follows(self, record: ManifestRecord) -> None:
        claims, checkpoints = isinstance(record, Claim), isinstance(record, Checkpoint)
        for what, expected, found in (
            ("number", self.number + 1, record.number),
            ("previous write id", self.write_id, record.previous),
            ("epoch", self.epoch + claims, record.epoch),
            ("checkpoint", record.number if checkpoints else self.checkpoint, record.checkpoint),
        ):
            if found != expected:
                raise InternalError(f"its {what} must be {expected!r}, not {found!r}")
        if record.time_us <= self.time_us:
            raise InternalError(f"its time {record.time_us} is not after {self.time_us}")
        if record.last_seq < self.last_seq or (
            record.last_seq > self.last_seq and not isinstance(record, Edit)
        ):
            raise InternalError(f"its last seq {record.last_seq} does not follow {self.last_seq}")


def _claimed(state: ManifestState, record: Claim) -> ManifestState:
    if state.database_id and record.database_id != state.database_id:
        raise InternalError(
            f"it claims database {record.database_id!r}, but this is {state.database_id!r}"
        )
    if state.merge_operator and record.merge_operator != state.merge_operator:
        raise InternalError(
            f"its merge operator is {record.merge_operator!r}, but the database's is "
            f"{state.merge_operator!r}"
        )
    return replace(
        state,
        database_id=record.database_id,
        merge_operator=record.merge_operator,
        home=record.home,
        store=record.store,
        capabilities=record.capabilities,
        lease=record.lease,
        log_start=state.log_start if record.home == state.home else SegmentId(0),
        claims=(*state.claims, record.number),
    )


def _edited(state: ManifestState, record: Edit) -> ManifestState:
    if record.log_start < state.log_start:
        raise InternalError(f"its log start {record.log_start} is less than {state.log_start}")
    newest = max((table.max_seq for table in record.add), default=0)
    if newest > record.last_seq:
        raise InternalError(f"its tables reach seq {newest}, past its {record.last_seq}")
    version = state.version.changed(add=record.add, remove=record.remove)
    return replace(state, version=version, log_start=record.log_start)


def _checkpointed(state: ManifestState, record: Checkpoint) -> ManifestState:
    expected = replace(state, checkpoint=record.number, checkpoint_before=state.checkpoint)
    if ManifestState.of(record) != expected:
        raise InternalError("the checkpoint differs from what the records before it say")
    return expected
