"""The standby's side: when nobody can hold the lease any more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seerdb.errors import ConflictError, UnavailableError
from seerdb.ids import Epoch
from seerdb.storage.lease.keeper import HELD, LeaseKeeper, Surroundings
from seerdb.storage.lease.record import decode_lease
from seerdb.storage.lease.watch import (
    LOOKS,
    UNLEASED_SECONDS,
    Bid,
    LeaseWatch,
    leases_of,
    outwait,
    read_lease,
)
from seerdb.storage.manifest.fencing import Claimant
from seerdb.storage.manifest.store import load
from seerdb.storage.manifest.writer import ManifestWriter
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore

SECONDS = 6.0


class Scene:
    """A bucket with writers and those who wait for their end, on one clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FaultyObjectStore(MemoryObjectStore(self.clock), self.clock)

    def claim(self, home: str, lease: float = SECONDS, bid: Bid | None = None) -> ManifestWriter:
        claimant = Claimant(
            database_id="d" * 32,
            home=home,
            store="s",
            lease=lease,
            after=bid.after if bid else None,
        )
        return ManifestWriter.claim(
            self.store, load(self.store), claimant=claimant, clock=self.clock
        )

    def holder(self, home: str = "a", lease: float = SECONDS) -> LeaseKeeper:
        return self.keeper(self.claim(home, lease), lease)

    def keeper(self, manifest: ManifestWriter, lease: float = SECONDS) -> LeaseKeeper:
        keeper = LeaseKeeper(
            self.store, manifest, self.clock, seconds=lease, address=f"http://{manifest.state.home}"
        )
        keeper.attend(Surroundings(lambda: 0, lambda: 0, lambda *_: True))
        keeper.renew()
        return keeper

    def watch(self, home: str | None = "b") -> LeaseWatch:
        return LeaseWatch(self.store, self.clock, home)

    def wait(self, watch: LeaseWatch, most: float = 100.0) -> tuple[Bid, float]:
        """Look as often as the watch says; the bid, and the seconds until it came."""
        started = self.clock.monotonic()
        while self.clock.monotonic() - started <= most:
            if (bid := watch.look()) is not None:
                return bid, self.clock.monotonic() - started
            self.clock.advance(watch.next_look)
        raise AssertionError(f"no bid in {most} s")


def test_an_empty_bucket_is_free() -> None:
    scene = Scene()
    assert scene.watch().look() == Bid(takes_over=True, after=Epoch(0))


def test_nobody_takes_over_while_it_is_renewed() -> None:
    scene = Scene()
    holder, watch = scene.holder(), scene.watch()
    for _ in range(100):
        assert watch.look() is None
        scene.clock.advance(SECONDS / 3)
        holder.renew()
    assert watch.holder is not None
    assert watch.holder.address == "http://a"


@pytest.mark.parametrize("lag", [0.0, 0.5, SECONDS / LOOKS])
def test_after_a_death_it_takes_the_time_of_a_lease_and_one_look_at_most(lag: float) -> None:
    scene = Scene()
    holder, watch = scene.holder(), scene.watch()
    assert watch.look() is None
    scene.clock.advance(SECONDS / LOOKS - lag)
    holder.renew()
    died = scene.clock.monotonic()
    scene.clock.advance(lag)
    bid, _ = scene.wait(watch)
    assert died + SECONDS <= scene.clock.monotonic() <= died + SECONDS * (1 + 1 / LOOKS)
    assert scene.clock.monotonic() > holder.until
    assert (bid.after, bid.watched) == (1, True)


def test_nobody_takes_over_before_the_holder_has_stopped_whenever_it_is_looked() -> None:
    """Also when the look that found the renewal, or the renewal itself, took long."""
    for slow in ("look", "renewal"):
        scene = Scene()
        scene.store.delay("put", match="lease", seconds=2.0 if slow == "renewal" else 0.0)
        holder, watch = scene.holder(), scene.watch()
        scene.store.delay("get", match="lease", seconds=2.0 if slow == "look" else 0.0)
        bid, _ = scene.wait(watch)
        assert scene.clock.monotonic() >= holder.until
        before = scene.clock.monotonic()
        manifest = scene.claim("b", bid=bid)
        outwait(scene.store, scene.clock, manifest.before, "b", bid)
        assert scene.clock.monotonic() == before, "nobody can hold it: no need to wait again"


class SlowGets(FaultyObjectStore):
    """Something happens while a GET of the lease is on its way there, or back."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.store, scene.clock)
        self.going: Callable[[], None] = lambda: None
        self.coming: Callable[[], None] = lambda: None

    def get(self, name: str) -> bytes:
        if name != "lease":
            return super().get(name)
        going, self.going = self.going, lambda: None
        coming, self.coming = self.coming, lambda: None
        going()
        data = super().get(name)
        coming()
        return data


def test_a_renewal_while_a_look_is_under_way_counts_from_the_end_of_the_look() -> None:
    scene = Scene()
    holder = scene.holder()
    store = SlowGets(scene)
    watch = LeaseWatch(store, scene.clock, "b")

    def renewed_late() -> None:
        scene.clock.advance(2.0)
        holder.renew()

    store.going = renewed_late
    scene.wait(watch)
    assert scene.clock.monotonic() >= holder.until


def test_what_a_look_that_took_long_saw_is_as_old_as_its_beginning() -> None:
    scene = Scene()
    holder = scene.holder()
    store = SlowGets(scene)
    watch = LeaseWatch(store, scene.clock, "b")
    assert watch.look() is None
    scene.clock.advance(SECONDS - 0.5)

    def renewed_meanwhile() -> None:
        holder.renew()
        scene.clock.advance(1.0)

    store.coming = renewed_meanwhile
    assert watch.look() is None


def test_a_renewal_between_the_last_look_and_the_claim_is_waited_out() -> None:
    scene = Scene()
    holder, watch = scene.holder(), scene.watch()
    bid, _ = scene.wait(watch)
    holder.renew()
    manifest = scene.claim("b", bid=bid)
    outwait(scene.store, scene.clock, manifest.before, "b", bid)
    assert scene.clock.monotonic() > holder.until


def test_who_claims_without_watching_waits_for_the_whole_lease() -> None:
    scene = Scene()
    holder = scene.holder()
    manifest = scene.claim("b", lease=0.0)
    record = outwait(scene.store, scene.clock, manifest.before, "b", Bid())
    assert scene.clock.slept == SECONDS
    assert scene.clock.monotonic() > holder.until
    assert record is not None
    assert record.address == "http://a"


def test_where_no_lease_is_kept_nobody_waits_or_asks() -> None:
    scene = Scene()
    scene.claim("a", lease=0.0)
    manifest = scene.claim("b")
    requests = len(scene.store.trace)
    outwait(scene.store, scene.clock, manifest.before, "b", Bid())
    assert (len(scene.store.trace), scene.clock.slept) == (requests, 0.0)


def test_one_that_was_given_back_is_free_at_once() -> None:
    scene = Scene()
    holder, watch = scene.holder(), scene.watch()
    assert watch.look() is None
    holder.close()
    bid = watch.look()
    assert bid == Bid(takes_over=True, after=Epoch(1))
    manifest = scene.claim("b", bid=bid)
    outwait(scene.store, scene.clock, manifest.before, "b", bid)
    assert scene.clock.slept == 0.0


def test_one_that_an_overtaken_writer_gives_back_is_not_free() -> None:
    """Its last word arrives after the new holder's, and is of another epoch."""
    scene = Scene()
    old = scene.holder("a")
    scene.holder("b")
    watch = scene.watch("c")
    assert watch.look() is None
    old.close()
    assert watch.look() is None
    manifest = scene.claim("c")
    outwait(scene.store, scene.clock, manifest.before, "c", Bid())
    assert scene.clock.slept == SECONDS


def test_the_own_directory_goes_on_at_once() -> None:
    """Its lock says that no other process is the holder."""
    scene = Scene()
    scene.holder("a")
    assert scene.watch("a").look() == Bid(takes_over=True, after=Epoch(1))
    manifest = scene.claim("a")
    outwait(scene.store, scene.clock, manifest.before, "a", Bid())
    assert scene.clock.slept == 0.0


def test_a_look_that_fails_begins_the_watch_anew() -> None:
    scene = Scene()
    holder, watch = scene.holder(), scene.watch()
    assert watch.look() is None
    scene.store.outage = True
    for _ in range(10):
        scene.clock.advance(1.0)
        with pytest.raises(UnavailableError):
            watch.look()
    scene.store.outage = False
    assert watch.look() is None
    scene.clock.advance(SECONDS / 3)
    holder.renew()
    assert watch.look() is None
    assert holder.failure is None


def test_a_damaged_lease_is_waited_for() -> None:
    scene = Scene()
    scene.holder()
    scene.store.put("lease", b"nonsense")
    bid, seconds = scene.wait(scene.watch())
    assert (seconds, bid.unchanged) == (SECONDS, b"nonsense")


def test_one_that_was_never_written_is_waited_for() -> None:
    """The holder died between its claim and its first renewal, or is about to renew."""
    scene = Scene()
    scene.claim("a")
    bid, seconds = scene.wait(scene.watch())
    assert (seconds, bid.unchanged, bid.watched) == (SECONDS, None, True)
    scene.keeper(scene.claim("c"))
    manifest = scene.claim("b")
    outwait(scene.store, scene.clock, manifest.before, "b", bid)
    assert scene.clock.slept == SECONDS


def test_a_writer_without_a_lease_is_never_taken_over_from() -> None:
    scene = Scene()
    scene.claim("a", lease=0.0)
    watch = scene.watch()
    for _ in range(100):
        assert watch.look() is None
        assert watch.next_look == UNLEASED_SECONDS
        scene.clock.advance(watch.next_look)


def test_a_writer_that_comes_to_keep_a_lease_is_watched_from_then_on() -> None:
    scene = Scene()
    scene.claim("a", lease=0.0)
    watch = scene.watch()
    assert watch.look() is None
    scene.holder("a")
    bid, _ = scene.wait(watch)
    assert bid.after == 2


def test_of_two_standbys_that_see_the_end_one_takes_over() -> None:
    scene = Scene()
    scene.holder()
    first, second = scene.watch("b"), scene.watch("c")
    assert (first.look(), second.look()) == (None, None)
    scene.clock.advance(SECONDS)
    one, other = first.look(), second.look()
    assert one is not None
    assert other is not None
    winner = scene.keeper(scene.claim("b", bid=one))
    with pytest.raises(ConflictError, match="took over from epoch 1 first"):
        scene.claim("c", bid=other)
    winner.confirm()


def test_a_standby_that_comes_second_watches_the_winner() -> None:
    scene = Scene()
    scene.holder()
    watch = scene.watch("c")
    assert watch.look() is None
    scene.clock.advance(SECONDS)
    winner = scene.keeper(scene.claim("b"))
    assert watch.look() is None
    for _ in range(5):
        scene.clock.advance(SECONDS / 3)
        winner.renew()
        assert watch.look() is None
    assert watch.holder is not None
    assert watch.holder.address == "http://b"


def test_a_winner_that_has_not_renewed_yet_gets_the_time_of_a_lease() -> None:
    scene = Scene()
    scene.holder()
    watch = scene.watch("c")
    assert watch.look() is None
    scene.clock.advance(SECONDS)
    scene.claim("b")
    assert watch.look() is None
    bid, seconds = scene.wait(watch)
    assert (seconds >= SECONDS, bid.after) == (True, 2)


def test_a_claimant_that_waits_hides_no_longer_lease_before_it() -> None:
    scene = Scene()
    holder = scene.holder(lease=10 * SECONDS)
    scene.claim("b")
    bid, seconds = scene.wait(scene.watch("c"))
    assert (seconds, bid.after) == (10 * SECONDS, 2)
    assert scene.clock.monotonic() > holder.until
    manifest = scene.claim("c", bid=bid)
    outwait(scene.store, scene.clock, manifest.before, "c", bid)
    assert scene.clock.slept == 0.0, "it has watched for as long"


def test_claims_before_that_of_who_renewed_are_not_read() -> None:
    scene = Scene()
    for number in range(5):
        scene.holder(f"home {number}", lease=SECONDS + number)
    scene.claim("b")
    state, record = load(scene.store), decode_lease(read_lease(scene.store))
    assert state is not None
    before = len(scene.store.trace)
    assert leases_of(scene.store, state, record) == {6: SECONDS, 5: SECONDS + 4}
    assert len(scene.store.trace) == before + 1
    assert len(leases_of(scene.store, state)) == 6, "nothing is known where nothing was said"


@pytest.mark.parametrize("end", ["released", "renewed", "wrote", "went on"])
def test_a_lease_that_nobody_can_hold_any_more_is_not_waited_for(end: str) -> None:
    scene = Scene()
    holder = scene.holder(lease=10 * SECONDS)
    if end == "released":
        holder.close()
    manifest = scene.claim("a" if end == "went on" else "b")
    if end == "renewed":
        scene.keeper(manifest)
    elif end == "wrote":
        manifest.checkpoint()
    bid, seconds = scene.wait(scene.watch("c"))
    assert (seconds, bid.after) == (SECONDS, 2)


def test_a_holder_uses_less_of_a_lease_than_a_standby_waits_for() -> None:
    assert HELD < 1.0
