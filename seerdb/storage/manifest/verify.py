"""Checks every object of the manifest, also those that loading it does not need.

A writer and its collector may be at work meanwhile. An object that is gone when its turn comes
is damage only if the newest state still needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from seerdb.errors import CorruptionError, NotFoundError
from seerdb.storage.manifest.edit import Checkpoint, ManifestRecord
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import apply, load, manifest_numbers, read_record, restore
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import manifest_name
from seerdb.storage.workers.threads import in_order


@dataclass
class ManifestCheck:
    """``state`` is the newest, ``None`` where there is none or it cannot be told; ``objects``
    is how many there are."""

    state: ManifestState | None = None
    objects: int = 0
    problems: list[str] = field(default_factory=list)


def verify_manifest(
    store: ObjectStore, progress: Callable[[int, int], None], threads: Executor
) -> ManifestCheck:
    """Read every record, side by side on ``threads``, and check how they follow. ``progress`` is
    told how many of how many.

    Raises: ``UnavailableError``.
    """
    numbers = manifest_numbers(store)
    check = ManifestCheck(objects=len(numbers))
    if not numbers:
        return check
    try:
        check.state = load(store)
    except CorruptionError as error:
        check.problems.append(str(error))
    history: ManifestState | None = None

    def read(number: int) -> tuple[int, ManifestRecord | CorruptionError | NotFoundError]:
        return number, read_or_tell(store, number)

    for done, (number, record) in enumerate(in_order(threads, read, numbers), 1):
        try:
            history = followed(history, record)
        except CorruptionError as error:
            history = None
            check.problems.append(str(error))
        except NotFoundError:
            history = None
            if number in _needed(newest(store)):
                check.problems.append(_missing(number))
        progress(done, len(numbers))
    missing = {n for n in _needed(check.state) if n <= numbers[-1]} - set(numbers)
    check.problems += [_missing(number) for number in sorted(missing)]
    check.problems = list(dict.fromkeys(check.problems))
    return check


def newest(store: ObjectStore) -> ManifestState | None:
    """The state as it is by now; ``None`` where it cannot be told."""
    try:
        return load(store)
    except CorruptionError:
        return None


def read_or_tell(
    store: ObjectStore, number: int
) -> ManifestRecord | CorruptionError | NotFoundError:
    """A record, or what is wrong with it. Raises: ``UnavailableError``."""
    try:
        return read_record(store, number)
    except (CorruptionError, NotFoundError) as error:
        return error


def followed(
    history: ManifestState | None, record: ManifestRecord | CorruptionError | NotFoundError
) -> ManifestState | None:
    """What the records amount to up to this one; ``None`` while that cannot be told, which is
    before the oldest checkpoint that is left. Raises what is wrong with the record."""
    if isinstance(record, CorruptionError | NotFoundError):
        raise record
    if history is not None and record.number == history.number + 1:
        return apply(history, record)
    if isinstance(record, Checkpoint):
        return restore(record)
    return apply(ManifestState(), record) if record.number == 1 else None


def _needed(state: ManifestState | None) -> set[int]:
    """The numbers that the collector leaves alone."""
    if state is None:
        return set()
    return {*range(max(state.checkpoint_before, 1), state.number + 1), *state.claims}


def _missing(number: int) -> str:
    return f"{manifest_name(number)}: a manifest object is missing"
