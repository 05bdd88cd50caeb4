"""Rebuilding a database whose manifest is lost or damaged, into a place of its own.

1. read what is left of the manifest, the shipped log, and every table and blob that may count
2. choose and arrange tables: by the manifest where it tells the newest state, else by
   ``arrange.py``
3. choose where the log goes on, and which one: ``going_on.py``
4. copy what was chosen, each object proved by its checksum where it came from and where it went
5. write one checkpoint as the first manifest object: only now there is a database

The source is not changed. The target holds nothing that a repair of the same source would not put
there, so one that was cut short can be run again; and no manifest.

The database keeps its id, as its logs name it, and gets an epoch that no writer before had, so no
name of an object is used twice. Its writers are fenced by manifest records of their own prefix,
which a writer of the source never looks at: that one must be stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from seerdb.errors import AlreadyExistsError, ChecksumError, CorruptionError
from seerdb.ids import SegmentId, SeqNo, TableId
from seerdb.storage.manifest.edit import Checkpoint, encode_record
from seerdb.storage.manifest.version import Version, check_version
from seerdb.storage.object_store.base import Checksum, ObjectStore
from seerdb.storage.object_store.names import (
    CHECKPOINT_PREFIX,
    blob_name,
    manifest_name,
    parse_table_name,
    table_name,
)
from seerdb.storage.object_store.upload import upload
from seerdb.storage.repair.arrange import Arrangement, arrange
from seerdb.storage.repair.beyond import local_epoch, local_parts
from seerdb.storage.repair.compare import compare
from seerdb.storage.repair.finds import Finds, Means, candidates, look
from seerdb.storage.repair.going_on import go_on
from seerdb.storage.repair.report import Doubt, RepairReport
from seerdb.storage.repair.shipped import Stretch
from seerdb.storage.repair.survey import SoundTable, loss_of
from seerdb.storage.retention.kept import restore_after
from seerdb.storage.verify import LocalLog
from seerdb.storage.wal.home import Home, load_home
from seerdb.storage.workers.threads import in_order


class Copy(NamedTuple):
    """What is put under ``name``: what lies under ``source``, with its checksum, or a ``part`` of
    that."""

    name: str
    source: str
    checksum: Checksum
    part: Stretch | None = None


FIRST = 1
"""Number of the one manifest object that is written."""


def repair(
    source: ObjectStore, target: ObjectStore, means: Means, *, dry_run: bool = False
) -> RepairReport:
    """Rebuild what ``source`` holds in ``target``. Durable when it returns. ``dry_run``: the report
    alone.

    Raises: ``NotFoundError`` where there is nothing to rebuild, ``AlreadyExistsError`` where the
    target is not empty, ``ChecksumError`` where the source changes meanwhile,
    ``UnavailableError``.
    """
    found = look(source, means)
    report = RepairReport(dry_run=dry_run)
    made = _choose(source, found, report)
    checkpoint = _checkpoint(found, made, report, means)
    copies = _copies(found, made, report)
    _check_target(target, copies)
    if not dry_run:
        _copy(source, target, copies, means)
        target.put_if_absent(manifest_name(FIRST), encode_record(checkpoint))
    return report


def _choose(source: ObjectStore, found: Finds, report: RepairReport) -> Arrangement:
    evidence = found.evidence
    report.lost = [*evidence.damaged, *found.survey.damaged, *found.log.damaged]
    fitting = candidates(found, report)
    there = {table.meta.id for table in fitting if not table.is_gone}
    version = evidence.state.version if evidence.state else Version()
    report.manifest = "whole" if evidence.is_newest else "part" if evidence.named else "none"
    is_known = evidence.state is not None and there <= {each.id for each in version.tables}
    looked = {table.meta.id for table in found.survey.tables}
    if is_known:
        made = Arrangement([table for table in version.tables if table.id in there])
    else:
        lost = [loss for loss in found.survey.damaged if parse_table_name(loss.name)]
        gone = [table for table in version.tables if table.id not in looked]
        facts = compare(source, fitting, [*lost, *(loss_of(each, "") for each in gone)])
        made = arrange(fitting, facts, is_vouched_for=evidence.is_newest)
        made.doubts += _recalled_doubts(found, made)
    _note_missing(found, fitting, version, report)
    _note_recalled(found, there, report)
    report.left_out += made.left_out
    used = {table.id for table in made.tables}
    report.left_out += [
        f"{table_name(each)}: the manifest removed it"
        for each in found.replaced
        if each not in used
    ]
    if found.evidence.is_newest:
        report.left_out += [
            f"{table_name(each)}: an ingest made it that was never shown, or the record of the "
            "manifest that showed it is lost, and was the last"
            for each in found.evidence.unshown
        ]
    _note_restores(source, found, report)
    report.lost += made.lost
    report.doubts = made.doubts
    check_version(Version.of(made.tables))
    return made


def _note_missing(
    found: Finds, fitting: Sequence[SoundTable], version: Version, report: RepairReport
) -> None:
    """Tables of the last state that can be told which are not in the bucket."""
    seen: set[str] = {loss.name for loss in found.survey.damaged}
    seen |= {table_name(table.meta.id) for table in fitting}
    seen |= {table_name(each) for each in found.evidence.removed}
    for table in version.tables:
        if table_name(table.id) in seen:
            continue
        if found.evidence.is_newest:
            report.lost.append(loss_of(table, "the manifest names it, but it is gone"))
        else:
            report.notes.append(
                f"{table_name(table.id)} is gone: replaced by what came after the records that "
                "can be read, or lost"
            )


def _note_recalled(found: Finds, there: set[TableId], report: RepairReport) -> None:
    """Tables that were replaced and stand in for what was made of them: if all of them do, nothing
    of that is lost."""
    for loss in list(report.lost):
        table = parse_table_name(loss.name)
        inputs = found.evidence.inputs.get(table) if table else None
        if inputs and inputs <= there:
            report.lost.remove(loss)
            names = ", ".join(table_name(each) for each in sorted(inputs))
            report.notes.append(f"{names} stand in for {loss.name}: {loss.problem}")


def _recalled_doubts(found: Finds, made: Arrangement) -> list[Doubt]:
    """Where a table that stands in for a damaged one brings back what it was split into besides:
    the other outputs of its merge may have been merged since, or count beside it."""
    evidence, doubts = found.evidence, []
    because = (
        "it stands in for a damaged table, and other tables were made of it too: keys that were "
        "deleted may be back, and operands may count twice"
    )
    for table in made.tables:
        for output, inputs in evidence.inputs.items():
            if table.id not in found.recalled or table.id not in inputs:
                continue
            if output in evidence.removed or table.merges:
                meta = evidence.named[output]
                doubt = Doubt(table_name(table.id), because, meta.smallest, meta.largest)
                doubts.append(doubt)
    return doubts


def _note_restores(source: ObjectStore, found: Finds, report: RepairReport) -> None:
    """Restores in place of which no record tells, but the checkpoint that each has left."""
    if report.manifest == "whole":
        return
    for info in source.list(CHECKPOINT_PREFIX):
        seq = restore_after(info.name)
        if seq is not None and seq not in found.evidence.restored:
            report.notes.append(
                f"{info.name} is from right before a restore in place at seq {seq:,}, of which no "
                "record tells that can be read: unless it failed, what it took away may be back, "
                "and what it brought back be hidden"
            )


def _checkpoint(found: Finds, made: Arrangement, report: RepairReport, means: Means) -> Checkpoint:
    evidence = found.evidence
    home = _local_home(found, report, means.log)
    parts = local_parts(means.log) if home else []
    last_seq, home_id = go_on(found, made, report, home, parts)
    report.database_id = (
        evidence.database_id
        or found.log.database_id
        or (home.database_id if home else "")
        or means.random_bytes(16).hex()
    )
    report.epoch, report.last_seq = found.epoch, last_seq
    if any(table.merges for table in made.tables) and not evidence.merge_operator:
        report.notes.append(
            "it holds merge operands, and the manifest alone knew by which operator: name it by "
            "the setting merge_operator"
        )
    return Checkpoint(
        number=FIRST,
        epoch=found.epoch,
        write_id=means.random_bytes(16).hex(),
        previous="",
        checkpoint=FIRST,
        checkpoint_before=0,
        last_seq=SeqNo(last_seq),
        time_us=max(means.clock.now_ns() // 1000, evidence.time_us + 1),
        database_id=report.database_id,
        home=home_id,
        store="",
        capabilities={},
        log_start=SegmentId(0),
        claims=[],
        tables=made.tables,
        merge_operator=evidence.merge_operator,
    )


def _local_home(found: Finds, report: RepairReport, log: LocalLog | None) -> Home | None:
    """Whose the local log is; ``None`` unless it continues the database."""
    if log is None:
        return None
    try:
        home = load_home(log.files, log.directory)
    except CorruptionError as error:
        report.notes.append(f"the local log is not used: {error}")
        return None
    database, newest = found.evidence.database_id or found.log.database_id, found.evidence.home
    if home is None or not home.complete:
        return None
    epoch = local_epoch(log)
    owned = max(epoch, found.evidence.home_epoch)
    is_named = home.home == (newest or home.home) and not found.log.branches_after(owned)
    if home.database_id != (database or home.database_id) or not (is_named or epoch >= found.epoch):
        report.notes.append(
            "the local log is not used: it is another database's, or another data directory has "
            "continued this one"
        )
        return None
    return home


def _copies(found: Finds, made: Arrangement, report: RepairReport) -> list[Copy]:
    """What the new database consists of, tables before what counts only with them."""
    tables = [
        Copy(name := table_name(each.id), name, Checksum(each.size, each.checksum))
        for each in made.tables
    ]
    blobs = [
        Copy(name := blob_name(each.id), name, Checksum(each.size, each.checksum))
        for each in Version.of(made.tables).blobs
    ]
    chosen = found.log.continues(report.last_seq)
    stretches = [Copy(each.name, each.source, each.checksum, each) for each in chosen]
    branches = [Copy(name, name, Checksum.of(b"")) for _, _, name in found.log.branches]
    report.tables = [each.name for each in tables]
    report.blobs = [each.name for each in blobs]
    report.shipped = [each.name for each in stretches]
    report.log_last_seq = chosen[-1].last if chosen else 0
    report.left_out += [
        f"{each.source}: a gap in the shipped log is before it"
        for each in found.log.stretches
        if each.last > report.last_seq and each not in chosen and each.first > report.log_last_seq
    ]
    copies = [*blobs, *tables, *stretches, *branches]
    report.bytes = sum(each.checksum.size for each in copies)
    return copies


def _check_target(target: ObjectStore, copies: Sequence[Copy]) -> None:
    """What an earlier run has left behind may lie there; it is written again."""
    expected = {each.name for each in copies}
    strange = [info.name for info in target.list("") if info.name not in expected]
    if strange:
        raise AlreadyExistsError(
            f"the target is not empty: it holds {strange[0]}; a repair needs a prefix of its own"
        )


def _copy(source: ObjectStore, target: ObjectStore, copies: Sequence[Copy], means: Means) -> None:
    def copy(each: Copy) -> None:
        # A branch is a name alone.
        data = source.get(each.source) if each.checksum.size else b""
        if Checksum.of(data) != each.checksum:
            raise ChecksumError("it has changed since it was read", name=each.source)
        body = each.part.body(data) if each.part else data
        upload(target, each.name, body, Checksum.of(body).crc32c)

    for done, _ in enumerate(in_order(means.threads, copy, copies), 1):
        means.progress("copied", done, len(copies))
