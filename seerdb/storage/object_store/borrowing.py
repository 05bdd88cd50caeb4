"""The bucket of a clone: its own objects, and those that it borrows from others.

Borrowed objects are read where they lie and listed as if they lay here; whoever goes through all
tables of a database sees them. Nothing is ever written to a lender, nor deleted there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from seerdb.errors import CorruptionError, InternalError, NotFoundError, UnavailableError
from seerdb.storage.object_store.base import Checksum, ObjectInfo, ObjectStore
from seerdb.storage.object_store.lender import Debt, Lender, Loans
from seerdb.storage.object_store.names import BLOB_PREFIX, TABLE_PREFIX, made_in
from seerdb.storage.pieces import Body

KeptNames = Callable[[ObjectStore, Lender, str], frozenset[str] | None]
"""What a lender keeps in its store for the clone of an id; ``None``: that cannot be told, and so
everything that lies there may be."""


def lender_of(loans: Loans, name: str) -> Lender | None:
    """Who has an object of that name; ``None``: the clone itself."""
    epoch = made_in(name) if loans.lenders else None
    return None if epoch is None else loans.lender_of(name, epoch)


class BorrowingObjectStore:
    """``own``, and ``stores`` of the lenders, in their order. Thread-safe as these are.

    An error of a lender names it.
    """

    def __init__(
        self, own: ObjectStore, debt: Debt, stores: Sequence[ObjectStore], kept: KeptNames
    ) -> None:
        self._own = own
        self._loans = loans = debt.loans
        self._clone = debt.database_id
        self._stores = dict(zip(loans.lenders, stores, strict=True))
        self._kept = kept

    def get(self, name: str) -> bytes:
        with self._at(name) as store:
            return store.get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        with self._at(name) as store:
            return store.get_range(name, offset, length)

    def checksum(self, name: str) -> Checksum:
        with self._at(name) as store:
            return store.checksum(name)

    def put(self, name: str, data: Body) -> None:
        self._check_own(name)
        self._own.put(name, data)

    def put_if_absent(self, name: str, data: Body) -> None:
        self._check_own(name)
        self._own.put_if_absent(name, data)

    def list(self, prefix: str) -> list[ObjectInfo]:
        found = self._own.list(prefix)
        if prefix.startswith((TABLE_PREFIX, BLOB_PREFIX)):
            for lender in self._loans.lenders:
                found += self._lent_by(lender, prefix)
            found.sort(key=lambda info: info.name)
        return found

    def delete(self, names: Iterable[str]) -> None:
        names = list(names)
        for name in names:
            self._check_own(name)
        self._own.delete(names)

    def close(self) -> None:
        self._own.close()
        for store in self._stores.values():
            store.close()

    def _lent_by(self, lender: Lender, prefix: str) -> Sequence[ObjectInfo]:
        store = self._stores[lender]
        with _telling(lender, prefix):
            # Asked each time: what was given back may be gone at any moment.
            names = self._kept(store, lender, self._clone)
            return [
                info
                for info in (store.list(prefix) if names or names is None else ())
                if (names is None or info.name in names)
                and lender_of(self._loans, info.name) is lender
            ]

    @contextmanager
    def _at(self, name: str) -> Iterator[ObjectStore]:
        """Where ``name`` lies."""
        lender = lender_of(self._loans, name)
        if lender is None:
            yield self._own
        else:
            with _telling(lender, name):
                yield self._stores[lender]

    def _check_own(self, name: str) -> None:
        if lender := lender_of(self._loans, name):
            raise InternalError(f"{name} is borrowed from {lender.url}, and not to be changed")


@contextmanager
def _telling(lender: Lender, what: str) -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:
        raise NotFoundError(f"{what}, borrowed from {lender.url}, is not there: {error}") from error
    except UnavailableError as error:
        raise UnavailableError(
            f"{lender.url} cannot be reached, from which this clone borrows {what}: {error}"
        ) from error
    except CorruptionError as error:
        error.add_note(f"this clone borrows it from {lender.url}")
        raise
