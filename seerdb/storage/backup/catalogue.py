"""The backups in a repository.

::

    backups/<backup id>       one descriptor each; see ``descriptor.py``
    tables/, blobs/, wal/     named as in the database, and shared by all backups that need them
    locks/                    who works here; see ``locks.py``

A repository holds backups of one database: ids of its tables are never used twice, so an object of
the same name is the same object. It needs of its store no more than put, get, list and delete.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from seerdb.errors import CorruptionError, InvalidRequestError, NotFoundError
from seerdb.storage.backup.descriptor import Descriptor, decode_descriptor
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import (
    BACKUP_PREFIX,
    MANIFEST_PREFIX,
    backup_name,
    parse_backup_name,
)


@dataclass(frozen=True)
class Catalogue:
    """What a listing found: sound descriptors, those that hold the least first, and what is wrong
    with others."""

    backups: list[Descriptor]
    damaged: list[CorruptionError] = field(default_factory=list)

    def find(self, backup: str) -> Descriptor:
        """The backup with that id. Raises: ``NotFoundError``, ``CorruptionError``."""
        for each in self.backups:
            if each.id == backup:
                return each
        for error in self.damaged:
            if error.name == backup_name(backup):
                raise error
        raise NotFoundError(f"there is no backup {backup}; list them")


def read_catalogue(store: ObjectStore) -> Catalogue:
    """All backups: one LIST, and one GET each."""
    catalogue = Catalogue([])
    for info in store.list(BACKUP_PREFIX):
        backup = parse_backup_name(info.name)
        if backup is None:
            continue
        try:
            descriptor = decode_descriptor(info.name, store.get(info.name))
            if descriptor.id != backup:
                raise CorruptionError(
                    "the object describes another backup",
                    name=info.name,
                    expected=backup,
                    found=descriptor.id,
                )
            catalogue.backups.append(descriptor)
        except NotFoundError:
            continue  # pruned meanwhile
        except CorruptionError as error:
            catalogue.damaged.append(error)
    catalogue.backups.sort(key=by_content)
    return catalogue


def by_content(backup: Descriptor) -> tuple[int, int, int]:
    """The place of a backup among others, by what it holds: the clock by which one was made may
    have been wrong, and of commits that the database has lost it may have more than the next."""
    return backup.record.number, backup.seq, backup.created_us


def check_repository(store: ObjectStore, catalogue: Catalogue, database_id: str) -> None:
    """Raise ``InvalidRequestError`` unless backups of that database may go there."""
    if store.list(MANIFEST_PREFIX):
        raise InvalidRequestError(
            "there is a database where the backup is to go; name another place"
        )
    for each in catalogue.backups:
        if each.database_id != database_id:
            raise InvalidRequestError(
                f"the repository holds backups of database {each.database_id}, and this is "
                f"{database_id}; name another place"
            )
