"""Who works on a repository: so that nothing is pruned that a backup counts on.

A lock is a series of objects of one owner, each of which is valid for ``LOCK_SECONDS`` by the clock
of the store, which dates them all: whoever looks has just put one of his own, and no clocks of
machines are compared. Before one runs out the owner adds the next. Backups exclude prunes, and
prunes each other; backups may run side by side. Each side first writes its lock and then looks for
others, so that of two that begin at once at least one sees the other.

An owner that died is over when its last object has run out. Then a prune removes what it left
*before* it deletes anything else, and an owner that was only asleep finds its first object gone
(:meth:`RepositoryLock.check`): what it counted on may be gone too.
"""

from __future__ import annotations

import math
from threading import Lock
from types import TracebackType
from typing import Literal, NamedTuple, Self

import msgspec

from seerdb.clock import Clock
from seerdb.errors import (
    MALFORMED,
    BusyError,
    ConflictError,
    CorruptionError,
    NotFoundError,
    UnavailableError,
)
from seerdb.storage.object_store.base import ObjectInfo, ObjectStore
from seerdb.storage.object_store.envelope import Envelope
from seerdb.storage.object_store.letting_go import let_go_after
from seerdb.storage.object_store.names import LOCK_PREFIX, lock_name, parse_lock_name

LOCK_SECONDS = 600.0
RENEW_SECONDS = LOCK_SECONDS / 3
RETRY_SECONDS = 30.0

_ENVELOPE = Envelope(
    b"SeerLock", 1, "the lock of a repository", "delete it if nobody works on the repository"
)

Kind = Literal["backup", "prune"]


class _Held(msgspec.Struct, frozen=True):
    kind: Kind
    until: float
    """Seconds since 1970, by the clock of the owner; for people."""


class _Other(NamedTuple):
    """The lock of somebody else."""

    kind: Kind
    is_over: bool


class RepositoryLock:
    """A lock while used with ``with``. Thread-safe.

    ``left`` tells of the lock of a backup that went well why it is still there, to expire; ""
    where it is not."""

    def __init__(self, store: ObjectStore, kind: Kind, owner: str, clock: Clock) -> None:
        """``owner``: 32 random hex digits."""
        self._store = store
        self._kind = kind
        self._owner = owner
        self._clock = clock
        self.left = ""
        self._lock = Lock()
        # Guarded by the lock:
        self._written = 0
        self._renew_at = 0.0
        self._over_at = math.inf

    def __enter__(self) -> Self:
        """Raises: ``BusyError`` while somebody else excludes it."""
        try:
            self.renew()
            others = self._others()
            if self._kind == "prune":
                self._clear(others)
            for name, other in others.items():
                if not other.is_over and "prune" in (other.kind, self._kind):
                    raise BusyError(
                        f"a {other.kind} is under way in this repository ({name})",
                        retry_after_seconds=RETRY_SECONDS,
                    )
        except BaseException as error:
            let_go_after(error, self._release)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            let_go_after(error, self._release)
            return
        try:
            self._release()
        except UnavailableError as denied:
            if self._kind == "prune":
                raise
            self.left = (
                f"the lock is left in the repository, and keeps prunes out for up to "
                f"{LOCK_SECONDS / 60:.0f} minutes: {denied}"
            )

    def renew(self) -> None:
        """Keep the lock; costs nothing unless it is time to. Call it every now and then.

        Raises: ``ConflictError`` for a prune that comes too late: a backup may have begun, which
        takes nothing away that would tell."""
        with self._lock:
            now = self._clock.monotonic()
            if now < self._renew_at:
                return
            held = _Held(self._kind, self._clock.now() + LOCK_SECONDS)
            over_at, self._over_at = self._over_at, now + LOCK_SECONDS
            self._renew_at = now + RENEW_SECONDS
            self._written += 1
            self._store.put(
                lock_name(self._owner, self._written), _ENVELOPE.wrap(msgspec.json.encode(held))
            )
            if self._kind == "prune" and self._clock.monotonic() >= over_at:
                raise self._lost()

    def check(self) -> None:
        """Raise ``ConflictError`` when the lock was lost meanwhile."""
        with self._lock:
            there = self._store.list(f"{LOCK_PREFIX}{self._owner}-")
            if len(there) < self._written:
                raise self._lost()

    def _lost(self) -> ConflictError:
        done = "copied stays" if self._kind == "backup" else "deleted is gone"
        return ConflictError(
            f"this {self._kind} was held up for over {LOCK_SECONDS:.0f} s and its lock "
            f"given up; run it again: what it has {done}"
        )

    def _others(self) -> dict[str, _Other]:
        """What the last lock object of every other owner tells, by name."""
        last: dict[str, ObjectInfo] = {}
        store_now = 0.0
        for info in self._store.list(LOCK_PREFIX):
            parsed = parse_lock_name(info.name)
            if parsed is not None:
                last[parsed[0]] = info
                store_now = max(store_now, info.modified)
        others = {}
        for owner, info in last.items():
            if owner == self._owner:
                continue
            try:
                kind = _decode(info.name, self._store.get(info.name)).kind
            except NotFoundError:
                continue  # released
            is_over = store_now - info.modified >= LOCK_SECONDS
            others[info.name] = _Other(kind, is_over)
        return others

    def _clear(self, others: dict[str, _Other]) -> None:
        """Remove what is left of owners that are over."""
        over = [name for name, other in others.items() if other.is_over]
        owners = {parsed[0] for name in over if (parsed := parse_lock_name(name))}
        for owner in owners:
            left = [info.name for info in self._store.list(f"{LOCK_PREFIX}{owner}-")]
            self._store.delete(left)

    def _release(self) -> None:
        with self._lock:
            self._store.delete(
                lock_name(self._owner, number) for number in range(1, self._written + 1)
            )


def _decode(name: str, data: bytes) -> _Held:
    try:
        return msgspec.json.decode(_ENVELOPE.unwrap(name, data), type=_Held)
    except MALFORMED as error:
        raise CorruptionError(f"the body is not a lock: {error}", name=name) from error
