"""Opening for writing: the claim that shuts out every writer before.

A claim takes the next manifest number and raises the epoch. The writer before, if it still
runs, tries that same number with its next commit, finds it taken and stops.

**Holes.** Records behind old checkpoints are collected, so the creation of someone who slept
that long may succeed where history has long passed. :func:`in_history` finds that out. Only
two creations can hit a hole and must be confirmed with it: a claim, and a commit that follows
an attempt at the same number whose outcome was unknown. Any other commit cannot, because
the number after a writer's last record is either free or its successor's claim, and claims
are never collected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

from seerdb.clock import Clock
from seerdb.errors import AlreadyExistsError, ConflictError, FencedError, NotFoundError
from seerdb.ids import Epoch
from seerdb.storage.manifest.edit import Claim, ManifestRecord, encode_record
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load, manifest_numbers, read_record
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import manifest_name

CLAIM_ATTEMPTS = 32
"""Openers that may get in between before a claim gives up."""

RandomBytes = Callable[[int], bytes]
"""As many random bytes as asked for: ``os.urandom``."""


@dataclass(frozen=True, kw_only=True)
class Claimant:
    """Who opens the database for writing, and what it found there."""

    database_id: str
    """Hex id for a new database; an existing one keeps its own."""
    home: str
    """Id of the data directory whose log will continue the state."""
    store: str
    """Fingerprint of the store's URL."""
    capabilities: dict[str, bool] = field(default_factory=dict)
    """What the probe found the store able to do."""
    merge_operator: str = ""
    """Name of the merge operator for a database that has none yet."""
    continues: bool = False
    """Whether the log of ``home`` continues the state that was loaded. Then it does not
    continue that of a home which claims in between."""
    lease: float = 0.0
    """Seconds that the claimant's lease runs; 0: it keeps none."""
    after: Epoch | None = None
    """The epoch whose end was observed: no later one may be shut out by this claim."""


class Place(TypedDict):
    """Where a new record stands in the log."""

    number: int
    previous: str
    write_id: str
    time_us: int


def place_after(state: ManifestState, clock: Clock, random_bytes: RandomBytes) -> Place:
    """The place right after ``state``, with a fresh write id and a later time."""
    return {
        "number": state.number + 1,
        "previous": state.write_id,
        "write_id": random_bytes(16).hex(),
        "time_us": max(clock.now_ns() // 1000, state.time_us + 1),
    }


def take_over(
    store: ObjectStore,
    state: ManifestState | None,
    *,
    claimant: Claimant,
    clock: Clock,
    random_bytes: RandomBytes,
) -> tuple[ManifestState, ManifestState]:
    """Claim the epoch after ``state``, loading it anew while other openers are faster.

    Returns the states before and after the claim. Durable then. Raises: ``ConflictError`` when
    others keep claiming, or one has and the claimant ``continues`` or names another epoch to come
    ``after``; ``UnavailableError``, after which the claim may stand, which harms nobody but older
    writers: load and claim again.
    """
    for _ in range(CLAIM_ATTEMPTS):
        before = state or ManifestState()
        if claimant.after is not None and before.epoch != claimant.after:
            raise ConflictError(
                f"another writer, of epoch {before.epoch}, took over from epoch {claimant.after} "
                "first; watch its lease instead"
            )
        claim = Claim(
            **place_after(before, clock, random_bytes),
            epoch=Epoch(before.epoch + 1),
            checkpoint=before.checkpoint,
            last_seq=before.last_seq,
            database_id=before.database_id or claimant.database_id,
            home=claimant.home,
            store=claimant.store,
            capabilities=claimant.capabilities,
            merge_operator=before.merge_operator or claimant.merge_operator,
            lease=claimant.lease,
        )
        after = before.after(claim)
        if _create(store, claim):
            return before, after
        state = load(store)
        if claimant.continues and state is not None and state.home != claimant.home:
            raise ConflictError(
                "another data directory took this database over at this very moment: make "
                "sure that only one is meant to write, then open again"
            )
    raise ConflictError(
        f"{CLAIM_ATTEMPTS} others opened this database for writing in the meantime: "
        "find out what keeps opening it"
    )


def in_history(store: ObjectStore, record: ManifestRecord) -> bool:
    """Whether the stored ``record`` is the newest, or the one that its successor follows."""
    numbers = manifest_numbers(store)
    if not numbers or numbers[-1] <= record.number:
        return True
    try:
        return read_record(store, record.number + 1).previous == record.write_id
    except NotFoundError:
        return False


def check_newest(store: ObjectStore, state: ManifestState) -> None:
    """Raise ``FencedError`` if a writer of a higher epoch continues what is after ``state``.

    Costs one GET, of a name that is not there, while nobody has, and one more for every record
    of the same epoch. Raises: ``UnavailableError``.
    """
    number = state.number + 1
    while True:
        try:
            record = read_record(store, number)
        except NotFoundError:
            return
        if record.epoch != state.epoch:
            raise FencedError(
                f"another writer took over from epoch {state.epoch}; close this database, and "
                "open it again only if the other one is not meant to be the writer"
            )
        number += 1


def _create(store: ObjectStore, claim: Claim) -> bool:
    try:
        store.put_if_absent(manifest_name(claim.number), encode_record(claim))
    except AlreadyExistsError:
        try:
            taken = read_record(store, claim.number)
        except NotFoundError:
            return False
        if taken.write_id != claim.write_id:
            return False
    return in_history(store, claim)
