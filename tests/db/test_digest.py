"""The digest of what a database shows: the same however it is kept."""

from __future__ import annotations

import pytest

from seerdb import DB
from seerdb.errors import InvalidRequestError, ReadOnlyError
from tests.fixtures.database import ROOMY, World, fill
from tests.fixtures.follower import follow


def test_an_empty_database_has_the_digest_of_nothing() -> None:
    found = World().open().digest()
    assert (found.seq, found.entries, found.digest) == (0, 0, "0" * 32)


def test_flushes_and_merges_do_not_change_it() -> None:
    db = World().open(**ROOMY, blob_threshold=100)
    fill(db, 30)
    db.put(b"small", b"1")
    db.delete(b"k0003")
    db.delete_range(b"k0010", b"k0015")
    before = db.digest()
    assert before.entries == 25
    db.flush()
    assert db.digest() == before
    db.compact()
    assert db.digest() == before


def test_another_value_key_or_commit_changes_it() -> None:
    def digest_after(*writes: tuple[bytes, bytes]) -> str:
        db = World().open()
        for key, value in writes:
            db.put(key, value)
        return db.digest().digest

    right = digest_after((b"a", b"1"), (b"b", b"2"))
    assert digest_after((b"a", b"1"), (b"b", b"2")) == right
    assert digest_after((b"a", b"1"), (b"b", b"3")) != right
    assert digest_after((b"a", b"1"), (b"c", b"2")) != right
    swapped = digest_after((b"b", b"2"), (b"a", b"1"))
    assert swapped[:16] == right[:16]
    assert swapped[16:] != right[16:]


def test_every_past_commit_has_the_digest_it_had_then() -> None:
    world = World()
    db = world.open(**ROOMY, history_retention=10_000.0, wal_retention="count:1000")
    digests = []
    for number in range(12):
        db.put(b"key%d" % (number % 5), b"value %d" % number)
        digests.append(db.digest())
        if number % 4 == 3:
            db.flush()
    db.compact()
    for known in digests:
        then = db.digest(known.seq)
        assert (then.seq, then.digest) == (known.seq, known.digest)


def test_what_expires_counts_until_the_second_that_is_asked_for() -> None:
    world = World()
    db = world.open(**ROOMY)
    db.put(b"stays", b"1")
    without = db.digest().digest
    db.put(b"goes", b"2", ttl=10)
    before = db.digest()
    world.clock.advance(60)
    after = db.digest()
    assert (before.entries, after.entries) == (2, 1)
    assert after.digest == without
    assert db.digest(second=before.second) == before
    assert db.digest(second=after.second) == after


def test_a_replica_has_the_same() -> None:
    world = World()
    db = world.open(**ROOMY)
    fill(db, 20)
    db.flush()
    with follow(world) as replica:
        assert replica.digest() == db.digest()
        with pytest.raises(ReadOnlyError):
            replica.digest(3)


def test_a_seq_that_cannot_be_one_is_refused(db: DB) -> None:
    with pytest.raises(InvalidRequestError):
        db.digest(-1)
