"""Whether backups are sound: every byte of what they need is read, and the log between them."""

from __future__ import annotations

from functools import partial

import msgspec

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.ids import MAX_SEQ
from seerdb.storage.backup.catalogue import Catalogue, read_catalogue
from seerdb.storage.backup.copying import Carrier, prove
from seerdb.storage.backup.descriptor import Descriptor, ObjectSum
from seerdb.storage.backup.log import Stretch, decode_stretch, read_log
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
    repository, descriptors that cannot be read, and log between backups."""

    objects: int
    bytes: int
    backups: list[CheckedBackup]
    problems: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not any(each.problems for each in self.backups)


def check_backups(store: ObjectStore, carrier: Carrier, backup: str | None = None) -> BackupCheck:
    """Read what all backups need, and the log that leads from one to the next; or what one of them
    needs. Damage is reported, not raised.

    Raises: ``NotFoundError`` when there is no such backup, or none at all; ``UnavailableError``.
    """
    catalogue = read_catalogue(store)
    if backup is not None:
        catalogue = Catalogue([catalogue.find(backup)])
    backups = catalogue.backups
    if not backups and not catalogue.damaged:
        raise NotFoundError("there is no backup here")
    needed = dict.fromkeys(each for one in backups for each in one.objects)
    between = [] if backup is not None else _between(store, backups)
    tasks = [(each.size, partial(_problem, store, each)) for each in needed]
    reading = [(each.size, partial(_log_problem, store, backups[0], each)) for each in between]
    carrier.expect([*tasks, *reading])
    wrong = dict(zip(needed, carrier.carry(tasks), strict=True))
    problems = [*map(str, catalogue.damaged), *filter(None, carrier.carry(reading))]
    return BackupCheck(
        objects=len(needed) + len(between),
        bytes=sum(size for size, _ in (*tasks, *reading)),
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


def _between(store: ObjectStore, backups: list[Descriptor]) -> list[Stretch]:
    """The log that no backup needs, and that the commits after the oldest of them do."""
    named = {each.name for one in backups for each in one.log}
    oldest = min((one.record.last_seq for one in backups), default=MAX_SEQ)
    stretches = read_log(store).stretches
    return [each for each in stretches if each.last > oldest and each.name not in named]


def _log_problem(store: ObjectStore, backup: Descriptor, stretch: Stretch) -> str:
    try:
        decode_stretch(stretch, store.get(stretch.name), backup.database_id)
    except NotFoundError:
        return ""  # pruned meanwhile; else it is a gap, which recovery points name
    except CorruptionError as error:
        return f"log between backups, which are sound without it: {error}"
    return ""


def _problem(store: ObjectStore, wanted: ObjectSum) -> str:
    try:
        prove(store, wanted)
    except (CorruptionError, NotFoundError) as error:
        return str(error)
    return ""
