"""Having the tables and blobs of a state kept where they lie, for a clone that is being made.

What the newest manifest of the source names, or a checkpoint, is held there as
``retention/checkpoints.py`` describes: the hold counts if what it names is still kept when that is
read *afterwards*. What a source borrows itself, its lender holds for it, and the clone's own hold
there counts if that one is still there afterwards. So the clone depends on everyone whose objects
it needs, and on nobody else.

What is left of an earlier state, and has been replaced since, nothing can save from a collector
that has made up its mind: the clone copies it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from seerdb.clock import Clock
from seerdb.errors import BusyError, NotFoundError
from seerdb.ids import Epoch
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.borrowing import lender_of
from seerdb.storage.object_store.lender import NO_LOANS, Lender, Loans
from seerdb.storage.object_store.letting_go import let_go_after
from seerdb.storage.object_store.names import hold_name
from seerdb.storage.retention.checkpoints import HOLD_ATTEMPTS, HOLD_SECONDS
from seerdb.storage.retention.garbage import release
from seerdb.storage.retention.kept import (
    Kept,
    encode_kept,
    held_names,
    list_checkpoints,
    record_of,
)
from seerdb.storage.retention.loans import check_not_dropped, secure
from seerdb.storage.value import SECOND_US


@dataclass(frozen=True)
class Source:
    """The database that is cloned: ``url`` of its bucket, ``store`` with all that it reads, ``own``
    with what lies in its bucket, ``lent`` with those from whom it borrows."""

    url: str
    store: ObjectStore
    own: ObjectStore
    lent: list[tuple[Lender, ObjectStore]]

    def newest(self) -> ManifestState:
        """Its newest state. Raises: ``NotFoundError``, ``CorruptionError``,
        ``UnavailableError``."""
        state = load(self.own)
        if state is None:
            raise NotFoundError(f"there is no database in {self.url}: manifest/ is empty")
        check_not_dropped(state)
        return state


@dataclass(frozen=True)
class Borrower:
    """The clone: where it is going to be, and the id of its database. ``random_bytes`` are for the
    ids of holds."""

    url: str
    database_id: str
    clock: Clock
    random_bytes: Callable[[int], bytes]


@dataclass
class Lending:
    """Under which holds a clone is made: ``loans`` is what it borrows then, ``newest`` the newest
    state of the source, read after they were put."""

    loans: Loans
    newest: ManifestState
    stores: list[ObjectStore]
    """Of the lenders, in their order."""

    def last(self, borrower: Borrower) -> None:
        """Make the holds last, once there is a clone. Raises as :func:`secure`."""
        for lender, store in zip(self.loans.lenders, self.stores, strict=True):
            secure(store, lender, borrower.database_id)

    def end(self) -> None:
        """Let go of them, as there will be no clone."""
        for lender, store in zip(self.loans.lenders, self.stores, strict=True):
            release(store, hold_name(lender.hold))


def lend(source: Source, base: ManifestState, borrower: Borrower) -> Lending:
    """Hold what is kept of ``base``, for a day; the rest is to be copied.

    Raises: ``BusyError``, ``NotFoundError``, ``CorruptionError``, ``UnavailableError``.
    """
    for _ in range(HOLD_ATTEMPTS):
        if lending := _try_to_lend(source, base, borrower):
            return lending
    raise BusyError(
        f"{source.url} changed {HOLD_ATTEMPTS} times while its state was to be held; try again",
        retry_after_seconds=1.0,
    )


@dataclass(frozen=True)
class _Owner:
    """Someone in whose bucket objects of the source lie. ``lender`` tells which; those in
    ``kept`` stay there, as long as the source itself needs them."""

    lender: Lender
    store: ObjectStore
    kept: frozenset[str]


def _try_to_lend(source: Source, base: ManifestState, borrower: Borrower) -> Lending | None:
    """As :func:`lend`, unless something has left the source at this very moment."""
    needed = {name for table in base.version.tables for name in table.objects}
    before = list(_owners(source, base, source.newest()))
    lending = Lending(NO_LOANS, base, [])
    kept: list[frozenset[str]] = []
    try:
        for owner in before:
            if names := _names_of(base.loans, needed, owner.lender) & owner.kept:
                _hold(lending, base, owner, names, borrower)
                kept.append(names)
        newest = source.newest()
        after = {owner.lender: owner.kept for owner in _owners(source, base, newest)}
        held = zip(lending.loans.lenders, kept, strict=True)
        is_whole = all(names <= after[replace(lender, hold="")] for lender, names in held)
    except BaseException as error:
        let_go_after(error, lending.end)
        raise
    if not is_whole:
        lending.end()
        return None
    copied = tuple(sorted(needed.difference(*kept)))
    return Lending(replace(lending.loans, copied=copied), newest, lending.stores)


def _owners(source: Source, base: ManifestState, newest: ManifestState) -> Iterator[_Owner]:
    for lender, store in source.lent:
        kept = held_names(store, base.database_id) | held_names(store, lender.hold)
        yield _Owner(replace(lender, hold=""), store, kept)
    named = {name for table in newest.version.tables for name in table.objects}
    named = named.union(*(each.objects for _, each in list_checkpoints(source.own)))
    itself = Lender(source.url, base.database_id, Epoch(base.epoch), base.loans.copied)
    yield _Owner(itself, source.own, frozenset(named))


def _names_of(loans: Loans, names: set[str], lender: Lender) -> frozenset[str]:
    """Those of ``names`` that lie with ``lender``, or with the source, which is none of its own."""
    theirs = {replace(each, hold=""): each for each in loans.lenders}.get(lender)
    return frozenset(name for name in names if lender_of(loans, name) is theirs)


def _hold(
    lending: Lending,
    base: ManifestState,
    owner: _Owner,
    names: frozenset[str],
    borrower: Borrower,
) -> None:
    """Put a hold of the tables of ``base`` that need any of ``names``."""
    tables = [table for table in base.version.tables if not names.isdisjoint(table.objects)]
    kept = Kept(
        borrower.random_bytes(16).hex(),
        borrower.url,
        int(borrower.clock.now() * SECOND_US),
        HOLD_SECONDS,
        replace(record_of(base), tables=tables, loans=NO_LOANS),
    )
    lender = replace(owner.lender, hold=kept.id)
    lending.loans = Loans((*lending.loans.lenders, lender))
    lending.stores.append(owner.store)
    owner.store.put_if_absent(hold_name(kept.id), encode_kept(kept))
