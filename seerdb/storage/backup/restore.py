"""Making a new database of what an archive holds.

Tables and blobs of the nearest base are copied and proved, the log that leads from there to the
wanted commit becomes tables, and then one manifest object makes a database of it: before that
there is none, and a restore that died is run again, into the same place, and copies the rest.

The database is a new one. It has an id of its own, so nothing that is left of the other one, be it
a log on some disk, a follower or a backup, can be taken for a part of it; from the restored commit
on its seqs tell another history. The epochs of the other one are behind it, so no id of a table is
used twice.

Where an object turns out to be damaged or missing, the next base that leads to the same commit is
taken; without a wish for a certain commit, also one that leads to an earlier one. The report says
so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import msgspec
from msgspec.structs import replace

from seerdb.errors import (
    AlreadyExistsError,
    CorruptionError,
    HistoryError,
    InvalidRequestError,
    NotFoundError,
)
from seerdb.ids import SegmentId, SeqNo, table_id
from seerdb.storage.backup.archive import Archive, Base, is_void
from seerdb.storage.backup.copying import Carrier, check_sizes, copy, is_sound, sizes
from seerdb.storage.backup.descriptor import ObjectSum, following, objects_of
from seerdb.storage.backup.log import Stretch, records
from seerdb.storage.backup.rebuild import Rebuilder
from seerdb.storage.compaction.plan import between
from seerdb.storage.manifest.edit import Checkpoint, encode_record
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.lender import NO_LOANS
from seerdb.storage.object_store.names import (
    BLOB_PREFIX,
    TABLE_PREFIX,
    blob_name,
    manifest_name,
    table_name,
)
from seerdb.storage.read.rows import bounds
from seerdb.storage.wal.columns import Record


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to restore: the newest commit, that of a backup, one by its seq, or the last one made by
    a time, microseconds since 1970; at most one of them is given."""

    backup: str | None = None
    seq: int | None = None
    time_us: int | None = None
    prefix: bytes | None = None
    """Of the keys; ``None``: all keys."""

    def __post_init__(self) -> None:
        given = [each for each in (self.backup, self.seq, self.time_us) if each is not None]
        if len(given) > 1:
            raise InvalidRequestError("name a backup, a seq or a time, and only one of them")
        if self.seq is not None:
            check_seq(self.seq)


def check_seq(seq: object) -> None:
    """Raise ``InvalidRequestError`` for what no manifest could hold as the last seq."""
    if isinstance(seq, bool) or not isinstance(seq, int):
        raise InvalidRequestError(f"seq must be a whole number, not {seq!r}")


class RestoreReport(msgspec.Struct, frozen=True):
    """What was restored, or would be. ``bytes`` are those of all ``objects`` that were copied,
    ``commits`` those that came from the log, ``base`` what the tables came from."""

    base: str
    seq: int
    time_us: int
    source_database_id: str
    database_id: str
    """Of the new database; "" when nothing was done."""
    objects: int
    bytes: int
    commits: int
    seconds: float
    notes: list[str]
    """What is damaged, and what was done instead."""


def restore_archive(
    archive: Archive,
    target: ObjectStore,
    wanted: Wanted,
    carrier: Carrier,
    random_bytes: Callable[[int], bytes],
    *,
    dry_run: bool = False,
) -> RestoreReport:
    """Make a database in ``target``. Durable when it returns; ``dry_run`` says what it would do.

    Raises: ``AlreadyExistsError`` when there is anything else in ``target``, ``HistoryError`` for
    a commit that cannot be restored, ``NotFoundError`` for a backup that is not there,
    ``CorruptionError`` when nothing sound leads there, ``UnavailableError``; whatever the carrier's
    ``watch`` raises.
    """
    began = carrier.clock.monotonic()
    notes = [str(error) for error in archive.damaged]
    found = list(ways(archive, wanted))
    check_empty(target, [base.state for _, base, _ in found])
    failure: CorruptionError | NotFoundError | None = None
    for within, base, seq in found:
        if failure is not None:
            notes.append(f"{failure}; taking {base.name} to seq {seq} instead")
        restoration = _Restoration(within, base, seq, target, carrier, wanted.prefix)
        try:
            restoration.check()
            state = None if dry_run else restoration.run(random_bytes)
        except (CorruptionError, NotFoundError) as error:
            failure = error
            continue
        return RestoreReport(
            base=base.name,
            seq=seq,
            time_us=within.time_of(seq),
            source_database_id=archive.database_id,
            database_id=state.database_id if state else "",
            objects=len(restoration.objects),
            bytes=sum(each.size for each in restoration.objects),
            commits=seq - base.state.last_seq,
            seconds=carrier.clock.monotonic() - began,
            notes=notes,
        )
    assert failure is not None, "there is a way at least"
    failure.add_note(f"nothing else leads there; tried: {', '.join(b.name for _, b, _ in found)}")
    raise failure


def ways(archive: Archive, wanted: Wanted) -> Iterator[tuple[Archive, Base, int]]:
    """Bases and the commits to restore from them, in the order in which to try them, each with the
    part of the archive that tells these. Raises: ``HistoryError``, ``NotFoundError``,
    ``CorruptionError``, ``UnavailableError``."""
    if wanted.backup is not None:
        yield from _ways_to_backup(archive, wanted.backup)
        return
    archive.check_sound()
    seqs = _wanted_seqs(archive, wanted)
    found = [(archive, base, seq) for seq in seqs for base in archive.candidates(seq)]
    if not found:
        ranges = [f"{each.first} to {each.last}" for each in archive.ranges()]
        raise HistoryError(
            f"seq {seqs[0] if seqs else 0} cannot be restored from here; these can: "
            f"{', '.join(ranges) or 'none'}"
        )
    yield from found


def _ways_to_backup(archive: Archive, wanted: str) -> Iterator[tuple[Archive, Base, int]]:
    """First the backup by itself; then, unless the database has lost commits of it since, whatever
    leads to the same one."""
    backup = archive.find(wanted)
    alone = archive.alone(backup)
    yield alone, alone.bases[0], backup.seq
    if not is_void(backup, archive.log):
        others = [base for base in archive.candidates(backup.seq) if base.backup != backup]
        yield from ((archive, base, backup.seq) for base in others)


def _wanted_seqs(archive: Archive, wanted: Wanted) -> list[int]:
    if wanted.seq is not None:
        return [wanted.seq]
    if wanted.time_us is not None:
        return [archive.seq_at(wanted.time_us)]
    return sorted({*archive.reaches, *(base.seq for base in archive.bases)}, reverse=True)


def check_empty(target: ObjectStore, bases: list[ManifestState], *also: str) -> None:
    """Raise ``AlreadyExistsError`` unless all that is there is what a restore or a clone of these
    has left, and what may be there ``also``."""
    ours = set(also)
    made: list[str] = []
    for state in bases:
        ours |= {each.name for each in objects_of(state)}
        mark = table_id(following(state.epoch), 0).partition("-")[0]
        made += [f"{TABLE_PREFIX}{mark}-", f"{BLOB_PREFIX}{mark}-"]
    for info in target.list(""):
        if info.name not in ours and not info.name.startswith(tuple(made)):
            raise AlreadyExistsError(
                f"the target is not empty: there is {info.name}; name another place, or empty it"
            )


class _Restoration:
    """A restore from one base. ``objects`` are those that are copied."""

    def __init__(
        self,
        archive: Archive,
        base: Base,
        seq: int,
        target: ObjectStore,
        carrier: Carrier,
        prefix: bytes | None,
    ) -> None:
        self._archive = archive
        self._base = base
        self._seq = seq
        self._target = target
        self._carrier = carrier
        self._epoch = following(base.state.epoch)
        start, end = bounds(None, None, prefix)
        self._rebuilder = Rebuilder(target, self._epoch, start, end)
        self._runs = between(base.state.version.runs, start, end)
        self._whole = [
            table for run in self._runs for table in run.tables if self._rebuilder.is_within(table)
        ]
        self.objects = objects_of(replace(base.state, version=Version.of(self._whole)))

    def check(self) -> None:
        """Raise ``NotFoundError`` for an object that is missing, or not as long as it must be."""
        needed = replace(self._base.state, version=Version(self._runs))
        check_sizes(self._archive.store, objects_of(needed))

    def run(self, random_bytes: Callable[[int], bytes]) -> ManifestState:
        """Do it; returns the state of the new database."""
        tables = self._whole + self._cut()
        self._copy(objects_of(replace(self._base.state, version=Version.of(tables))), tables)
        tables += self._replay()
        state = replace(
            self._base.state,
            version=Version.of(tables),
            epoch=self._epoch,
            last_seq=SeqNo(self._seq),
            time_us=self._archive.time_of(self._seq),
            database_id=random_bytes(16).hex(),
            loans=NO_LOANS,
        )
        record = only_record(state, random_bytes(16).hex())
        self._target.put_if_absent(manifest_name(record.number), encode_record(record))
        return state

    def _cut(self) -> list[TableMeta]:
        whole = {table.id for table in self._whole}
        tasks = [
            (table.size, partial(self._rebuilder.cut, self._archive.store, run, table))
            for run in self._runs
            for table in run.tables
            if table.id not in whole
        ]
        self._carrier.expect(tasks)
        return [table for made in self._carrier.carry(tasks) for table in made]

    def _copy(self, needed: list[ObjectSum], tables: list[TableMeta]) -> None:
        """Bring what is not made here: whole tables, and the blobs of all."""
        names = {table_name(table.id) for table in self._whole}
        names |= {blob_name(ref.id) for table in tables for ref in table.blobs}
        there = sizes(self._target)
        self.objects = [each for each in needed if each.name in names]
        tasks = [
            (each.size, partial(self._bring, each, look=there.get(each.name) == each.size))
            for each in self.objects
        ]
        self._carrier.expect(tasks)
        self._carrier.carry(tasks)
        check_sizes(self._target, self.objects)

    def _bring(self, wanted: ObjectSum, *, look: bool) -> None:
        if not (look and is_sound(self._target, wanted)):
            copy(self._archive.store, self._target, wanted)

    def _replay(self) -> list[TableMeta]:
        after, archive = self._base.state.last_seq, self._archive
        stretches = archive.log.between(after, self._seq)
        self._carrier.expect((each.size, None) for each in stretches)
        groups = records(
            archive.store,
            archive.log,
            archive.database_id,
            after=after,
            upto=self._seq,
            threads=self._carrier.threads,
        )
        newest = max((run.number for run in self._base.state.version.runs), default=0)
        return list(self._rebuilder.replay(self._counted(groups, stretches), newest + 1))

    def _counted(
        self, groups: Iterator[list[Record]], stretches: list[Stretch]
    ) -> Iterator[list[Record]]:
        for group, stretch in zip_longest(groups, stretches):
            if group is not None:  # there are more where several stand in for a damaged object
                yield group
            if stretch is not None:
                self._carrier.done(stretch.size)


def only_record(state: ManifestState, write_id: str) -> Checkpoint:
    """``state`` as the first and only record of a manifest that has no writer yet."""
    return Checkpoint(
        number=1,
        epoch=state.epoch,
        write_id=write_id,
        previous="",
        checkpoint=1,
        last_seq=state.last_seq,
        time_us=state.time_us,
        checkpoint_before=0,
        database_id=state.database_id,
        home="",
        store="",
        capabilities={},
        log_start=SegmentId(0),
        claims=[],
        tables=state.version.tables,
        merge_operator=state.merge_operator,
        loans=state.loans,
    )
