"""Taking a backup: what the repository lacks is copied and proved, then the descriptor is put.

An object that is there already counts if some backup names it, as it was proved then, and its
length is right; what a backup that failed has left is read and compared. So a backup that is run
again copies the rest, and one after it what is new. Nothing of it exists before its descriptor.

The shipped log is copied, too: what lies between the tables and the newest commit belongs to the
backup, and what is older lets the repository restore every commit since the backup before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import msgspec
from crc32c import crc32c

from seerdb.clock import Clock
from seerdb.errors import ConflictError, CorruptionError, InvalidRequestError, NotFoundError
from seerdb.ids import SeqNo
from seerdb.options import plain_str
from seerdb.storage.backup.catalogue import Catalogue, check_repository, read_catalogue
from seerdb.storage.backup.copying import Carrier, Progress, check_sizes, copy, is_sound, sizes
from seerdb.storage.backup.descriptor import (
    Descriptor,
    ObjectSum,
    encode_descriptor,
    new_id,
    objects_of,
)
from seerdb.storage.backup.locks import RepositoryLock
from seerdb.storage.backup.log import Log, Stretch, decode_stretch, read_log, time_of
from seerdb.storage.backup.retention import is_whole
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load, reached_us
from seerdb.storage.object_store.base import Checksum, ObjectStore
from seerdb.storage.object_store.lender import NO_LOANS
from seerdb.storage.object_store.names import WAL_PREFIX, backup_name
from seerdb.storage.object_store.upload import upload
from seerdb.storage.retention.checkpoints import HOLD_ATTEMPTS, held
from seerdb.storage.retention.kept import record_of


@dataclass(frozen=True)
class Source:
    """A database as it is to be copied: where, and which tables, which stay while it is done."""

    store: ObjectStore
    state: ManifestState


class BackupReport(msgspec.Struct, frozen=True):
    """What a backup consists of and what was copied for it. ``bytes`` are those of all its
    ``objects``; ``seconds`` how long it took."""

    id: str
    seq: int
    time_us: int
    objects: int
    bytes: int
    copied_objects: int
    copied_bytes: int
    seconds: float
    notes: list[str]
    """What went otherwise than one may expect, and did no harm to the backup."""


@dataclass(frozen=True, kw_only=True)
class _LogCopy:
    """The log that belongs to a backup: up to which commit, and when that was made."""

    seq: int
    time_us: int
    objects: tuple[ObjectSum, ...]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a backup is to be like. ``full``: all that is there already, also for other backups and
    for the commits between them, is read, and copied again where it is damaged."""

    label: str = ""
    keep: bool = False
    full: bool = False

    def __post_init__(self) -> None:
        """Raise ``InvalidRequestError`` for what a descriptor could not hold."""
        label: object = self.label
        if not isinstance(label, str) or not _is_unicode(label):
            raise InvalidRequestError(f"label must be a str without lone surrogates, not {label!r}")
        object.__setattr__(self, "label", plain_str(label))
        for name in ("keep", "full"):
            if (flag := getattr(self, name)) is not True and flag is not False:
                raise InvalidRequestError(f"{name} must be True or False, not {flag!r}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Taking:
    """The copying for one backup."""

    def __init__(
        self, source: Source, target: ObjectStore, carrier: Carrier, *, full: bool
    ) -> None:
        self._source = source
        self._target = target
        self._carrier = carrier
        self._full = full
        self._database_id = source.state.database_id
        self.copied: list[int] = []
        """Sizes of the objects that were copied."""
        self.notes: list[str] = []

    def objects(self, catalogue: Catalogue) -> list[ObjectSum]:
        """Copy the tables and blobs that are missing; returns all that are needed."""
        needed = objects_of(self._source.state)
        there = sizes(self._target)
        proved = {each for backup in catalogue.backups for each in backup.objects}
        tasks = [
            (each.size, partial(self._bring, each, look=there.get(each.name) == each.size))
            for each in needed
            if self._full or there.get(each.name) != each.size or each not in proved
        ]
        others = proved.difference(needed) if self._full else ()
        mending = [(each.size, partial(self._mend, each)) for each in others]
        self._carrier.expect([*tasks, *mending])
        self._carrier.carry(tasks)
        self._carrier.carry(mending)
        check_sizes(self._target, needed)
        return needed

    def _mend(self, wanted: ObjectSum) -> None:
        """Copy what only other backups need, if it is damaged and the source has it still."""
        if not is_sound(self._target, wanted):
            try:
                copy(self._source.store, self._target, wanted)
            except (NotFoundError, CorruptionError) as error:
                self.notes.append(f"other backups stay damaged: {error}")
            else:
                self.copied.append(wanted.size)

    def _bring(self, wanted: ObjectSum, *, look: bool) -> None:
        if not (look and is_sound(self._target, wanted)):
            copy(self._source.store, self._target, wanted)
            self.copied.append(wanted.size)

    def log(self, catalogue: Catalogue) -> _LogCopy:
        """Copy the log that is missing; returns what of it the backup needs."""
        last_seq = self._source.state.last_seq
        log = read_log(self._source.store)
        there = {info.name: info.size for info in self._target.list(WAL_PREFIX)}
        # What the oldest backup has in its tables, nobody will want to apply.
        oldest = min([last_seq, *(each.record.last_seq for each in catalogue.backups)])
        seq = log.reach(last_seq)
        needed = dict.fromkeys(log.between(last_seq, seq))
        begun = [(0, partial(self._branch, name)) for name in log.branches if name not in there]
        older = [
            (each.size, partial(self._older, each, is_there=there.get(each.name) == each.size))
            for each in log.stretches
            if each not in needed
            and each.end > oldest
            and (self._full or there.get(each.name) != each.size)
        ]
        for some in (begun, older):
            self._carrier.expect(some)
        # Before what they make void, so that no reader of the repository is misled.
        self._carrier.carry(begun)
        self._carrier.carry(older)
        copied = self._carry_log(log, last_seq, seq, there)
        if copied:
            time_us = copied[-1][1]
        else:
            known = time_of(self._source.store, log, self._database_id, last_seq)
            time_us = known or reached_us(self._source.store, self._source.state)
        return _LogCopy(seq=seq, time_us=time_us, objects=tuple(each for each, _ in copied))

    def _carry_log(
        self, log: Log, after: int, upto: int, there: dict[str, int]
    ) -> list[tuple[ObjectSum, int]]:
        """Copy the log that leads from ``after`` to ``upto``: its objects, and when the last commit
        in each was made. In place of an object that is damaged or gone, others that hold the same
        commits are taken; raises what is wrong with one in whose place there is none."""
        brought: dict[Stretch, tuple[ObjectSum, int]] = {}
        while left := [each for each in log.between(after, upto) if each not in brought]:
            tasks = [
                (each.size, partial(self._try, each, is_there=there.get(each.name) == each.size))
                for each in left
            ]
            self._carrier.expect(tasks)
            for stretch, result in zip(left, self._carrier.carry(tasks), strict=True):
                if isinstance(result, tuple):
                    brought[stretch] = result
                    continue
                log = log.without(stretch)
                if log.reach(after) < upto:
                    raise result
            there = {each.name: each.size for each in log.stretches}  # perhaps, as older log
        return [brought[each] for each in log.between(after, upto)]

    def _try(
        self, stretch: Stretch, *, is_there: bool
    ) -> tuple[ObjectSum, int] | CorruptionError | NotFoundError:
        """Copy log of the source; returns what is wrong with that there."""
        try:
            data, time_us = self._read(stretch)
        except (CorruptionError, NotFoundError) as error:
            return error
        return self._put(stretch, data, is_there=is_there), time_us

    def _branch(self, name: str) -> None:
        self._target.put(name, b"")

    def _older(self, stretch: Stretch, *, is_there: bool) -> None:
        """Copy log that is in the tables by now. It may be collected meanwhile, or damaged: then
        there is a gap before this backup, and the backup is whole."""
        try:
            self._stretch(stretch, is_there=is_there)
        except (NotFoundError, CorruptionError) as error:
            self.notes.append(f"not copied, so that times before this backup are lost: {error}")

    def _stretch(self, stretch: Stretch, *, is_there: bool) -> None:
        data, _ = self._read(stretch)
        self._put(stretch, data, is_there=is_there)

    def _read(self, stretch: Stretch) -> tuple[bytes, int]:
        """The bytes of log in the source, which are sound, and when its last commit was made."""
        data = self._source.store.get(stretch.name)
        return data, decode_stretch(stretch, data, self._database_id)[-1][1]

    def _put(self, stretch: Stretch, data: bytes, *, is_there: bool) -> ObjectSum:
        found = ObjectSum(stretch.name, *Checksum.of(data))
        if not (is_there and is_sound(self._target, found)):
            upload(self._target, stretch.name, data, found.checksum)
            self.copied.append(len(data))
        return found


def back_up(
    store: ObjectStore,
    target: ObjectStore,
    wish: Wish,
    carrier: Carrier,
    random_bytes: Callable[[int], bytes],
    *,
    state: ManifestState | None = None,
    locks: ObjectStore | None = None,
) -> BackupReport:
    """:func:`take_backup` of the newest state of the database in ``store``, held meanwhile.
    ``state``: what is known of it already. Begins again with a newer one where log went that was
    listed, which is in the tables of that.

    Raises as :func:`held` and :func:`take_backup`.
    """
    for left in range(HOLD_ATTEMPTS - 1, -1, -1):
        notes: list[str] = []
        with held(
            store, clock=carrier.clock, random_bytes=random_bytes, state=state, left=notes.append
        ) as hold:
            try:
                report = take_backup(
                    Source(store, hold.state), target, wish, carrier, random_bytes, locks
                )
            except NotFoundError:
                state = load(store)
                if not left or state is None or state.last_seq == hold.record.last_seq:
                    raise
            else:
                break
    return msgspec.structs.replace(report, notes=[*report.notes, *notes])


def take_backup(
    source: Source,
    target: ObjectStore,
    wish: Wish,
    carrier: Carrier,
    random_bytes: Callable[[int], bytes],
    locks: ObjectStore | None = None,
) -> BackupReport:
    """Back ``source`` up into the repository ``target``. Durable when it returns. ``locks`` is the
    same repository, for its lock: where that is to be let go of though ``target`` is closed.

    Raises: ``InvalidRequestError`` for a repository of another database, ``BusyError`` while a
    prune runs there, ``CorruptionError`` when the source is damaged or a write did not arrive as
    it was sent, ``UnavailableError``, ``ConflictError``; whatever the carrier's ``watch`` raises.
    """
    clock = carrier.clock
    began = clock.monotonic()
    new_lock = partial(RepositoryLock, locks or target, "backup", clock=clock)
    with new_lock(random_bytes(16).hex()) as lock:
        catalogue = read_catalogue(target)
        check_repository(target, catalogue, source.state.database_id)
        taking = _Taking(source, target, _renewing(carrier, lock), full=wish.full)
        log = taking.log(catalogue)  # nothing holds it, and copying tables may take hours
        needed = taking.objects(catalogue)
        descriptor = _describe(source, wish, log, clock, random_bytes)
        _publish(target, descriptor, lock, new_lock(random_bytes(16).hex()))
    size = sum(each.size for each in needed) + sum(each.size for each in descriptor.log)
    return BackupReport(
        id=descriptor.id,
        seq=descriptor.seq,
        time_us=descriptor.time_us,
        objects=len(needed) + len(descriptor.log),
        bytes=size,
        copied_objects=len(taking.copied),
        copied_bytes=sum(taking.copied),
        seconds=clock.monotonic() - began,
        notes=[*taking.notes, *filter(None, [lock.left])],
    )


def _renewing(carrier: Carrier, lock: RepositoryLock) -> Carrier:
    """The carrier, which keeps the lock while it works."""
    watch = carrier.watch

    def renew(progress: Progress) -> None:
        lock.renew()
        watch(progress)

    return replace(carrier, watch=renew)


def _describe(
    source: Source,
    wish: Wish,
    log: _LogCopy,
    clock: Clock,
    random_bytes: Callable[[int], bytes],
) -> Descriptor:
    state = source.state
    created_us = clock.now_ns() // 1000
    return Descriptor(
        id=new_id(created_us, random_bytes(4).hex()),
        database_id=state.database_id,
        seq=SeqNo(log.seq),
        time_us=log.time_us,
        created_us=created_us,
        label=wish.label,
        keep=wish.keep,
        record=msgspec.structs.replace(record_of(state), loans=NO_LOANS),
        log=log.objects,
    )


def _publish(
    target: ObjectStore, descriptor: Descriptor, lock: RepositoryLock, another: RepositoryLock
) -> None:
    """Put the descriptor, unless a prune may have deleted what it names.

    A prune that found the lock given up, and the descriptor there, counts on it, and may have
    deleted all others: it is taken back only where ``another`` lock keeps prunes out and something
    is missing."""
    lock.check()
    name = backup_name(descriptor.id)
    data = encode_descriptor(descriptor)
    upload(target, name, data, crc32c(data))
    try:
        lock.check()
    except ConflictError:
        with another:
            there = sizes(target) | {each.name: each.size for each in target.list(WAL_PREFIX)}
            if is_whole(descriptor, there):
                return
            target.delete([name])
        raise
