"""Whether backups are sound: every byte of what they need is read."""

from __future__ import annotations

from functools import partial

import msgspec

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.storage.backup.catalogue import read_catalogue
from seerdb.storage.backup.copying import Carrier, prove
from seerdb.storage.backup.descriptor import ObjectSum
from seerdb.storage.object_store.base import ObjectStore


class CheckedBackup(msgspec.Struct, frozen=True):
    """A backup and what is wrong with it."""

    id: str
    seq: int
    objects: int
    bytes: int
    problems: list[str]


class BackupCheck(msgspec.Struct, frozen=True):
    """What was checked: ``objects``, each once, and their ``bytes``; ``problems`` are those of the
    repository, descriptors that cannot be read."""

    objects: int
    bytes: int
    backups: list[CheckedBackup]
    problems: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not any(each.problems for each in self.backups)


def check_backups(store: ObjectStore, carrier: Carrier, backup: str | None = None) -> BackupCheck:
    """Read what all backups need, or one of them. Damage is reported, not raised.

    Raises: ``NotFoundError`` when there is no such backup, or none at all; ``UnavailableError``.
    """
    catalogue = read_catalogue(store)
    problems = [str(error) for error in catalogue.damaged]
    if backup is not None:
        backups, problems = [catalogue.find(backup)], []
    else:
        backups = catalogue.backups
    if not backups and not problems:
        raise NotFoundError("there is no backup here")
    needed = dict.fromkeys(each for one in backups for each in one.objects)
    tasks = [(each.size, partial(_problem, store, each)) for each in needed]
    carrier.expect(tasks)
    wrong = dict(zip(needed, carrier.carry(tasks), strict=True))
    return BackupCheck(
        objects=len(needed),
        bytes=sum(each.size for each in needed),
        backups=[
            CheckedBackup(
                id=one.id,
                seq=one.seq,
                objects=len(one.objects),
                bytes=one.size,
                problems=[found for each in one.objects if (found := wrong[each])],
            )
            for one in backups
        ],
        problems=problems,
    )


def _problem(store: ObjectStore, wanted: ObjectSum) -> str:
    try:
        prove(store, wanted)
    except (CorruptionError, NotFoundError) as error:
        return str(error)
    return ""
