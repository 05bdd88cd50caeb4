"""What there is to rebuild a database from: the manifest's records, the shipped log, the tables."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from seerdb.clock import Clock
from seerdb.errors import NotFoundError
from seerdb.ids import BlobId, Epoch, TableId, maker_of
from seerdb.storage.manifest.fencing import RandomBytes
from seerdb.storage.manifest.version import Version
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.borrowing import lender_of
from seerdb.storage.object_store.names import (
    BLOB_PREFIX,
    TABLE_PREFIX,
    blob_name,
    parse_blob_name,
    parse_table_name,
    table_name,
)
from seerdb.storage.repair.beyond import adopt, look_beyond
from seerdb.storage.repair.evidence import Evidence, read_evidence
from seerdb.storage.repair.report import Loss, RepairReport
from seerdb.storage.repair.shipped import ShippedLog, read_shipped_log
from seerdb.storage.repair.survey import Progress, SoundTable, Survey, survey
from seerdb.storage.retention.loans import Holds
from seerdb.storage.verify import LocalLog, no_progress


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a repair works with. ``log``: the local log of the source, where there is one;
    ``holds``: by which the source tells what lenders keep."""

    clock: Clock
    random_bytes: RandomBytes
    threads: Executor
    log: LocalLog | None = None
    holds: Holds = field(default_factory=Holds)
    progress: Progress = no_progress


class Finds(NamedTuple):
    """``replaced``: tables that lie there although the manifest removed them; ``recalled``: those
    of them that stand in for damaged ones that were made of them. ``epoch``: the highest there is
    a trace of."""

    evidence: Evidence
    log: ShippedLog
    survey: Survey
    replaced: list[TableId]
    recalled: set[TableId]
    epoch: Epoch


def look(source: ObjectStore, means: Means) -> Finds:
    """Read all that may count. Raises: ``NotFoundError`` where there is nothing,
    ``UnavailableError``."""
    tables = [each for info in source.list(TABLE_PREFIX) if (each := parse_table_name(info.name))]
    blobs = [blob for info in source.list(BLOB_PREFIX) if (blob := parse_blob_name(info.name))]
    evidence = read_evidence(source, means.threads)
    if means.holds.damaged:
        tables, blobs = _lent(tables, blobs, evidence, means.holds)
    log = read_shipped_log(source, evidence.database_id, means.threads)
    if not (tables or log.stretches or log.damaged or evidence.epoch or evidence.damaged):
        raise NotFoundError("there is nothing to rebuild: no manifest, no table, no shipped log")
    epoch = max([evidence.epoch, log.epoch, 1, *(int(each.split("-")[0]) for each in tables)])
    if epoch > evidence.epoch:
        evidence.is_newest = False  # the claim of that epoch is among what is missing
    fresh: list[TableId] = []
    if evidence.is_newest:
        fresh = look_beyond(source, tables, evidence, log, means.log)
    version = evidence.state.version if evidence.state else Version()
    replaced = [each for each in tables if each in evidence.removed]
    wanted, in_use = tables, blobs
    if evidence.is_newest:
        ids = {*fresh, *(table.id for table in version.tables)}
        wanted = [each for each in tables if each in ids]
        used = {use.id for use in version.blobs}
        in_use = [each for each in blobs if each in used or maker_of(each) in fresh]
    looked = survey(source, wanted, in_use, evidence.named, means.threads, means.progress)
    sound = {table.meta.id for table in looked.tables}
    unsound = {*wanted, *(table.id for table in version.tables)} - sound - evidence.removed
    inputs = set[TableId]().union(*(evidence.inputs.get(each, ()) for each in unsound))
    recalled = inputs & set(replaced)
    if recalled and evidence.is_newest:
        wanted = sorted({*wanted, *recalled})
        looked = survey(source, wanted, blobs, evidence.named, means.threads, means.progress)
    looked.damaged = [loss for loss in looked.damaged if not _is_replaced(loss, evidence)]
    replaced = [each for each in replaced if each not in recalled]
    metas = {table.meta.id: table.meta for table in looked.tables}
    if fresh:
        adopt(evidence, [metas[each] for each in fresh if each in metas])
    return Finds(evidence, log, looked, replaced, recalled, Epoch(epoch))


def _lent(
    tables: list[TableId], blobs: list[BlobId], evidence: Evidence, holds: Holds
) -> tuple[list[TableId], list[BlobId]]:
    """What is left of objects that lie here, or with lenders of whose holds some are damaged; what
    is wrong with these becomes evidence.

    A clone borrows nothing later, so each of its checkpoints names all that counts. Where none is
    left, all counts that lies with those lenders.
    """
    state = evidence.state
    told = "" if state else "; all counts that lies there, also what was written there since"
    evidence.damaged += [
        Loss(f"{lender.url}/{error.name}", f"{error}{told}")
        for lender, error in holds.damaged.items()
    ]
    if state is None:
        return tables, blobs
    named = {name for meta in evidence.named.values() for name in meta.objects}

    def may_count(name: str) -> bool:
        return name in named or lender_of(state.loans, name) not in holds.damaged

    return (
        [each for each in tables if may_count(table_name(each))],
        [each for each in blobs if may_count(blob_name(each))],
    )


def _is_replaced(loss: Loss, evidence: Evidence) -> bool:
    return parse_table_name(loss.name) in evidence.removed


def candidates(found: Finds, report: RepairReport) -> list[SoundTable]:
    """The sound tables that may count, ascending by id, all with a seq; the report says which do
    not."""
    fitting = []
    gone = set(found.replaced)
    for table in found.survey.tables:
        if table.meta.id in gone & found.evidence.undone:
            continue
        if reason := _outdated(table, found):
            report.left_out.append(f"{table_name(table.meta.id)}: {reason}")
        else:
            fitting.append(table._replace(is_gone=table.meta.id in gone))
    return _with_seqs(fitting)


def _outdated(table: SoundTable, found: Finds) -> str:
    """Why a table that no manifest names cannot have counted."""
    meta, state = table.meta, found.evidence.state
    if meta.id in found.evidence.named:
        return ""
    if table.has_seq and found.log.voids(meta.id, meta.max_seq):
        return "a later owner of the database declared void what it holds"
    begun = found.evidence.begun
    if table.has_seq and begun is not None and meta.id <= begun:
        return "it was begun before a restore in place, and not shown by then"
    if state is not None and table.is_flushed and meta.min_seq <= state.last_seq:
        return "it was not in the database any more, or not yet, when later commits were"
    return ""


def _with_seqs(tables: Sequence[SoundTable]) -> list[SoundTable]:
    """Tables whose seq is not known get one above all that were begun before them."""
    above, given = 0, []
    for table in tables:
        if table.has_seq:
            above = max(above, table.meta.max_seq)
            given.append(table)
        else:
            meta = replace(table.meta, min_seq=above + 1, max_seq=above + 1)
            given.append(table._replace(meta=meta))
    return given
