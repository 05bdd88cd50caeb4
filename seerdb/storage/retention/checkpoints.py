"""Keeping a state of the database: holds, and checkpoints, which are holds with a name.

Neither may ever name an object that is gone, whatever the collector deletes at that moment and
whoever dies at which step. So a hold is put first and counts only when the manifest, read
*afterwards*, still names all that the hold does: the collector deletes what the manifest, which
it read before, did not name, and looks for holds between that and the deletion. If it looked too
early to see this one, it had read a manifest that named all of it. A checkpoint is put while a
hold keeps the same state, so it is complete from its first moment.

This works beside a writer in another process as well as in it. A hold whose owner died expires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from msgspec.structs import replace

from seerdb.clock import Clock
from seerdb.errors import (
    AlreadyExistsError,
    BusyError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from seerdb.events import WorkFailed
from seerdb.options import plain_str
from seerdb.storage.manifest.fencing import RandomBytes
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.letting_go import let_go_after, letting_go
from seerdb.storage.object_store.names import checkpoint_name, hold_name
from seerdb.storage.retention.garbage import release
from seerdb.storage.retention.kept import Kept, encode_kept, list_checkpoints, record_of
from seerdb.storage.runtime import Components
from seerdb.storage.value import SECOND_US

HOLD_SECONDS = 24 * 3600.0
"""Lifetime of a hold, unless its owner knows better: far more than anybody needs between two
steps, and what the objects of an owner that died cost at most."""

HOLD_ATTEMPTS = 16
"""Changes of the manifest that may get in between before a hold gives up."""

MAX_LIFETIME = 100 * 365 * 24 * 3600.0
"""Seconds: 100 years."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state of the database that has a name and is kept; times in seconds since 1970."""

    name: str
    seq: int
    """It shows everything committed up to here."""
    time: float
    """When it was made, by the clock of who made it."""
    number: int
    """Of the manifest record whose state it is."""
    expires: float | None
    """When it goes by itself, at the earliest; ``None``: never."""


@contextmanager
def held(
    store: ObjectStore,
    *,
    clock: Clock,
    random_bytes: RandomBytes,
    state: ManifestState | None = None,
    lifetime: float = HOLD_SECONDS,
    left: Callable[[str], None] | None = None,
) -> Iterator[Kept]:
    """The newest state of the database, all objects of which stay while the block runs, and
    ``lifetime`` seconds at most. ``state``: what is known of it already. ``left``: is told of a
    hold that a block that went well could not let go of; without it that is raised.

    Safe beside any writer. Raises: ``NotFoundError`` where there is no database, ``BusyError``,
    ``CorruptionError``, ``UnavailableError``.
    """
    kept = _hold(store, state or _load(store), clock, random_bytes, lifetime)
    let_go = partial(release, store, hold_name(kept.id))
    with letting_go(let_go, left=left and partial(hold_is_left, left, lifetime)):
        yield kept


def hold_is_left(left: Callable[[str], None], lifetime: float, denied: UnavailableError) -> None:
    """Tell ``left`` of a hold that the bucket did not let go of."""
    left(
        "the hold is left in the bucket, and what is replaced there is kept for up to "
        f"{lifetime / 3600:.0f} hours: {denied}"
    )


def _hold(
    store: ObjectStore,
    state: ManifestState,
    clock: Clock,
    random_bytes: RandomBytes,
    lifetime: float,
) -> Kept:
    for _ in range(HOLD_ATTEMPTS):
        now_us = int(clock.now() * SECOND_US)
        kept = Kept(random_bytes(16).hex(), "", now_us, lifetime, record_of(state))
        let_go = partial(release, store, hold_name(kept.id))
        try:
            store.put_if_absent(hold_name(kept.id), encode_kept(kept))
            newest = _load(store)
        except BaseException as error:
            let_go_after(error, let_go)
            raise
        if kept.objects <= {n for table in newest.version.tables for n in table.objects}:
            return kept
        let_go()
        state = newest
    raise BusyError(
        f"the manifest changed {HOLD_ATTEMPTS} times while its state was to be held; try again",
        retry_after_seconds=1.0,
    )


def _load(store: ObjectStore) -> ManifestState:
    state = load(store)
    if state is None:
        raise NotFoundError("there is no database in this bucket: manifest/ is empty")
    return state


class Checkpoints:
    """The checkpoints of a database that is open for writing. Thread-safe."""

    def __init__(
        self,
        store: ObjectStore,
        manifest: ManifestWriter,
        flush: Callable[[], object],
        clock: Clock,
        components: Components,
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._flush = flush
        self._clock = clock
        self._random_bytes = components.random_bytes
        self._listener = components.listener

    def create(self, name: str | None, expires: float | None, *, flush: bool) -> Checkpoint:
        """Name the state that the tables hold, once they hold everything committed so far if
        ``flush``. Durable when it returns.

        Raises: ``InvalidRequestError``, ``AlreadyExistsError``, ``BusyError``; after
        ``UnavailableError`` it may be there or not.
        """
        _check_name(name)
        lifetime = _checked_lifetime(expires)
        if flush:
            self._flush()
        with held(
            self._store,
            clock=self._clock,
            random_bytes=self._random_bytes,
            state=self._manifest.state,
            left=lambda told: self._listener(WorkFailed("let go of a hold", told, 1, 0.0)),
        ) as hold:
            name = _default_name(hold) if name is None else plain_str(name)
            kept = replace(hold, name=name, lifetime=lifetime)
            _put(self._store, kept)
        return _shown(kept)

    def all(self) -> list[Checkpoint]:
        """Every checkpoint, by name. Raises: ``CorruptionError``, ``UnavailableError``."""
        return [_shown(kept) for _, kept in list_checkpoints(self._store)]

    def drop(self, name: str) -> None:
        """Let go of a checkpoint; what only it kept is collected later.

        Raises: ``NotFoundError``, ``InvalidRequestError``, ``UnavailableError``.
        """
        path = _check_name(name)
        if path is None or not any(info.name == path for info in self._store.list(path)):
            raise NotFoundError(f"there is no checkpoint {name!r}")
        release(self._store, path)


def _put(store: ObjectStore, kept: Kept) -> None:
    path, data = checkpoint_name(kept.name), encode_kept(kept)
    assert path is not None, "the name was checked"
    try:
        store.put_if_absent(path, data)
    except AlreadyExistsError as error:
        # An attempt of this very call may have happened unheard.
        if store.get(path) != data:
            message = f"there is a checkpoint {kept.name!r} already; drop it or take another name"
            raise AlreadyExistsError(message) from error


def _check_name(name: object) -> str | None:
    """The object of a checkpoint of that name; ``None`` where none is given."""
    path = checkpoint_name(plain_str(name)) if isinstance(name, str) else None
    if name is not None and path is None:
        raise InvalidRequestError(
            "a checkpoint's name is 1 to 128 of the letters A-Z, a-z, 0-9, '.', '_' and '-', and "
            f"begins with a letter or digit; not {name!r}"
        )
    return path


def _checked_lifetime(expires: float | None) -> float:
    if expires is None:
        return 0.0
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        raise InvalidRequestError(f"expires must be seconds, not {type(expires).__name__}")
    if not 0 < expires <= MAX_LIFETIME:
        raise InvalidRequestError(
            f"expires must be more than 0 and at most {MAX_LIFETIME:,.0f} seconds, not {expires}"
        )
    return float(expires)


def _default_name(kept: Kept) -> str:
    when = datetime.fromtimestamp(kept.created_us / SECOND_US, UTC)
    return f"{when:%Y%m%dT%H%M%SZ}-{kept.record.last_seq}"


def _shown(kept: Kept) -> Checkpoint:
    created = kept.created_us / SECOND_US
    return Checkpoint(
        name=kept.name,
        seq=kept.record.last_seq,
        time=created,
        number=kept.record.number,
        expires=created + kept.lifetime if kept.lifetime else None,
    )
