"""Making a clone: a new database whose manifest names tables that stay where they are.

1. hold what it is going to borrow (``lending.py``)
2. make tables of its own of the log between those and the wanted commit, and copy what cannot be
   held
3. create its one manifest object: before that there is no clone, and the holds expire
4. make the holds last; the first opening does that where this was cut short

The clone is a new database, as a restored one is: it has an id of its own, and the epoch after that
of the state it begins with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import msgspec
from msgspec.structs import replace

from seerdb.errors import (
    AlreadyExistsError,
    BusyError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    SeerDBError,
)
from seerdb.ids import SeqNo
from seerdb.storage.backup.archive import open_archive
from seerdb.storage.backup.copying import Carrier, copy
from seerdb.storage.backup.descriptor import ObjectSum, following, objects_of
from seerdb.storage.backup.log import Log, read_log, records
from seerdb.storage.backup.rebuild import Rebuilder
from seerdb.storage.backup.restore import Wanted as Restorable
from seerdb.storage.backup.restore import check_empty, check_seq, only_record, ways
from seerdb.storage.clone.lending import Borrower, Lending, Source, lend
from seerdb.storage.manifest.edit import encode_record
from seerdb.storage.manifest.loans import encode_debt
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.lender import Debt
from seerdb.storage.object_store.letting_go import let_go_after
from seerdb.storage.object_store.names import LOANS_NAME, manifest_name
from seerdb.storage.retention.kept import list_checkpoints
from seerdb.storage.wal.columns import Record

ATTEMPTS = 8
"""Newer states of the source that may get in between before a clone of the newest gives up."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to clone: the newest commit, one by its seq, the last one made by a time, microseconds
    since 1970, or a checkpoint; at most one of them is given."""

    seq: int | None = None
    time_us: int | None = None
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.seq, self.time_us, self.checkpoint)) > 1:
            raise InvalidRequestError("name a seq, a time or a checkpoint, and only one of them")
        if self.seq is not None:
            check_seq(self.seq)


class CloneReport(msgspec.Struct, frozen=True):
    """What a clone consists of. ``borrowed`` and ``copied`` count objects and their bytes,
    ``commits`` those that it has of the log of its source."""

    database_id: str
    source_database_id: str
    seq: int
    time_us: int
    borrowed_objects: int
    borrowed_bytes: int
    copied_objects: int
    copied_bytes: int
    commits: int
    lenders: list[str]
    """URLs of the buckets that it borrows from."""
    seconds: float


@dataclass(frozen=True)
class _Start:
    """A state that the clone may begin with, the commit it is to end with, and the log between."""

    state: ManifestState
    seq: int
    time_us: int
    log: Log


def make_clone(
    source: Source,
    target: ObjectStore,
    wanted: Wanted,
    borrower: Borrower,
    carrier: Carrier,
) -> CloneReport:
    """Make a clone of ``source`` in ``target``. Durable when it returns.

    Raises: ``AlreadyExistsError`` when there is anything in ``target``, ``HistoryError`` for a
    commit that is not kept, ``NotFoundError`` for a database or checkpoint that is not there,
    ``BusyError``, ``CorruptionError``, ``UnavailableError``; what the carrier's ``watch`` raises.
    """
    began = carrier.clock.monotonic()
    failure: SeerDBError | None = None
    tried: list[ManifestState] = []
    for start in _starts(source, wanted):
        tried.append(start.state)
        check_empty(target, tried, LOANS_NAME)
        making = _Making(source, target, start, borrower, carrier)
        try:
            made = making.run(is_newest=wanted == Wanted())
        except (BusyError, CorruptionError, NotFoundError) as error:
            failure = error
            continue
        report = making.report(made)
        return msgspec.structs.replace(report, seconds=carrier.clock.monotonic() - began)
    assert failure is not None, "there is a start at least"
    raise failure


def _starts(source: Source, wanted: Wanted) -> Iterator[_Start]:
    """States to begin with, in the order in which to try them."""
    if wanted.checkpoint is not None:
        state = _checkpoint(source, wanted.checkpoint)
        yield _Start(state, state.last_seq, state.time_us, Log([]))
    elif wanted == Wanted():
        for _ in range(ATTEMPTS):
            state, log = source.newest(), read_log(source.own)
            yield _Start(state, log.reach(state.last_seq), state.time_us, log)
    else:
        archive = open_archive(source.store)
        for _, base, seq in ways(archive, Restorable(seq=wanted.seq, time_us=wanted.time_us)):
            yield _Start(base.state, seq, archive.time_of(seq), archive.log)


def _checkpoint(source: Source, name: str) -> ManifestState:
    for _, kept in list_checkpoints(source.own):
        if kept.name == name:
            return kept.state
    raise NotFoundError(f"there is no checkpoint {name!r} in {source.url}")


class _Making:
    """The making of a clone from one start."""

    def __init__(
        self,
        source: Source,
        target: ObjectStore,
        start: _Start,
        borrower: Borrower,
        carrier: Carrier,
    ) -> None:
        self._source = source
        self._target = target
        self._start = start
        self._borrower = borrower
        self._carrier = carrier
        self._epoch = following(start.state.epoch)
        self._time_us = start.time_us
        self._copied: list[ObjectSum] = []

    def run(self, *, is_newest: bool) -> ManifestState:
        """Do it; returns the first state of the clone. Holds are left only with a clone, or where
        it cannot be told whether there is one."""
        lending = lend(self._source, self._start.state, self._borrower)
        try:
            if is_newest and lending.newest.last_seq > self._start.seq:
                raise BusyError("the source has gone on meanwhile", retry_after_seconds=0.0)
            state = self._state(lending)
            debt = Debt(state.database_id, state.loans)
            self._target.put(LOANS_NAME, encode_debt(debt))
        except BaseException as error:
            let_go_after(error, lending.end)
            raise
        record = only_record(state, self._borrower.random_bytes(16).hex())
        try:
            self._target.put_if_absent(manifest_name(record.number), encode_record(record))
        except AlreadyExistsError as error:
            let_go_after(error, lending.end)
            raise
        # After anything else, an interrupt too, there may be a clone, whose first opening needs the
        # holds; they expire if there is none.
        lending.last(self._borrower)
        return state

    def _state(self, lending: Lending) -> ManifestState:
        base = self._start.state
        names = set(lending.loans.copied)
        self._copied = [each for each in objects_of(base) if each.name in names]
        copies = [
            (each.size, partial(copy, self._source.store, self._target, each))
            for each in self._copied
        ]
        self._carrier.expect(copies)
        self._carrier.carry(copies)
        tables = base.version.tables + list(self._replay())
        return replace(
            base,
            version=Version.of(tables),
            epoch=self._epoch,
            last_seq=SeqNo(self._start.seq),
            time_us=self._time_us,
            database_id=self._borrower.database_id,
            loans=lending.loans,
        )

    def _replay(self) -> Iterable[TableMeta]:
        """Tables of what the log has after the start."""
        base = self._start.state
        newest = max((run.number for run in base.version.runs), default=0)
        rebuilder = Rebuilder(self._target, self._epoch, None, None)
        return rebuilder.replay(self._records(), newest + 1)

    def _records(self) -> Iterator[list[Record]]:
        start = self._start
        for group in records(
            self._source.own,
            start.log,
            start.state.database_id,
            after=start.state.last_seq,
            upto=start.seq,
            threads=self._carrier.threads,
        ):
            self._time_us = max(self._time_us, group[-1][1])
            yield group

    def report(self, made: ManifestState) -> CloneReport:
        """What was made."""
        base = self._start.state
        copied = {each.name for each in self._copied}
        borrowed = [each for each in objects_of(base) if each.name not in copied]
        return CloneReport(
            database_id=made.database_id,
            source_database_id=base.database_id,
            seq=made.last_seq,
            time_us=made.time_us,
            borrowed_objects=len(borrowed),
            borrowed_bytes=sum(each.size for each in borrowed),
            copied_objects=len(self._copied),
            copied_bytes=sum(each.size for each in self._copied),
            commits=self._start.seq - base.last_seq,
            lenders=[each.url for each in made.loans.lenders],
            seconds=0.0,
        )
