"""Listings that lack objects, whichever they are, and show them later in any order: whoever reads
the shipped log shows some commit that was, or names the gap, and goes on when all is there."""

from __future__ import annotations

from functools import cache
from itertools import compress, pairwise, product
from typing import Any

import pytest

from seerdb import CorruptionError
from seerdb.errors import HistoryError
from seerdb.storage.object_store.base import ObjectInfo
from seerdb.storage.object_store.names import WAL_PREFIX
from seerdb.testing.model import Model
from seerdb.testing.objects import MemoryObjectStore
from tests.crash.trace import Write, commit, delete, put
from tests.fixtures.backups import content, restore
from tests.fixtures.database import ROOMY, World
from tests.fixtures.follower import follow

pytestmark = pytest.mark.crash

HISTORY: tuple[Write, ...] = (
    put(b"a", b"1"),
    put(b"b", b"1"),
    Write((("put", b"a", b"2"), ("delete_range", b"b", b"c"))),
    delete(b"a"),
    put(b"b", b"2"),
    put(b"a", b"3"),
)


class Partial(MemoryObjectStore):
    """Lists what is not hidden; everything can be read."""

    hidden: frozenset[str] = frozenset()

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [info for info in super().list(prefix) if info.name not in self.hidden]


@cache
def written() -> tuple[World, Model]:
    """A commit for each object of the log; the first two are in a table, too."""
    world, model = World(**ROOMY), Model()
    db = world.open()
    for number, write in enumerate(HISTORY):
        model.attempt(write.operations)
        model.acknowledge(commit(db, Write(write.operations, "object")), "object")
        if number == 1:
            db.flush()
    return world, model


def partial(hidden: tuple[bool, ...]) -> tuple[World, Partial]:
    bucket = Partial()
    bucket._objects = dict(written()[0].bucket._objects)
    names = [info.name for info in bucket.list(WAL_PREFIX)]
    bucket.hidden = frozenset(compress(names, hidden))
    return World(bucket=bucket, seed=5, **ROOMY), bucket


def expected(seq: int) -> dict[bytes, bytes]:
    return {key: found.value for key, found in written()[1].contents(seq).items()}


SIGHTS = list(product((False, True), repeat=len(HISTORY)))


def test_a_new_machine_shows_a_commit_that_was_or_names_the_gap() -> None:
    for hidden in SIGHTS:
        world, _ = partial(hidden)
        following = hidden[2:]
        if any(before and not after for before, after in pairwise(following)):
            with pytest.raises(CorruptionError, match="gap"):
                world.open()
        else:
            db = world.open()
            assert db.visible_seq == 2 + (*following, True).index(True)
            assert dict(db.scan()) == expected(db.visible_seq)


def test_a_replica_shows_a_commit_that_was_and_the_rest_when_it_comes() -> None:
    for hidden in SIGHTS:
        world, bucket = partial(hidden)
        replica = follow(world)
        replica.refresh()
        assert dict(replica.scan()) == expected(replica.seq)
        assert replica.seq == 2 + (*hidden[2:], True).index(True)
        shown = replica.seq
        for name in sorted(bucket.hidden, reverse=True):
            bucket.hidden -= {name}
            replica.refresh()
            assert replica.seq >= shown
            shown = replica.seq
            assert dict(replica.scan()) == expected(shown)
        assert shown == len(HISTORY)


def test_a_restore_brings_back_what_it_says_or_nothing() -> None:
    for hidden in SIGHTS:
        for seq in (None, 2, 4, 6):
            world, bucket = partial(hidden)
            wanted: dict[str, Any] = {} if seq is None else {"seq": seq}
            try:
                report, made = restore(world, bucket, **wanted)
            except HistoryError:
                assert seq is not None
                assert any(hidden[2:seq]), "all is there"
            else:
                assert report.seq == (seq or report.seq)
                assert content(world, made) == expected(report.seq)
