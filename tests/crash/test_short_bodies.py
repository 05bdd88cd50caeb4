"""PB-02. A store answers a GET with less than the object, and calls it a success (I10).

Every GET of everything that reads a bucket is hit once, by every length that may look whole. What
comes of it is the right answer or an error that says so, and the bucket is as it was afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from seerdb import CorruptionError, SeerDBError
from seerdb.storage.past.history import at_seq, past_of
from seerdb.testing.objects import MemoryObjectStore
from tests.fixtures.backups import back_up, content, restore
from tests.fixtures.database import ROOMY, World, collect_garbage, fill
from tests.fixtures.follower import contents, follow

pytestmark = pytest.mark.crash

SETTINGS: dict[str, Any] = {**ROOMY, "blob_threshold": 150, "history_retention": 600.0}


class ShortStore(MemoryObjectStore):
    """Cuts the body of one GET."""

    gets = 0
    cut_at = 0
    cut: Callable[[bytes], bytes] = staticmethod(bytes)

    def get(self, name: str) -> bytes:
        self.gets += 1
        data = super().get(name)
        return self.cut(data) if self.gets == self.cut_at else data


@cache
def written() -> World:
    """Tables, blobs, log and a checkpoint, by two writers."""
    world = World(**SETTINGS)
    for home in ("a", "b"):
        db = world.open(home)
        fill(db, 10)
        db.flush()
        db.checkpoint(home)
        for number in range(3):
            db.put(b"%b%d" % (home.encode(), number), b"1", durability="object")
    return world


def there(cut_at: int = 0, cut: Callable[[bytes], bytes] = bytes) -> World:
    """The same bucket, on another machine, of which one GET is cut."""
    origin = written()
    store = ShortStore()
    store._objects = dict(origin.bucket._objects)
    store.cut_at, store.cut = cut_at, cut
    world = World(bucket=store, seed=3, **SETTINGS)
    world.clock.set_now(origin.clock.now())
    return world


def opening(world: World) -> Any:
    db = world.open()
    return {entry.key: entry.value for entry in db.scan_entries()}, [
        c.seq for c in db.checkpoints()
    ]


def collecting(world: World) -> Any:
    db = world.open()
    collect_garbage(world, db)
    db.put(b"more", b"")
    db.flush()
    collect_garbage(world, db)
    return dict(db.scan())


def following(world: World) -> Any:
    replica = follow(world)
    replica.refresh()
    return contents(replica)


def going_back(world: World) -> Any:
    timeline, log = past_of(world.bucket)
    flushed = [mark.last_seq for mark in timeline.marks]
    shipped = range(flushed[-1] + 1, flushed[-1] + 4)
    return [at_seq(timeline, log, seq) for seq in (*flushed, *shipped)]


def backing_up(world: World) -> Any:
    repository = MemoryObjectStore(world.clock)
    back_up(world, repository)
    try:
        return content(world, restore(world, repository)[1])
    except SeerDBError as error:
        raise AssertionError("a backup that is there is whole") from error


def restoring(world: World) -> Any:
    report, bucket = restore(world, world.bucket)
    if report.notes:  # an earlier commit, and the reason is told
        raise CorruptionError(report.notes[0])
    return content(world, bucket)


VERBS = [opening, collecting, following, going_back, backing_up, restoring]
CUTS: list[Callable[[bytes], bytes]] = [
    lambda data: data[:-1],
    lambda data: data[: len(data) // 2],
    lambda data: b"",
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_a_short_body_is_never_taken_for_an_object(verb: Callable[[World], Any]) -> None:
    world = there()
    expected = verb(world)
    gets = world.bucket.gets  # type: ignore[attr-defined]
    assert gets > 3
    after = opening(there())
    errors = 0
    for number in range(1, gets + 1):
        for cut in CUTS:
            world = there(number, cut)
            try:
                found = verb(world)
            except SeerDBError:
                errors += 1
            else:
                assert found == expected
            rest = there()
            rest.bucket._objects = dict(world.bucket._objects)
            state, checkpoints = opening(rest)
            assert {key: state[key] for key in after[0]} == after[0]
            assert checkpoints == after[1]
    assert errors
