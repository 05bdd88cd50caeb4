"""The objects that keep a state of the database from being collected: checkpoints and holds.

A *checkpoint* has a name that people gave it, and is there until they drop it or it expires. A
*hold* has an id, and is there while somebody copies what it names or makes a checkpoint of it.
Both hold one record, :class:`Kept`, with a whole manifest state. All tables and blobs that it names
stay in the bucket as long as the object does (``garbage.py``), so a state that is kept can be
read, copied or opened with nothing else.

They expire by the store's clock alone: by how much later than the record the newest of all
objects was written, as the store itself dates both. No clock of any machine has a say in that, so
none that is wrong can delete anything; while nothing is written, nothing expires.

Bytes: an envelope (see ``object_store/envelope.py``) with the magic "SeerKept" around the JSON of a
record.
"""

from __future__ import annotations

import msgspec

from seerdb.errors import MALFORMED, CorruptionError, InternalError, NotFoundError
from seerdb.ids import StoredNumber
from seerdb.storage.manifest.edit import Checkpoint
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.object_store.base import ObjectInfo, ObjectStore
from seerdb.storage.object_store.envelope import HEADER_SIZE, Envelope
from seerdb.storage.object_store.names import (
    BLOB_PREFIX,
    CHECKPOINT_PREFIX,
    HOLD_PREFIX,
    TABLE_PREFIX,
    hold_name,
    is_kept_name,
)

FORMAT_VERSION = 1

_ENVELOPE = Envelope(
    b"SeerKept",
    FORMAT_VERSION,
    "a checkpoint or hold",
    "nothing will be deleted while it is there; drop it to go on without it",
)

_BEFORE_RESTORE = "before-restore-"


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A state that is kept."""

    id: str
    """Random, 32 hex digits: equal ids prove that two sights of an object are one write."""
    name: str
    """Of the checkpoint; of a hold the URL of the clone that it is for, "" for any other hold."""
    created_us: StoredNumber
    """Wall clock of who made it, in microseconds since 1970; for people."""
    lifetime: float
    """Seconds until it expires, 0: never."""
    record: Checkpoint
    """The state, as the manifest would have it had it a checkpoint there."""

    @property
    def state(self) -> ManifestState:
        """The state as a reader wants it. Raises ``InternalError`` if it breaks a rule."""
        return ManifestState.of(self.record)

    @property
    def objects(self) -> set[str]:
        """Names of all objects that the state consists of."""
        return {name for table in self.record.tables for name in table.objects}


def name_before_restore(seq: int) -> str:
    """The name of the checkpoint of what a restore in place, the commit ``seq``, replaces."""
    return f"{_BEFORE_RESTORE}{seq}"


def restore_after(name: str) -> int | None:
    """The seq of the restore in place for which an object is such a checkpoint; ``None``: it is
    none."""
    digits = name.removeprefix(f"{CHECKPOINT_PREFIX}{_BEFORE_RESTORE}")
    return int(digits) if digits != name and digits.isdecimal() else None


def record_of(state: ManifestState) -> Checkpoint:
    """The record that holds ``state``."""
    return Checkpoint(
        number=state.number,
        epoch=state.epoch,
        write_id=state.write_id,
        previous="",
        checkpoint=state.number,
        checkpoint_before=state.checkpoint,
        last_seq=state.last_seq,
        time_us=state.time_us,
        log_start=state.log_start,
        database_id=state.database_id,
        home=state.home,
        store=state.store,
        capabilities=state.capabilities,
        merge_operator=state.merge_operator,
        claims=list(state.claims),
        loans=state.loans,
        tables=state.version.tables,
    )


def encode_kept(kept: Kept) -> bytes:
    """The object's bytes. Deterministic."""
    return _ENVELOPE.wrap(msgspec.json.encode(kept))


def decode_kept(name: str, data: bytes) -> Kept:
    """The record in ``data``, which was read from the object ``name``.

    Raises: ``CorruptionError`` and its kinds.
    """
    body = _ENVELOPE.unwrap(name, data)
    try:
        kept = msgspec.json.decode(body, type=Kept)
        ManifestState.of(kept.record)
    except (*MALFORMED, InternalError) as error:
        raise CorruptionError(
            f"the body is not a kept state: {error}", name=name, offset=HEADER_SIZE
        ) from error
    return kept


def list_checkpoints(store: ObjectStore) -> list[tuple[ObjectInfo, Kept]]:
    """All checkpoints, by name. Raises: ``CorruptionError``, ``UnavailableError``."""
    return _read_all(store, CHECKPOINT_PREFIX)


def list_kept(store: ObjectStore) -> list[tuple[ObjectInfo, Kept]]:
    """All checkpoints and holds. Raises: ``CorruptionError``, ``UnavailableError``."""
    return _read_all(store, CHECKPOINT_PREFIX) + _read_all(store, HOLD_PREFIX)


def list_held_for_clones(store: ObjectStore, *, lasting: bool = True) -> list[Kept]:
    """The holds for clones; unless ``lasting`` those for clones that are being made, too. Raises:
    ``CorruptionError``, ``UnavailableError``."""
    found = [kept for _, kept in _read_all(store, HOLD_PREFIX) if kept.name]
    return [kept for kept in found if not (lasting and kept.lifetime)]


def held_names(store: ObjectStore, hold: str) -> frozenset[str]:
    """What a hold of that id keeps; nothing where there is none. Raises: ``CorruptionError``,
    ``UnavailableError``."""
    kept = _read(store, hold_name(hold))
    return frozenset(kept.objects if kept else ())


def verify_kept(store: ObjectStore) -> tuple[list[str], list[Kept]]:
    """What is wrong with checkpoints and holds, a line each: damaged, or of a checkpoint not all
    there; and the checkpoints that are sound. Safe beside a collector. Raises:
    ``UnavailableError``."""
    problems: list[str] = []
    found: list[tuple[str, Kept]] = []
    for info in store.list(CHECKPOINT_PREFIX) + store.list(HOLD_PREFIX):
        try:
            found += [(info.name, kept)] if (kept := _read(store, info.name)) else []
        except CorruptionError as damage:
            problems.append(str(damage))
    there = {info.name for info in store.list(TABLE_PREFIX) + store.list(BLOB_PREFIX)}
    checkpoints = [each for each in found if each[0].startswith(CHECKPOINT_PREFIX)]
    for name, kept in checkpoints:
        missing = kept.objects - there
        if missing and store.list(name):  # else dropped and collected meanwhile
            problems += [f"{name}: it names {each}, which is gone" for each in sorted(missing)]
    return problems, [kept for _, kept in checkpoints]


def has_expired(info: ObjectInfo, kept: Kept, store_now: float) -> bool:
    """Whether the time of ``kept`` is over. ``store_now``: a time that the store's clock has
    passed, in seconds since 1970."""
    return kept.lifetime > 0 and info.modified + kept.lifetime < store_now


def _read_all(store: ObjectStore, prefix: str) -> list[tuple[ObjectInfo, Kept]]:
    read = ((info, _read(store, info.name)) for info in store.list(prefix))
    return [(info, kept) for info, kept in read if kept is not None]


def _read(store: ObjectStore, name: str) -> Kept | None:
    """The record of that name; ``None`` if it is not ours, or dropped since it was listed."""
    if not is_kept_name(name):
        return None
    try:
        return decode_kept(name, store.get(name))
    except NotFoundError:
        return None
