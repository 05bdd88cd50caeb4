"""A commit that was lost with its writer is lost for whoever asks, however much later."""

from __future__ import annotations

import pytest

from seerdb import FencedError, LostError, UnavailableError
from tests.fixtures.database import ROOMY, World, collect_garbage
from tests.fixtures.follower import follow, pair, put


def test_commits_of_a_former_writer_are_here_or_lost() -> None:
    world = World(**ROOMY)
    first = world.open("a")
    kept = first.put(b"kept", b"", durability="object")
    lost = first.put(b"lost", b"")
    second = world.open("b")
    assert (first.epoch, second.epoch) == (1, 2)
    second.check_commit(1, kept)
    for _ in range(3):
        with pytest.raises(LostError, match=r"commit 2 of epoch 1 is lost.* up to seq 1"):
            second.check_commit(1, lost)
        assert second.put(b"new", b"") >= lost, "its seq is used again, and says nothing"
    second.check_commit(2, lost)


@pytest.mark.parametrize("knows", [False, True])
def test_a_writer_that_was_overtaken_does_not_answer_for_its_successor(*, knows: bool) -> None:
    """PB-08. A process that was stopped and goes on shows what it had: whoever relies on a commit
    of the writer that took over meanwhile, under a seq that both have used, must not be told that
    it is here."""
    world = World(**ROOMY)
    older = world.open("a")
    older.put(b"k", b"older")
    newer = world.open("b")
    seq = newer.put(b"k", b"newer")
    assert older.visible_seq >= seq
    if knows:
        with pytest.raises(FencedError):
            older.flush()
    with pytest.raises(FencedError, match="commit 1 is of epoch 2, and this is a node of epoch 1"):
        older.check_commit(newer.epoch, seq)
    older.check_commit(older.epoch, seq)


def test_a_restart_loses_nothing() -> None:
    world = World(**ROOMY)
    seq = world.open("a").put(b"k", b"")
    world = world.kill()
    db = world.open("a")
    assert db.epoch == 2
    db.check_commit(1, seq)


def test_it_is_known_after_many_takeovers_and_collections() -> None:
    """PB-01. The branches are the fences of the log: empty objects that look like garbage."""
    world = World(**ROOMY)
    commits = []
    for number in range(4):
        db = world.open(f"owner{number}")
        db.put(b"kept", b"%d" % number, durability="object")
        commits.append((db.epoch, db.put(b"lost", b"%d" % number)))
    for _ in range(5):
        db = world.open("last")
        db.put(b"more", b"")
        db.flush()
        collect_garbage(world, db)
        for commit in commits:
            with pytest.raises(LostError):
                db.check_commit(*commit)
        db.close()


def test_the_bucket_is_asked_once_and_only_about_former_writers() -> None:
    world = World(**ROOMY)
    world.open("a").put(b"k", b"", durability="object")
    db = world.open("b")
    lists = world.bucket.calls["list"]
    db.check_commit(2, 1)
    assert world.bucket.calls["list"] == lists
    for _ in range(5):
        db.check_commit(1, 1)
    assert world.bucket.calls["list"] == lists + 1


def test_a_replica_asks_the_bucket_once_for_each_takeover_it_has_seen() -> None:
    world, db, replica = pair()
    put(db, b"a")
    lost = db.put(b"lost", b"")
    world.store.fail("put_if_absent", match=f"wal/{2:020d}", times=5)
    with pytest.raises(UnavailableError):
        world.open("b")
    early = follow(world, "opened between the claim and its branch")
    early.check_commit(1, lost)
    for home in ("b", "c"):
        put(world.open(home), b"b")
        for each in (replica, early):
            each.refresh()
            lists = world.bucket.calls["list"]
            for _ in range(5):
                each.check_commit(1, 1)
                with pytest.raises(LostError):
                    each.check_commit(1, lost)
            assert world.bucket.calls["list"] == lists + 1
