"""One drill: the newest backup is restored into a scratch folder, and what that shows is compared
with what the database showed after the same commit.

It is strict where a restore is not: a backup from which something is missing has failed, though
another way to the same commit would be found. What the database showed then is read first, as
its past is passing. Where it cannot be told any more, the restored database is read all the same,
every table and every value under its checksum, and the report says that it was not compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec

from seerdb.clock import Clock
from seerdb.errors import (
    ChecksumError,
    ConflictError,
    CorruptionError,
    HistoryError,
    NotFoundError,
)
from seerdb.storage.backup.archive import Archive, is_void, open_archive
from seerdb.storage.backup.catalogue import by_content
from seerdb.storage.backup.copying import Carrier, Progress, nothing
from seerdb.storage.backup.descriptor import Descriptor
from seerdb.storage.backup.log import Log, read_log
from seerdb.storage.backup.restore import Wanted, restore_archive
from seerdb.storage.drill.moment import digest_of, digest_then
from seerdb.storage.drill.scratch import scratch_folder
from seerdb.storage.jobs.control import JobControl, under_control
from seerdb.storage.manifest.fencing import RandomBytes
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.read.content import ContentDigest
from seerdb.storage.value import SECOND_US
from seerdb.storage.workers.pace import at_full_speed
from seerdb.storage.workers.threads import InlineExecutor


class DrillReport(msgspec.Struct, frozen=True):
    """What a drill found. The backup brought back ``entries`` keys as they were after the commit
    ``seq``; ``compared`` with what the database showed then, or else the ``note`` says why not;
    it tells also of a hold that the bucket did not let go of.

    ``rpo_seconds``: the age of that commit, if the database has made later ones: what would be lost
    if nothing but the backup were left. ``seconds``: what it took to bring it back and to read it.
    """

    backup: str
    seq: int
    entries: int
    digest: str
    compared: bool
    note: str
    rpo_seconds: float
    seconds: float


def run_drill(
    source: ObjectStore,
    repository: ObjectStore,
    scratch: ObjectStore,
    *,
    backup: str | None,
    control: JobControl,
    clock: Clock,
    random_bytes: RandomBytes,
    watch: Callable[[Progress], None] = nothing,
) -> DrillReport:
    """Drill with the newest backup in ``repository`` of the database in ``source``, or with the one
    of that id. ``control`` holds it to a rate, and ends it.

    Raises: ``NotFoundError`` when there is no backup, or something of it is gone;
    ``CorruptionError`` when something of it is damaged; ``ChecksumError`` when it does not bring
    back what was there; ``ConflictError`` for another database's backup; ``UnavailableError``;
    ``ClosedError`` when it was ended. The scratch folder is gone then, unless its store is.
    """
    source, repository = (
        under_control(control, store, at_full_speed, clock)[0] for store in (source, repository)
    )
    state = load(source)
    if state is None:
        raise NotFoundError("there is no database to compare backups with")
    archive = open_archive(repository)
    chosen = _chosen(archive, state, backup)
    if backup is not None:  # what else is damaged there is not asked for
        archive = replace(archive, damaged=[])
    log = read_log(source)
    rpo_seconds = _rpo(log, state, chosen, clock)
    # What a merge may have dropped in one of them as expired counts in neither.
    second = max(chosen.state.time_us, chosen.time_us) // SECOND_US + 1
    notes: list[str] = []
    expected = _shown_then(source, chosen, log, second, clock, random_bytes, notes)
    began = clock.monotonic()
    with scratch_folder(scratch, clock, random_bytes) as folder:
        within = under_control(control, folder, at_full_speed, clock)[0]
        carrier = Carrier(threads=InlineExecutor(), clock=clock, jobs=1, watch=watch)
        wanted = Wanted(backup=chosen.id)
        report = restore_archive(archive, within, wanted, carrier, random_bytes)
        if report.notes:
            raise CorruptionError("something of the backups is damaged: " + "; ".join(report.notes))
        restored = load(within)
        assert restored is not None, "it was restored"
        found = digest_of(within, restored, expected.second if expected else second, clock)
        seconds = clock.monotonic() - began
    if expected is not None and found != expected:
        raise ChecksumError(
            "what was restored is not what the database was",
            name=f"backup {chosen.id}",
            expected=f"{expected.entries:,} entries, {expected.digest}",
            found=f"{found.entries:,} entries, {found.digest}",
        )
    return DrillReport(
        backup=chosen.id,
        seq=chosen.seq,
        entries=found.entries,
        digest=found.digest,
        compared=expected is not None,
        note="; ".join(notes),
        rpo_seconds=rpo_seconds,
        seconds=seconds,
    )


def _shown_then(
    source: ObjectStore,
    chosen: Descriptor,
    log: Log,
    second: int,
    clock: Clock,
    random_bytes: RandomBytes,
    notes: list[str],
) -> ContentDigest | None:
    """What the database showed after the commit of a backup; where it cannot tell, a note says
    why."""
    try:
        if is_void(chosen, log):
            raise HistoryError("it has lost commits of this backup, and gone another way since")
        return digest_then(source, chosen.seq, second, clock, random_bytes, notes.append)
    except HistoryError as error:
        notes.append(f"not compared, as the database cannot tell what it was: {error}")
    return None


def _chosen(archive: Archive, state: ManifestState, backup: str | None) -> Descriptor:
    found = [base.backup for base in archive.bases if base.backup is not None]
    if backup is not None:
        found = [archive.find(backup)]
    if not found:
        archive.check_sound()
        raise NotFoundError("there is no backup yet in the repository")
    if archive.database_id != state.database_id:
        raise ConflictError(
            f"the repository holds backups of database {archive.database_id}, and not of "
            f"{state.database_id}"
        )
    return max(found, key=by_content)


def _rpo(log: Log, state: ManifestState, backup: Descriptor, clock: Clock) -> float:
    newest = max([int(state.last_seq), *(each.last for each in log.stretches)])
    if newest <= backup.seq:
        return 0.0
    return max(0.0, clock.now() - backup.time_us / SECOND_US)
