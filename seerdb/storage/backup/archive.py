"""What can be restored from a place: a backup repository, or the bucket of a database itself.

Both hold *bases*, states whose tables are all there, and log, which leads from a base to any later
commit as far as it has no gap. Nothing here writes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise

from seerdb.clock import when
from seerdb.errors import CorruptionError, HistoryError, NotFoundError
from seerdb.storage.backup.catalogue import Catalogue, read_catalogue
from seerdb.storage.backup.copying import sizes
from seerdb.storage.backup.descriptor import Descriptor, objects_of
from seerdb.storage.backup.log import (
    Log,
    Stretch,
    decode_stretch,
    log_within,
    read_log,
    time_of,
)
from seerdb.storage.manifest.edit import INGEST, RESTORE, Checkpoint, Edit, ManifestRecord
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import apply, load, manifest_numbers, read_record, restore
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import BACKUP_PREFIX
from seerdb.storage.retention.kept import list_checkpoints


@dataclass(frozen=True)
class Base:
    """A state to start from."""

    state: ManifestState
    seq: int
    """The commit that it was made to bring back: that of the tables, or a later one to which it has
    log. Of a backup with log that a later branch has made void, that of the tables."""
    time_us: int
    """No commit up to ``seq`` is younger."""
    backup: Descriptor | None = None
    is_late: bool = False
    """Whether the last commit of the tables is known to have been made earlier than they were."""

    @property
    def name(self) -> str:
        """For people."""
        if self.backup is not None:
            return f"backup {self.backup.id}"
        return f"the state of manifest object {self.state.number}"


@dataclass(frozen=True)
class Range:
    """Commits ``first`` to ``last``, each of which can be restored."""

    first: int
    last: int


_Unread = tuple[Stretch, CorruptionError | NotFoundError]
"""Log that is damaged or gone, and what is wrong with it."""


@dataclass(frozen=True)
class Archive:
    """One look at a place; ``bases`` are ordered by what their tables hold."""

    store: ObjectStore
    database_id: str
    bases: list[Base]
    log: Log
    damaged: list[CorruptionError] = field(default_factory=list)

    @cached_property
    def reaches(self) -> list[int]:
        """The last commit that can be restored from each base."""
        found = self.log.reaches([base.state.last_seq for base in self.bases])
        return [max(base.seq, reach) for base, reach in zip(self.bases, found, strict=True)]

    def check_sound(self) -> None:
        """Raise what is wrong where there is nothing sound to restore from."""
        if not self.bases and self.damaged:
            raise self.damaged[0]

    def find(self, backup: str) -> Descriptor:
        """The backup with that id. Raises: ``NotFoundError``, ``CorruptionError``."""
        backups = [base.backup for base in self.bases if base.backup is not None]
        return Catalogue(backups, self.damaged).find(backup)

    def alone(self, backup: Descriptor) -> Archive:
        """Nothing but a backup, as it was when it was taken, whatever became of the database."""
        base = Base(backup.state, backup.seq, backup.time_us, backup)
        return replace(self, bases=[base], log=log_within(backup))

    def candidates(self, seq: int) -> list[Base]:
        """The bases from which the state at ``seq`` can be restored, the nearest first."""
        found = [
            base
            for base, reach in zip(self.bases, self.reaches, strict=True)
            if base.state.last_seq <= seq <= reach
        ]
        return found[::-1]

    def ranges(self) -> list[Range]:
        """What can be restored, in order; between two of them log is missing."""
        found: list[Range] = []
        for base, last in zip(self.bases, self.reaches, strict=True):
            first = base.state.last_seq
            if found and first <= found[-1].last + 1:
                found[-1] = Range(found[-1].first, max(found[-1].last, last))
            else:
                found.append(Range(first, last))
        return found

    def time_of(self, seq: int) -> int:
        """When the commit at the end of a range or of a base was made, or somewhat later."""
        known = time_of(self.store, self.log, self.database_id, seq)
        if known is not None:
            return known
        reached, times = self._times
        place = bisect_left(reached, seq)
        return times[place] if place < len(times) else 0

    def seq_at(self, time_us: int) -> int:
        """The last commit that was made at a time or before it.

        Raises: ``HistoryError`` when that is before the first that can be restored, or cannot be
        told, as log is missing there; ``CorruptionError`` or ``NotFoundError`` when the log that
        would tell is damaged or gone.
        """
        self.check_sound()
        if exact := [base.seq for base in self.bases if base.time_us == time_us]:
            return max(exact)
        in_log, unread = self._in_log(time_us)
        seq = max(in_log, self._of_bases(time_us))
        if seq < self.bases[0].state.last_seq:
            first = self.bases[0]
            raise HistoryError(
                f"the first time to restore is {when(self.time_of(first.state.last_seq))}, seq "
                f"{first.state.last_seq}"
            )
        if gap := self._gap_after(seq):
            one, other = gap
            raise HistoryError(
                f"which commits were made by then is not known: the log after seq {one} "
                f"({when(self.time_of(one))}) is missing up to seq {other} "
                f"({when(self.time_of(other))}); name one of these"
            )
        for stretch, damage in unread:
            if stretch.first <= seq + 1 <= stretch.last:
                raise damage
        return min(seq, max(self.reaches))

    def _gap_after(self, seq: int) -> tuple[int, int] | None:
        """The last commit before, and the first one after what is missing behind ``seq``, of which
        nothing tells when it was made."""
        for one, other in pairwise(self.ranges()):
            if one.last <= seq < other.first:
                return one.last, other.first
        is_late = any(base.is_late and base.state.last_seq == seq + 1 for base in self.bases)
        return (seq, seq + 1) if is_late and not self.log.between(seq, seq + 1) else None

    def _of_bases(self, time_us: int) -> int:
        reached, times = self._times
        place = bisect_right(times, time_us)
        return reached[place - 1] if place else -1

    @cached_property
    def _times(self) -> tuple[list[int], list[int]]:
        """Commits in order, those of tables and those of bases; and by when each had been made, and
        all up to it, which is the first of the times that it and those after it tell."""
        known = {(base.seq, base.time_us) for base in self.bases}
        known |= {(base.state.last_seq, base.state.time_us) for base in self.bases}
        reached, times = zip(*sorted(known), strict=True)
        return list(reached), list(accumulate(times[::-1], min))[::-1]

    def _in_log(self, time_us: int) -> tuple[int, list[_Unread]]:
        """The last commit in the log that was made by then, -1 when there is none; and which of the
        log that was looked at cannot be read, and tells nothing."""
        unread: list[_Unread] = []
        stretches = list(self.log.stretches)
        by_then: list[int] = []
        low, high = 0, len(stretches)
        while low < high:
            middle = (low + high) // 2
            try:
                times = self._held(stretches[middle])
            except (CorruptionError, NotFoundError) as damage:
                unread.append((stretches.pop(middle), damage))
                high -= 1
                continue
            if times[0][1] <= time_us:
                by_then = [seq for seq, at in times if at <= time_us]
                low = middle + 1
            else:
                high = middle
        return max(by_then, default=-1), unread

    def _held(self, stretch: Stretch) -> list[tuple[int, int]]:
        held = decode_stretch(stretch, self.store.get(stretch.name), self.database_id)
        return [(seq, at) for seq, at, _ in held]


def open_archive(store: ObjectStore) -> Archive:
    """Look at a repository, or at the bucket of a database.

    Raises: ``NotFoundError`` when it is neither, ``CorruptionError``, ``UnavailableError``.
    """
    log = read_log(store)
    if store.list(BACKUP_PREFIX):
        catalogue = read_catalogue(store)
        bases = [_base_of(each, log) for each in catalogue.backups]
        damaged = catalogue.damaged
    else:
        bases, damaged = _live_bases(store)
    if not bases and not damaged:
        raise NotFoundError("there is neither a backup nor a database")
    bases.sort(key=lambda base: (base.state.last_seq, base.time_us))
    database_id = bases[0].state.database_id if bases else ""
    return Archive(store, database_id, bases, log, damaged)


def _base_of(backup: Descriptor, log: Log) -> Base:
    if is_void(backup, log):
        return Base(backup.state, backup.state.last_seq, backup.state.time_us, backup)
    return Base(backup.state, backup.seq, backup.time_us, backup)


def is_void(backup: Descriptor, log: Log) -> bool:
    """Whether ``log`` says that the database has lost commits of a backup: from one of them on it
    has gone another way."""
    return any(log.voids(each) for each in log_within(backup).stretches)


def _live_bases(store: ObjectStore) -> tuple[list[Base], list[CorruptionError]]:
    """The states of the manifest, and those of checkpoints, that are all there; of those with the
    same commits the newest, with the time of the first. And what is wrong with the newest of all,
    if that is not there."""
    known = list(_states(store))
    late = {state.last_seq for state, is_late in known if is_late}
    states = [kept.state for _, kept in list_checkpoints(store)] + [state for state, _ in known]
    newest = load(store)
    states += [newest] if newest else []
    states.sort(key=lambda state: state.number)
    since = {state.last_seq: state.time_us for state in reversed(states)}
    there = sizes(store)  # last, or what a writer has made meanwhile would count as missing
    missing = {state.number: _missing(state, there) for state in states}
    whole = {state.last_seq: state for state in states if not missing[state.number]}
    damaged = [missing[newest.number]] if newest and missing[newest.number] else []
    bases = [Base(each, seq, since[seq], is_late=seq in late) for seq, each in whole.items()]
    return bases, [
        CorruptionError("the newest state needs it, but it is missing or damaged", name=name)
        for name in damaged
    ]


def _missing(state: ManifestState, there: dict[str, int]) -> str:
    """The name of an object of a state that is not there; "" when all are."""
    return next((each.name for each in objects_of(state) if there.get(each.name) != each.size), "")


def _states(store: ObjectStore) -> Iterator[tuple[ManifestState, bool]]:
    """The state after every record that is left, as far back as nothing is missing; and whether its
    last commit is one that the record took from the log."""
    numbers = manifest_numbers(store)
    first = len(numbers) - 1
    while first > 0 and numbers[first - 1] == numbers[first] - 1:
        first -= 1
    state: ManifestState | None = None
    for number in numbers[max(first, 0) :]:
        try:
            record = read_record(store, number)
        except NotFoundError:
            state = None  # collected meanwhile
            continue
        before, state = state, _after(state, record)
        if state is not None:
            yield state, before is not None and _is_flush(before, record)


def _is_flush(before: ManifestState, record: ManifestRecord) -> bool:
    is_logged = isinstance(record, Edit) and record.reason not in (INGEST, RESTORE)
    return is_logged and record.last_seq > before.last_seq


def _after(state: ManifestState | None, record: ManifestRecord) -> ManifestState | None:
    if state is not None and state.number + 1 == record.number:
        return apply(state, record)
    if isinstance(record, Checkpoint):
        return restore(record)
    return apply(ManifestState(), record) if record.number == 1 else None
