"""Deleting a clone: all that lies in its bucket, and the holds at those it borrows from.

First a claim shuts out its writer, in the name of a home that no data directory has: from then on
nobody opens the clone any more, and nobody makes a clone of it, since whoever does reads the
manifest again after it has put its hold. So no hold comes up that is not seen then, and if there is
one, everything is left as it was.

What stays are the claims, which are the fences (I6), and a last checkpoint, which says that this
was dropped. A drop that was cut short can be done again.
"""

from __future__ import annotations

import msgspec

from seerdb.clock import Clock
from seerdb.errors import ConflictError, InvalidRequestError, NotFoundError
from seerdb.storage.manifest.fencing import Claimant, RandomBytes
from seerdb.storage.manifest.loans import decode_debt
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.object_store.names import LOANS_NAME, is_database_name, manifest_name
from seerdb.storage.object_store.stores import Stores
from seerdb.storage.retention.garbage import discard
from seerdb.storage.retention.kept import list_held_for_clones
from seerdb.storage.retention.loans import DROPPED, GivingBack, check_not_dropped


class DropReport(msgspec.Struct, frozen=True):
    """What was deleted, or would be. ``others`` are objects in the place that are not the clone's,
    and stay."""

    database_id: str
    objects: int
    bytes: int
    others: int
    lenders: list[str]
    dry_run: bool


def delete_clone(
    stores: Stores, clock: Clock, random_bytes: RandomBytes, *, dry_run: bool
) -> DropReport:
    """Delete the clone in ``stores``, or say what there is to delete.

    Raises: ``NotFoundError`` where there is no database, ``InvalidRequestError`` for one that is no
    clone, ``ConflictError`` while others borrow from it, ``CorruptionError``, ``UnavailableError``.
    """
    store = stores.own(Purpose.BACKUP)
    state = load(store)
    if state is None:
        raise NotFoundError("there is no database: manifest/ is empty")
    if not _is_clone(store, state):
        raise InvalidRequestError("this database is no clone; nothing was deleted")
    _check_unused(store)
    if not dry_run and not _is_shut(state):
        state = _shut(store, state, clock, random_bytes)
    fences = {manifest_name(number) for number in state.claims}
    if _is_shut(state):
        fences.add(manifest_name(state.number))
    there = [info for info in store.list("") if info.name not in fences]
    ours = [info for info in there if is_database_name(info.name)]
    if _is_shut(state) and not ours:
        check_not_dropped(state)
    if not dry_run:
        GivingBack(stores, state)(())
        discard(store, [info.name for info in ours])
    return DropReport(
        database_id=state.database_id,
        objects=len(ours),
        bytes=sum(info.size for info in ours),
        others=len(there) - len(ours),
        lenders=[lender.url for lender in state.loans.lenders],
        dry_run=dry_run,
    )


def _is_clone(store: ObjectStore, state: ManifestState) -> bool:
    """Whether it was made as one, though it may never have borrowed anything."""
    if state.loans.lenders or state.home == DROPPED:
        return True
    try:
        debt = decode_debt(store.get(LOANS_NAME))
    except NotFoundError:
        return False
    return debt.database_id == state.database_id


def _check_unused(store: ObjectStore) -> None:
    if borrowers := [kept.name for kept in list_held_for_clones(store, lasting=False)]:
        raise ConflictError(
            f"others borrow from this clone: {', '.join(borrowers)}; drop them first"
        )


def _is_shut(state: ManifestState) -> bool:
    return state.home == DROPPED and state.checkpoint == state.number


def _shut(
    store: ObjectStore, state: ManifestState, clock: Clock, random_bytes: RandomBytes
) -> ManifestState:
    """Claim the clone so that nobody opens it any more; returns its last state, which is in one
    manifest object."""

    def claim(state: ManifestState, home: str) -> ManifestWriter:
        claimant = Claimant(
            database_id=state.database_id,
            home=home,
            store=state.store,
            capabilities=state.capabilities,
        )
        return ManifestWriter.claim(
            store, state, claimant=claimant, clock=clock, random_bytes=random_bytes
        )

    writer = claim(state, DROPPED)
    try:
        _check_unused(store)
    except ConflictError:
        claim(writer.state, writer.before.home)
        raise
    return writer.checkpoint()
