"""Replicas of a database that another writer takes over: what they go on to show, and take back."""

from __future__ import annotations

import pytest

from seerdb import ChecksumError, ClosedError, UnavailableError
from seerdb.storage.replication.format import Heartbeat
from seerdb.storage.replication.shipped import Listing, Stretch
from tests.fixtures.database import ROOMY, World
from tests.fixtures.follower import checks, contents, pair, put, shown, stream


def test_what_was_only_on_the_lost_machine_is_taken_back() -> None:
    world, db, replica = pair()
    put(db, b"a")
    db.put(b"lost", b"1")
    stream(db, replica)
    assert shown(replica) == {b"a": b"1", b"lost": b"1"}
    heir = world.open("heir")
    put(heir, b"b")
    replica.refresh()
    assert shown(replica) == {b"a": b"1", b"b": b"1"}
    assert replica.statistics().restarts == 1
    assert replica.lag.seq == 0


def test_what_the_lost_machine_told_of_and_did_not_send_is_no_lag() -> None:
    world, db, replica = pair()
    put(db, b"a")
    stream(db, replica)
    replica._follower.heard(Heartbeat(5, 0))
    assert replica.lag.seq == 4
    world.open("heir")
    replica.refresh()
    world.clock.advance(100.0)
    replica.refresh()
    assert replica.statistics().restarts == 0
    assert (replica.lag.seq, replica.lag.seconds) == (0, 0.0)
    assert checks(replica)["lag"]


def test_what_is_taken_back_does_not_count_as_compared() -> None:
    world, db, replica = pair()
    put(db, b"a")
    replica.refresh()
    db.put(b"lost", b"1")
    stream(db, replica)
    assert replica.statistics().compared_seq == 2
    world.open("heir")
    replica.refresh()
    assert (replica.seq, replica.statistics().compared_seq) == (1, 0)


def test_a_snapshot_of_what_is_taken_back_keeps_its_moment() -> None:
    world, db, replica = pair()
    put(db, b"k")
    db.flush()
    replica.refresh()
    for number in range(5):
        db.put(b"lost%d" % number, b"1")
    stream(db, replica)
    with replica.snapshot() as snapshot:
        heir = world.open("heir")
        heir.put(b"k", b"2")
        heir.flush()
        replica.refresh()
        for _ in range(3):  # what is asked for often is kept at hand
            assert replica.get(b"k") == b"2"
        assert (snapshot.get(b"k"), dict(snapshot.scan())[b"k"]) == (b"1", b"1")


def test_tables_of_an_heir_are_not_shown_beside_what_they_make_void() -> None:
    world, db, replica = pair()
    put(db, b"a")
    for _ in range(5):
        db.put(b"k", b"lost")
    stream(db, replica)
    before = contents(replica)
    heir = world.open("heir")
    heir.put(b"k", b"kept")
    heir.put(b"z", b"kept")
    heir.flush()
    world.store.fail("list", match="wal/", error=ChecksumError("no listing, by plan"))
    with pytest.raises(ChecksumError):
        replica.refresh()
    assert contents(replica) == before, "it is not known yet what is void"
    replica.refresh()
    assert shown(replica) == dict(heir.scan())


def test_rows_that_void_log_does_not_replace_are_not_kept() -> None:
    world, db, replica = pair()
    put(db, b"k")
    db.flush()
    replica.refresh()
    db.put(b"lost", b"1")
    stream(db, replica)
    for _ in range(3):  # what is asked for often is kept at hand
        assert replica.get(b"k") == b"1"
    heir = world.open("heir")
    heir.put(b"k", b"2")
    heir.flush()
    assert heir.visible_seq == replica.seq
    replica.refresh()
    assert (replica.get(b"k"), shown(replica)) == (b"2", {b"k": b"2"})


def test_a_restart_of_the_same_machine_takes_nothing_back() -> None:
    world, db, replica = pair()
    put(db, b"a")
    db.put(b"kept", b"1")
    stream(db, replica)
    again = World(files=world.files.kill(), bucket=world.bucket, clock=world.clock, **ROOMY).open()
    put(again, b"b")
    replica.refresh()
    stream(again, replica)
    assert shown(replica) == {b"a": b"1", b"kept": b"1", b"b": b"1"}
    assert replica.statistics().restarts == 0


def test_what_was_shipped_after_a_claim_is_never_shown() -> None:
    world, db, replica = pair()
    put(db, b"a")
    replica.refresh()
    heir = world.open("heir")
    name = f"wal/{1:020d}/{2:020d}-{2:020d}.wal"
    db.put(b"late", b"1")
    with pytest.raises(ClosedError):
        db.put(b"later", b"1", durability="object")
    assert any(info.name.startswith(name[:50]) for info in world.bucket.list("wal/"))
    replica.refresh()
    assert shown(replica) == {b"a": b"1"}
    put(heir, b"b")
    replica.refresh()
    assert shown(replica) == {b"a": b"1", b"b": b"1"}
    assert replica.statistics().restarts == 0, "nothing had to be taken back"


def test_between_a_claim_and_its_branch_earlier_log_waits() -> None:
    world, db, replica = pair()
    put(db, b"a")
    world.store.fail("put_if_absent", match=f"wal/{2:020d}", times=5)
    with pytest.raises(UnavailableError):
        world.open("heir")
    replica.refresh()
    assert replica.seq == 0, "how much of the earlier log counts is not known yet"
    world.open("heir")
    replica.refresh()
    assert shown(replica) == {b"a": b"1"}


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_writer_that_was_restarted_and_is_idle_leaves_nobody_behind(end: str) -> None:
    world, db, replica = pair()
    put(db, b"a")
    replica.refresh()
    if end == "close":
        db.close()
    files = world.files.kill()
    World(files=files, bucket=world.bucket, clock=world.clock, **ROOMY).open()
    for _ in range(5):
        world.clock.advance(10.0)
        replica.refresh()
    assert (replica.lag.seq, replica.lag.seconds) == (0, 0.0)
    assert all(checks(replica).values())


def test_between_a_claim_and_its_branch_what_waits_counts_as_lag() -> None:
    world, db, replica = pair()
    put(db, b"a")
    replica.refresh()
    put(db, b"b")
    world.store.fail("put_if_absent", match=f"wal/{2:020d}", times=5)
    with pytest.raises(UnavailableError):
        world.open("heir")
    world.clock.advance(100.0)
    replica.refresh()
    assert (replica.seq, checks(replica)["lag"]) == (1, False)


def test_an_older_primary_is_not_followed() -> None:
    world, db, replica = pair()
    put(db, b"a")
    heir = world.open("heir")
    put(heir, b"b")
    replica.refresh()
    db.put(b"void", b"1")
    stream(db, replica)
    assert shown(replica) == {b"a": b"1", b"b": b"1"}
    assert "epoch 1" in replica._follower.live_error
    stream(heir, replica)
    assert "ended" in replica._follower.live_error


def test_the_primary_of_another_database_is_not_followed() -> None:
    _, _, replica = pair()
    other = World(seed=5, **ROOMY).open()
    other.put(b"a", b"1")
    stream(other, replica)
    assert shown(replica) == {}
    assert "is this its primary?" in replica._follower.live_error


def test_a_takeover_is_noticed_by_the_greeting_of_the_new_primary() -> None:
    world, db, replica = pair()
    put(db, b"a")
    db.put(b"lost", b"1")
    stream(db, replica)
    heir = world.open("heir")
    for key in (b"b", b"c", b"d"):
        heir.put(key, b"1")
    stream(heir, replica)
    stream(heir, replica)
    assert shown(replica) == {b"a": b"1", b"b": b"1", b"c": b"1", b"d": b"1"}


def test_a_greeting_while_the_log_is_listed_does_not_settle_an_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, db, replica = pair()
    put(db, b"a")
    db.put(b"lost", b"1")
    stream(db, replica)
    heir = world.open("heir")
    heir.put(b"b", b"1")
    tail = replica._follower.tail

    def list_before_the_branch(epoch: int) -> Listing:
        tail.greet(epoch)  # its writer goes on while the listing is on its way
        return Listing(epoch, [Stretch(1, 1, 1)])

    with monkeypatch.context() as patch:
        patch.setattr(tail._log, "list_all", list_before_the_branch)
        replica.refresh()
    assert not tail.is_settled(2)
    for _ in range(2):
        stream(heir, replica)
    assert shown(replica) == {b"a": b"1", b"b": b"1"}
