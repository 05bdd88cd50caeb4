"""Reading the manifest out of the store.

Costs one LIST and one GET after a clean close, whose last object is a checkpoint; otherwise
one GET more for every object back to the newest checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable

from seerdb.errors import CorruptionError, InternalError, NotFoundError
from seerdb.storage.manifest.edit import Checkpoint, ManifestRecord, decode_record
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import (
    MANIFEST_PREFIX,
    manifest_name,
    parse_manifest_name,
)

FetchMany = Callable[[list[str]], list[bytes]]
"""Gets objects, in the order of their names, perhaps side by side. Raises as ``get`` does."""


def load(store: ObjectStore, *, fetch_many: FetchMany | None = None) -> ManifestState | None:
    """The state after the newest object, or ``None`` where there is no manifest.

    Safe beside a writer and its collector: they may overtake a slow load, which then finds
    objects gone, or others in their place, while the manifest has moved on; so nothing counts
    as damage before a second look. Raises: ``CorruptionError`` naming the object, also one
    that is missing; ``UnavailableError``.
    """
    newest = 0
    while numbers := manifest_numbers(store):
        try:
            return _load_newest(store, numbers, fetch_many)
        except CorruptionError:
            if numbers[-1] <= newest:
                raise
        except NotFoundError as error:
            if numbers[-1] <= newest:
                raise CorruptionError(
                    f"the store lists a manifest object that it does not have: {error}",
                    name=MANIFEST_PREFIX,
                    hint="the listing of the store must not be cached",
                ) from error
        newest = numbers[-1]
    return None


def apply(state: ManifestState, record: ManifestRecord) -> ManifestState:
    """The state after a record that was read from the store.

    Start from ``ManifestState()`` for record 1. Raises: ``CorruptionError`` naming the object
    when the record may not follow.
    """
    try:
        return state.after(record)
    except InternalError as error:
        raise _misfit(record, error) from error


def restore(record: Checkpoint) -> ManifestState:
    """The state that a checkpoint read from the store holds.

    Raises: ``CorruptionError`` naming the object when it breaks an invariant.
    """
    try:
        return ManifestState.of(record)
    except InternalError as error:
        raise _misfit(record, error) from error


def manifest_numbers(store: ObjectStore) -> list[int]:
    """The numbers of all manifest objects, ascending: one LIST."""
    names = (parse_manifest_name(info.name) for info in store.list(MANIFEST_PREFIX))
    return [number for number in names if number is not None]


def read_record(store: ObjectStore, number: int) -> ManifestRecord:
    """The record in the ``number``-th object: one GET, and one more if the answer is damaged, for
    that may be the doing of the way here.

    To go on from an earlier state, ``apply`` the next records; where one is gone or does not
    fit, the collector has been faster: ``load``. Raises: ``NotFoundError``,
    ``CorruptionError``, ``UnavailableError``.
    """
    name = manifest_name(number)
    try:
        return _decode(name, number, store.get(name))
    except CorruptionError:
        return _decode(name, number, store.get(name))


def read_records(
    store: ObjectStore, numbers: range, fetch_many: FetchMany | None = None
) -> list[ManifestRecord]:
    """The records of these numbers. Raises as :func:`read_record`."""
    names = [manifest_name(number) for number in numbers]
    bodies = fetch_many(names) if fetch_many else [store.get(name) for name in names]
    return [_decode(*each) for each in zip(names, numbers, bodies, strict=True)]


def begin(record: ManifestRecord) -> ManifestState:
    """The state after the first record, or after a checkpoint. Raises as :func:`apply`."""
    return restore(record) if isinstance(record, Checkpoint) else apply(ManifestState(), record)


def reached_us(store: ObjectStore, state: ManifestState) -> int:
    """When tables came to hold everything up to the ``last_seq`` of ``state``, which the manifest
    tells: the time of the first record that says so, as far back as they can be read, in
    microseconds since 1970. One GET for each. Raises: ``UnavailableError``."""
    time_us = state.time_us
    for number in range(state.number - 1, 0, -1):
        try:
            record = read_record(store, number)
        except (NotFoundError, CorruptionError):
            break
        if record.last_seq != state.last_seq:
            break
        time_us = record.time_us
    return time_us


def _load_newest(
    store: ObjectStore, numbers: list[int], fetch_many: FetchMany | None
) -> ManifestState:
    newest = read_record(store, numbers[-1])
    if isinstance(newest, Checkpoint):
        return restore(newest)
    needed = range(max(newest.checkpoint, 1), newest.number)
    _check_complete(numbers, needed)
    first, *rest = [*read_records(store, needed, fetch_many), newest]
    state = begin(first)
    for record in rest:
        state = apply(state, record)
    return state


def _check_complete(numbers: list[int], needed: range) -> None:
    there = set(numbers)
    for number in needed:
        if number not in there:
            raise CorruptionError(
                "a manifest object is missing",
                name=manifest_name(number),
                hint="nothing will be deleted; restore the object or a backup",
            )


def _decode(name: str, number: int, data: bytes) -> ManifestRecord:
    record = decode_record(name, data)
    if record.number != number:
        raise CorruptionError(
            "the object holds another one's record", name=name, expected=number, found=record.number
        )
    return record


def _misfit(record: ManifestRecord, error: InternalError) -> CorruptionError:
    return CorruptionError(
        f"the record does not fit: {error}",
        name=manifest_name(record.number),
        hint="the manifest is damaged; nothing will be deleted; restore the object or a backup",
    )
