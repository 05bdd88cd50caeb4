"""Where a clone has its objects from: what it borrows lies with others, under the same names.

A clone makes its tables in epochs after that of the state it was made of, as a restored database
does. So the epoch in the id of a table, or of the table that a blob was made with, tells whose it
is, and nothing is noted of single objects but the few that a clone copied.

These records are part of the manifest's format. They are the same as long as the clone is there,
also when nothing is borrowed any more.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from seerdb.ids import Epoch, StoredEpoch


class Lender(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A bucket from which a clone borrows. What it borrows is kept there by the hold that has the
    id of the clone's database (see ``retention/kept.py``)."""

    url: str
    """Of the bucket; the clone's own store reaches it."""
    database_id: str
    epoch: StoredEpoch
    """What was made after the epoch of the lender before, and up to this one, lies here;"""
    also: tuple[str, ...] = ()
    """and so do these objects, which are older."""
    hold: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{32})?$")] = ""
    """Id of the hold that keeps it until the lasting one is there, which follows the manifest."""


class Loans(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All lenders of a database, by epoch; none for a database that is no clone."""

    lenders: tuple[Lender, ...] = ()
    copied: tuple[str, ...] = ()
    """Objects of the lenders' epochs that lie in the clone's own bucket all the same."""

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a lender that is named twice."""
        if len(set(self.lenders)) < len(self.lenders):
            raise ValueError("a lender is named twice")

    def lender_of(self, name: str, epoch: Epoch) -> Lender | None:
        """Who has the object ``name``, made in ``epoch``; ``None``: the database itself."""
        if name in self.copied:
            return None
        for lender in self.lenders:
            if name in lender.also:
                return lender
        return next((each for each in self.lenders if epoch <= each.epoch), None)


NO_LOANS = Loans()


class Debt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a database borrows, and who it is."""

    database_id: str
    loans: Loans


NO_DEBT = Debt("", NO_LOANS)
