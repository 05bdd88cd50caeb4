"""What a clone owes to those it borrows from, and they to it.

Each lender holds what the clone was made of (``kept.py``) until the clone gives it back: a hold
that does not expire and has the id of the clone's database. While a clone is made there are others,
which expire if that is never finished; :func:`secure` puts the lasting one in the place of such a
one, when the clone has a manifest. So no hold stays for good without a clone that can tell of it.

A clone whose hold is gone is refused: its tables may be collected at any moment. So is one whose
making was cut short right after it got its manifest, if it is not opened within a day.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from seerdb.errors import AlreadyExistsError, CorruptionError, NotFoundError
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.borrowing import KeptNames, lender_of
from seerdb.storage.object_store.lender import Debt, Lender
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.object_store.names import hold_name
from seerdb.storage.object_store.stores import Stores
from seerdb.storage.retention.garbage import release
from seerdb.storage.retention.kept import decode_kept, encode_kept, held_names

DROPPED = "dropped"
"""The home of a clone that is being deleted: nobody opens it any more."""


def kept_names(store: ObjectStore, lender: Lender, clone: str) -> frozenset[str]:
    """What a lender keeps for a clone; nothing where it has no hold. Raises: ``CorruptionError``,
    ``UnavailableError``."""
    return held_names(store, clone) or held_names(store, lender.hold)


class Holds:
    """:func:`kept_names` for those who go on where a hold is damaged: what it keeps cannot be told
    then, and the lender stands among the ``damaged``, with what is wrong."""

    def __init__(self) -> None:
        self.damaged: dict[Lender, CorruptionError] = {}

    def __call__(self, store: ObjectStore, lender: Lender, clone: str) -> frozenset[str] | None:
        """Raises: ``UnavailableError``."""
        try:
            return kept_names(store, lender, clone)
        except CorruptionError as error:
            self.damaged[lender] = error
            return None


def borrow(stores: Stores, debt: Debt, kept: KeptNames = kept_names) -> None:
    """Have ``stores`` read what a database borrows, too. Makes no request."""
    stores.borrow(debt, kept)


def open_for_reading(stores: Stores, state: ManifestState) -> None:
    """:func:`borrow` for a state, all of which is kept: a LIST or two of a single name at each
    lender of which something is needed. Raises: ``CorruptionError`` where it is not kept,
    ``NotFoundError`` for a clone that was dropped, ``UnavailableError``."""
    _begin(stores, state)
    for lender, store in _needed(stores, state):
        if not (_is_there(store, state.database_id) or _is_there(store, lender.hold)):
            raise lost(lender, state.database_id)


def open_for_writing(stores: Stores, state: ManifestState) -> None:
    """As :func:`open_for_reading`; and holds last then."""
    _begin(stores, state)
    for lender, store in _needed(stores, state):
        secure(store, lender, state.database_id)


def check_not_dropped(state: ManifestState) -> None:
    """Raise ``NotFoundError`` for a clone that is being deleted."""
    if state.home == DROPPED:
        raise NotFoundError(
            f"the clone {state.database_id} was dropped; drop it again if that was cut short"
        )


def _begin(stores: Stores, state: ManifestState) -> None:
    check_not_dropped(state)
    borrow(stores, Debt(state.database_id, state.loans))


def secure(store: ObjectStore, lender: Lender, database_id: str) -> None:
    """Make sure that the hold of a clone lasts. Raises as :func:`open_for_reading`.

    The new hold counts only if the old one is there afterwards: so at every moment there was one.
    """
    if _is_there(store, database_id):
        return
    lasting, passing = hold_name(database_id), hold_name(lender.hold)
    try:
        kept = decode_kept(passing, store.get(passing))
        store.put_if_absent(lasting, encode_kept(replace(kept, id=database_id, lifetime=0.0)))
    except NotFoundError as error:
        raise lost(lender, database_id) from error
    except AlreadyExistsError:
        return  # another process opens it, too
    if not _is_there(store, lender.hold):
        release(store, lasting)
        raise lost(lender, database_id)
    release(store, passing)


def lost(lender: Lender, database_id: str) -> CorruptionError:
    """What is wrong where a lender keeps nothing for a clone any more."""
    return CorruptionError(
        f"this database is a clone, and {lender.url}, from which it borrows tables, does not keep "
        "them for it any more",
        name=f"{lender.url}/{hold_name(database_id)}",
        hint="they may be gone at any moment, or are already: make a new clone; what can still be "
        "read of this one can be backed up",
    )


def _needed(stores: Stores, state: ManifestState) -> list[tuple[Lender, ObjectStore]]:
    """The lenders of which a state needs something."""
    names = {name for table in state.version.tables for name in table.objects}
    needed = {lender_of(state.loans, name) for name in names}
    return [each for each in stores.lent(Purpose.MANIFEST) if each[0] in needed]


def _is_there(store: ObjectStore, hold: str) -> bool:
    name = hold_name(hold)
    return any(info.name == name for info in store.list(name))


class GivingBack:
    """Lets go of the hold at each lender when nothing is borrowed from it any more."""

    def __init__(self, stores: Stores, state: ManifestState) -> None:
        self._lent = stores.lent(Purpose.GARBAGE)
        self._loans = state.loans
        self._database_id = state.database_id

    def __call__(self, in_use: Collection[str]) -> None:
        """``in_use``: names of all objects that somebody may still read. Raises:
        ``UnavailableError``."""
        needed = {lender_of(self._loans, name) for name in in_use} if self._lent else set()
        for lender, store in list(self._lent):
            if lender not in needed:
                release(store, hold_name(self._database_id))
                release(store, hold_name(lender.hold))
                self._lent.remove((lender, store))
