"""The holder's side: how long a lease runs whatever becomes of its renewals."""

from __future__ import annotations

from typing import Any

import pytest

from seerdb.errors import FencedError, InternalError, UnavailableError
from seerdb.storage.lease.keeper import HELD, LeaseKeeper, Surroundings
from seerdb.storage.lease.record import LeaseRecord, decode_lease
from seerdb.storage.lease.watch import read_lease
from seerdb.storage.manifest.fencing import Claimant
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore

SECONDS = 6.0
OPERATIONS = ("put", "get")


class Rig:
    """A keeper over a store that fails as told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FaultyObjectStore(MemoryObjectStore(self.clock), self.clock)
        self.manifest = self.claim()
        self.keeper = LeaseKeeper(
            self.store, self.manifest, self.clock, seconds=SECONDS, address="http://a"
        )
        self.seq = 0
        self.told: list[BaseException] = []
        self.keeper.attend(Surroundings(lambda: self.seq, lambda: 0, self._failed))

    def _failed(self, *failure: Any) -> bool:
        self.told.append(failure[1])
        return True

    def claim(self) -> ManifestWriter:
        claimant = Claimant(database_id="d" * 32, home="h" * 32, store="s", lease=SECONDS)
        return ManifestWriter.claim(
            self.store, load(self.store), claimant=claimant, clock=self.clock
        )

    def lease(self) -> LeaseRecord | None:
        return decode_lease(read_lease(self.store))


def test_it_runs_from_before_the_renewal_was_sent() -> None:
    rig = Rig()
    rig.store.delay("put", match="lease", seconds=2.0)
    rig.store.delay("get", match="manifest", seconds=1.0)
    rig.keeper.renew()
    assert (rig.keeper.until, rig.clock.monotonic()) == (SECONDS * HELD, 3.0)


def test_nothing_may_be_acknowledged_before_the_first_renewal() -> None:
    rig = Rig()
    with pytest.raises(FencedError, match="ran out while a write was under way"):
        rig.keeper.confirm()


def test_a_renewal_is_a_put_and_a_look_for_a_claim() -> None:
    rig = Rig()
    before = len(rig.store.trace)
    rig.keeper.renew()
    assert [each.operation for each in rig.store.trace[before:]] == ["put", "get"]


def test_writes_that_come_when_it_is_due_renew_it_where_no_thread_does() -> None:
    rig = Rig()
    for number in (1, 2, 3):
        rig.keeper.require()
        rig.keeper.require()
        lease = rig.lease()
        assert lease is not None
        assert lease.number == number
        rig.clock.advance(SECONDS / 3)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_renewal_that_fails_leaves_what_is_left(operation: str) -> None:
    rig = Rig()
    rig.keeper.renew()
    until = rig.keeper.until
    rig.store.fail(operation, times=100)
    rig.clock.advance(SECONDS / 2)
    rig.keeper.require()
    rig.keeper.confirm()
    rig.clock.advance(SECONDS / 2 * HELD)
    with pytest.raises(UnavailableError, match="nothing was written; try again"):
        rig.keeper.require()
    assert rig.keeper.until == until
    assert {type(error) for error in rig.told} == {UnavailableError}


def test_it_is_held_again_when_the_bucket_is_back_and_nobody_took_over() -> None:
    rig = Rig()
    rig.keeper.renew()
    rig.store.outage = True
    rig.clock.advance(100.0)
    with pytest.raises(UnavailableError):
        rig.keeper.require()
    rig.store.outage = False
    rig.clock.advance(1.0)
    rig.keeper.require()
    rig.keeper.confirm()
    assert rig.keeper.failure is None


def test_whatever_a_renewal_ends_in_the_next_one_comes() -> None:
    """PB-04. The thread was gone for good when a listener raised while it was told of a failure:
    the database refused all writes until it was opened again."""
    rig = Rig()
    keeper = LeaseKeeper(rig.store, rig.manifest, rig.clock, seconds=0.12, address="")
    failures = []

    def failed(*failure: Any) -> bool:
        failures.append(str(keeper.failure))
        if len(failures) == 2:
            rig.store.outage = False
            keeper._stopped.set()
        raise RuntimeError("of a listener")

    rig.store.outage = True
    keeper.attend(Surroundings(lambda: 0, lambda: 0, failed))
    keeper.run()
    assert len(failures) == 2
    assert isinstance(keeper.failure, InternalError)
    rig.clock.advance(1.0)
    keeper.require()
    assert keeper.failure is None


def test_a_renewal_whose_reply_is_lost_does_not_count_and_does_no_harm() -> None:
    rig = Rig()
    rig.keeper.renew()
    until = rig.keeper.until
    rig.clock.advance(2.0)
    rig.store.time_out_after("put", match="lease")
    with pytest.raises(UnavailableError):
        rig.keeper.renew()
    assert rig.keeper.until == until
    rig.clock.advance(1.0)
    rig.keeper.renew()
    assert rig.keeper.until == 3.0 + SECONDS * HELD


def test_a_write_that_began_in_time_and_ended_too_late_is_not_acknowledged() -> None:
    rig = Rig()
    rig.keeper.require()
    rig.clock.advance(SECONDS)
    with pytest.raises(FencedError):
        rig.keeper.confirm()


def test_no_write_begins_that_could_not_end_in_time() -> None:
    rig = Rig()
    rig.keeper.renew()
    rig.store.fail("put", times=100)
    rig.clock.advance(SECONDS * (HELD - 0.05))
    rig.keeper.confirm()
    with pytest.raises(UnavailableError):
        rig.keeper.require()


def test_a_claim_ends_it_at_the_next_renewal_for_good() -> None:
    rig = Rig()
    rig.keeper.renew()
    rig.claim()
    with pytest.raises(FencedError, match="took over from epoch 1"):
        rig.keeper.renew()
    requests = len(rig.store.trace)
    for refused in (rig.keeper.require, rig.keeper.confirm, rig.keeper.renew):
        with pytest.raises(FencedError):
            refused()
    assert len(rig.store.trace) == requests
    assert [type(error) for error in rig.told] == [FencedError]


def test_own_records_of_the_manifest_are_no_claim() -> None:
    rig = Rig()
    rig.store.time_out_after("put_if_absent", match="manifest")
    with pytest.raises(UnavailableError):
        rig.manifest.checkpoint()
    rig.keeper.renew()
    rig.keeper.confirm()


def test_what_happened_before_anybody_listened_is_told_then() -> None:
    rig = Rig()
    keeper = LeaseKeeper(rig.store, rig.manifest, rig.clock, seconds=SECONDS, address="")
    keeper.renew()
    rig.claim()
    with pytest.raises(FencedError):
        keeper.renew()
    keeper.attend(Surroundings(lambda: 0, lambda: 0, rig._failed))
    assert [type(error) for error in rig.told] == [FencedError]


def test_it_is_given_back_when_all_is_in_tables() -> None:
    rig = Rig()
    rig.keeper.renew()
    rig.keeper.close()
    lease = rig.lease()
    assert lease is not None
    assert lease.released
    with pytest.raises(FencedError):
        rig.keeper.confirm()


def test_it_is_kept_while_commits_are_in_the_local_log_alone() -> None:
    rig = Rig()
    rig.keeper.renew()
    rig.seq = 5
    rig.keeper.close()
    lease = rig.lease()
    assert lease is not None
    assert not lease.released


def test_that_it_could_not_be_given_back_is_told() -> None:
    rig = Rig()
    rig.keeper.renew()
    rig.store.outage = True
    rig.keeper.close()
    assert [type(error) for error in rig.told] == [UnavailableError]


def test_who_was_overtaken_gives_nothing_back() -> None:
    rig = Rig()
    rig.keeper.renew()
    rig.claim()
    with pytest.raises(FencedError):
        rig.keeper.renew()
    before = read_lease(rig.store)
    rig.keeper.close()
    assert read_lease(rig.store) == before
