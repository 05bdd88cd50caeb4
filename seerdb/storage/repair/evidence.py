"""What can still be read of a manifest, whatever is missing of it.

A record that can be read and fits its neighbours is true, whether or not it can be reached from a
checkpoint: a table that its edit removed is gone for good, unless a later record has it again. What
was removed by a restore in place, or before it, is undone as well: though it has newer versions
than what took its place, these count no more, nor does any log up to there.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import pairwise

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.ids import TableId
from seerdb.storage.manifest.edit import RESTORE, Checkpoint, Claim, Edit, ManifestRecord
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import manifest_numbers
from seerdb.storage.manifest.verify import followed, read_or_tell
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import manifest_name
from seerdb.storage.repair.report import Loss
from seerdb.storage.workers.threads import in_order


@dataclass
class Evidence:
    """``state``: the newest that can be told; ``is_newest``: nothing came after it. ``named``: the
    last that is said of each table; ``removed``: those that are gone since; ``undone``: those of
    them that a restore in place has left behind; ``restored``: the commits that were one;
    ``begun``: no table that counts after the last of them has a lower id, unless it is named;
    ``inputs``: what tables that an edit added were made of; ``unshown``: tables of ingests that no
    record names, though the records look whole; ``home``: whose data directory owned
    the database in ``home_epoch``."""

    state: ManifestState | None = None
    is_newest: bool = False
    named: dict[TableId, TableMeta] = field(default_factory=dict)
    removed: set[TableId] = field(default_factory=set)
    undone: set[TableId] = field(default_factory=set)
    restored: set[int] = field(default_factory=set)
    begun: TableId | None = None
    inputs: dict[TableId, frozenset[TableId]] = field(default_factory=dict)
    unshown: list[TableId] = field(default_factory=list)
    last_seq: int = 0
    epoch: int = 0
    time_us: int = 0
    database_id: str = ""
    home: str = ""
    home_epoch: int = 0
    merge_operator: str = ""
    damaged: list[Loss] = field(default_factory=list)

    def take(self, record: ManifestRecord) -> None:
        """The next record that can be read, in the order of their numbers."""
        self.last_seq = max(self.last_seq, record.last_seq)
        self.epoch = max(self.epoch, record.epoch)
        self.time_us = max(self.time_us, record.time_us)
        match record:
            case Edit():
                self._edit(record)
            case Checkpoint():
                self.removed |= set(self.named)
                self._name(record.tables)
        if isinstance(record, Claim | Checkpoint):
            self.database_id, self.home = record.database_id, record.home
            self.home_epoch = record.epoch
            self.merge_operator = record.merge_operator

    def _edit(self, record: Edit) -> None:
        self.removed |= set(record.remove)
        self._name(record.add)
        if record.reason == RESTORE:
            self.undone |= self.removed
            self.begun = max(self.named, default=None)
            self.restored.add(record.last_seq)
        elif inputs := frozenset(record.remove):
            self.inputs.update({table.id: inputs for table in record.add})

    def _name(self, tables: list[TableMeta]) -> None:
        self.named.update({table.id: table for table in tables})
        self.removed -= {table.id for table in tables}
        self.undone -= {table.id for table in tables}

    @property
    def restored_seq(self) -> int:
        """The newest commit that is known to be a restore in place; 0: none is."""
        return max(self.restored, default=0)


def read_evidence(store: ObjectStore, threads: Executor) -> Evidence:
    """Read every record that is left, side by side. Raises: ``UnavailableError``."""
    evidence = Evidence()
    history: ManifestState | None = None
    numbers = manifest_numbers(store)

    def read(number: int) -> tuple[int, ManifestRecord | CorruptionError | NotFoundError]:
        return number, read_or_tell(store, number)

    for number, record in in_order(threads, read, numbers):
        try:
            history = followed(history, record)
        except (CorruptionError, NotFoundError) as error:
            evidence.damaged.append(Loss(manifest_name(number), str(error)))
            history = None
        else:
            assert not isinstance(record, Exception), "what is wrong with it was raised"
            evidence.take(record)
            evidence.state = history or evidence.state
    evidence.is_newest = history is not None
    _note_missing(evidence, numbers)
    return evidence


def _note_missing(evidence: Evidence, numbers: list[int]) -> None:
    """Of what a load needs; what the collector has taken is no damage."""
    if evidence.is_newest or not numbers:
        return
    first = max(evidence.state.checkpoint if evidence.state else 0, 1)
    needed = [first - 1, *(number for number in numbers if number >= first)]
    for before, after in pairwise(needed):
        if after - before > 1:  # told as one: a name may have any number
            upto = f", and so is all up to {after - 1}" if after - before > 2 else ""
            evidence.damaged.append(Loss(manifest_name(before + 1), f"it is missing{upto}"))
