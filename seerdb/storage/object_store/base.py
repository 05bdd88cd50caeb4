"""The bucket as a port: whole, immutable objects under names.

Names are relative to the database's prefix and use ``/``; ``names.py`` is the only module
that builds or parses them. Implementations and wrappers share one protocol:
``fsspec_store`` (anything fsspec knows), ``local_store`` (a directory), ``testing.objects``
(memory, faults), and the wrappers ``retrying``, ``breaker`` and ``meter``. ``location`` says
which one a URL needs and opens it, in any process.

Errors of every method: ``UnavailableError`` when the store cannot be reached, refuses, or its
answer breaks off (the outcome of a write is then *unknown*: it may have happened),
``NotFoundError`` for a missing name, ``TruncatedError`` when a whole answer holds fewer bytes
than it should: the object is short.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from seerdb.errors import UnavailableError
from seerdb.storage.pieces import Body, crc_of


class DeletionDeniedError(UnavailableError):
    """The store answered that names may not be deleted: it is there, and may do all else."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One line of a listing. ``modified`` is the store's wall clock, seconds since 1970."""

    name: str
    size: int
    modified: float


class Checksum(NamedTuple):
    """What tells bytes from others that an accident could leave in their place."""

    size: int
    crc32c: int

    @classmethod
    def of(cls, data: Body) -> Checksum:
        """That of ``data``."""
        return cls(len(data), crc_of(data))


class ObjectStore(Protocol):
    """A bucket prefix. Thread-safe; not to be used across a fork."""

    def get(self, name: str) -> bytes:
        """The whole object, its length checked against what the store announced: an answer that
        breaks off is ``UnavailableError``."""

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``; ``TruncatedError`` when there are fewer.

        Requires: ``length >= 1``.
        """

    def checksum(self, name: str) -> Checksum:
        """That of the whole object as the store has it now, for the price of a :meth:`get`."""

    def put(self, name: str, data: Body) -> None:
        """Create or replace the object in one atomic step. Durable when it returns.

        Of ``data`` in pieces the store makes one object; those on the local disk join nothing.
        """

    def put_if_absent(self, name: str, data: Body) -> None:
        """Create the object; ``AlreadyExistsError`` when the name is taken.

        Atomic against every other writer. Durable when it returns. After
        ``UnavailableError`` the caller must read the object back to learn the outcome.
        """

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Every object whose name starts with ``prefix``, sorted by name; never cached."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete the named objects; a missing one is no error.

        Raises ``DeletionDeniedError`` when the store does not allow it.
        """

    def close(self) -> None:
        """Release connections. Idempotent."""
