"""The other side of the lease: finding out that its holder is gone, and waiting until it is.

Two rules, neither of which compares clocks:

- A standby that has seen the same bytes for ``seconds`` of its own monotonic time, from the end of
  one look to the beginning of another, knows that no renewal came in between, and so that no lease
  is held. A look that failed begins the watch anew: who cannot see the bucket cannot tell its
  holder's outage from the holder's end, and after an outage of the bucket the holder goes first.
- Whoever has claimed the epoch, in whatever way, looks once more. Where the lease is as it was when
  it had run out, or was given back, nobody holds it. Else it may have been renewed just before
  the claim, and the claimant waits for ``seconds`` before it acknowledges anything: after a claim
  no renewal counts.

A claimant that dies while it waits leaves a claim behind, with another lease or none, and the lease
that it waited for. So ``seconds`` are those of the longest that may be held (:func:`leases_of`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from seerdb.clock import Clock
from seerdb.errors import NotFoundError
from seerdb.ids import Epoch
from seerdb.storage.lease.record import LeaseRecord, decode_lease
from seerdb.storage.manifest.edit import Claim
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import load, read_record
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.names import LEASE_NAME
from seerdb.storage.object_store.stores import Openings

LOOKS = 6
"""In the time of a lease a standby looks so many times."""
UNLEASED_SECONDS = 5.0
"""How often it looks where the writer keeps no lease, and only an operator can replace it."""
NAP_SECONDS = 1.0
"""How often who waits for a lease to run out looks whether the opening was given up."""


@dataclass(frozen=True)
class Bid:
    """How one wants to become the writer of a database that may have one.

    By default as any opener: at once, and only if no writes in an own log would be left behind.
    """

    takes_over: bool = False
    """An own log that another writer has overtaken is put apart, not refused."""
    after: Epoch | None = None
    """The epoch whose lease was watched; no other one may be shut out."""
    unchanged: bytes | None = None
    """The lease, as it was for the whole time that it runs; ``None``: it was not watched, or it
    was not there."""
    watched: bool = False
    """Whether ``unchanged`` was seen for so long."""
    openings: Openings | None = None
    """Where the opening can be given up."""


class LeaseWatch:
    """Watches the lease of one database from elsewhere. For one thread. Writes nothing."""

    def __init__(self, store: ObjectStore, clock: Clock, home: str | None) -> None:
        """``home``: the id of the own data directory, if it has one."""
        self._store = store
        self._clock = clock
        self._home = home
        self._state: ManifestState | None = None
        self._leases: dict[Epoch, float] | None = None
        self._data: bytes | None = None
        self._since: float | None = None
        self.holder: LeaseRecord | None = None
        """What the holder said last; ``None`` where nothing is known."""

    @property
    def next_look(self) -> float:
        """Seconds from now until it makes sense to look again."""
        seconds = self._state.lease if self._state is not None else 0.0
        if not seconds:
            return UNLEASED_SECONDS
        left = seconds
        if self._since is not None:
            held = held_seconds(self._leases or {}, self.holder)
            left = self._since + held - self._clock.monotonic()
        return max(0.0, min(seconds / LOOKS, left))

    @property
    def state(self) -> str:
        """What is waited for, in words."""
        state, holder = self._state, self.holder
        if state is None:
            return "nothing was seen of the database yet"
        if not state.lease:
            return (
                f"the writer, of epoch {state.epoch}, keeps no lease: open it with the setting "
                "lease, or promote this one by hand"
            )
        where = holder.address if holder is not None and holder.epoch == state.epoch else ""
        return f"the lease of epoch {state.epoch} is held{where and f' by {where}'}"

    def is_overtaken(self, bid: Bid) -> bool:
        """Whether another one has claimed the database first; then the watch begins anew.
        Raises: ``UnavailableError``."""
        self._begin_anew()
        return self._state is not None and self._state.epoch != bid.after

    def look(self) -> Bid | None:
        """Look once: how to take over if nobody holds the lease, else ``None``.

        Raises: ``UnavailableError``, ``CorruptionError`` of the manifest; the watch then begins
        anew.
        """
        try:
            return self._look()
        except BaseException:
            self._since = None
            raise

    def _look(self) -> Bid | None:
        if self._state is None:
            self._state = load(self._store)
        state = self._state
        if state is None:
            return Bid(takes_over=True, after=Epoch(0))
        started = self._clock.monotonic()
        data = read_lease(self._store)
        record = self.holder = decode_lease(data)
        if self._since is None or data != self._data:
            self._data, self._since = data, self._clock.monotonic()
            if record is not None and record.epoch > state.epoch:
                self._begin_anew()
                return None
        if is_free(record, state) or state.home == self._home:
            return self._if_newest(Bid(takes_over=True, after=state.epoch))
        if not state.lease:
            return self._if_newest(None)
        if self._leases is None:
            self._leases = leases_of(self._store, state, record)
        if started - self._since < held_seconds(self._leases, record):
            return None
        bid = Bid(takes_over=True, after=state.epoch, unchanged=data, watched=True)
        return self._if_newest(bid)

    def _if_newest(self, bid: Bid | None) -> Bid | None:
        """The bid, unless the manifest has another owner by now."""
        state = load(self._store)
        if state is not None and self._state is not None and state.epoch == self._state.epoch:
            return bid
        self._begin_anew()
        return None

    def _begin_anew(self) -> None:
        self._state = load(self._store)
        self._leases = None
        self._since = None


def read_lease(store: ObjectStore) -> bytes | None:
    """The bytes of the lease; ``None`` where there is none."""
    try:
        return store.get(LEASE_NAME)
    except NotFoundError:
        return None


def is_free(record: LeaseRecord | None, state: ManifestState) -> bool:
    """Whether the writer of the state's epoch has given its lease back."""
    return record is not None and record.epoch == state.epoch and record.released


def leases_of(
    store: ObjectStore, state: ManifestState, record: LeaseRecord | None = None
) -> dict[Epoch, float]:
    """The seconds of each lease that may be held, by epoch: that of the writer of ``state``; and of
    the one before as well, as long as nothing follows the claim that shut it out, for who made that
    may have died while it waited. Who said ``record`` has waited, and who goes on in the data
    directory of the one before had no need to. Raises: ``UnavailableError``, ``CorruptionError``.
    """
    leases = {state.epoch: state.lease}
    newest, home = state.number, state.home
    for number, before in pairwise(reversed(state.claims)):
        if number != newest or (record is not None and record.epoch in leases):
            break
        claim = read_record(store, before)
        if not isinstance(claim, Claim) or claim.home == home:
            break
        leases[claim.epoch] = claim.lease
        newest, home = number - 1, claim.home
    return leases


def held_seconds(leases: dict[Epoch, float], record: LeaseRecord | None) -> float:
    """For how long one of ``leases`` can be held, given what was said last: who renews has waited
    for all before, and who gives back holds nothing."""
    first = 0
    if record is not None and record.epoch in leases:
        first = record.epoch + record.released
    return max((seconds for epoch, seconds in leases.items() if epoch >= first), default=0.0)


def outwait(
    store: ObjectStore, clock: Clock, before: ManifestState, home: str, bid: Bid
) -> LeaseRecord | None:
    """Return once nobody holds a lease that the writer of ``before``, or one before it, may have;
    with what was said last, if any was kept.

    Requires: the epoch after ``before`` was claimed for ``home``, and the lock of that data
    directory is held: where it was ``before``'s too, that writer's process is gone.
    """
    gone = before.home == home
    if not before.lease and (gone or not any(leases_of(store, before).values())):
        return None
    data = read_lease(store)
    record = decode_lease(data)
    if not gone and not (bid.watched and bid.unchanged == data):
        _sleep(clock, held_seconds(leases_of(store, before, record), record), bid.openings)
    return record


def _sleep(clock: Clock, seconds: float, openings: Openings | None) -> None:
    """Raises ``ClosedError`` when it is given up."""
    if openings is None:
        clock.sleep(seconds)
        return
    until = clock.monotonic() + seconds
    while (left := until - clock.monotonic()) > 0:
        openings.check()
        clock.sleep(min(left, NAP_SECONDS))
