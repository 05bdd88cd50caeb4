"""What the check of a shipped log tells where several epochs have written it."""

from __future__ import annotations

import pytest

from seerdb.errors import NotFoundError
from tests.fixtures.database import ROOMY, World
from tests.fixtures.repairs import WAL_PREFIX, names, verified


def taken_over() -> tuple[World, dict[str, bytes]]:
    """A bucket whose first owner shipped seq 1 to 4, which the second took over with 1 and 2 and
    shipped 3 to 5; and what the first had shipped of 3 and 4, which is void."""
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    for number in range(4):
        db.put(b"k%d" % number, b"1", durability="object")
    late = {name: world.bucket.get(name) for name in names(world, WAL_PREFIX)[2:]}
    world.bucket.delete(late)
    after = world.lose_machine()
    db = after.open()
    for number in range(3):
        db.put(b"l%d" % number, b"1", durability="object")
    return after, late


def test_a_gap_in_what_is_void_is_none() -> None:
    world, late = taken_over()
    name, data = late.popitem()
    world.bucket.put(name, data)
    assert verified(world.bucket).problems == []


def test_a_gap_is_none_the_less_where_what_is_void_had_those_seqs() -> None:
    world, late = taken_over()
    for name, data in late.items():
        world.bucket.put(name, data)
    gone, after = names(world, WAL_PREFIX)[-3:-1]
    world.bucket.delete([gone])
    assert verified(world.bucket).problems == [
        f"{after}: the shipped log has a gap before this: expected seq 3, found 4"
    ]


def test_what_epochs_of_one_home_have_twice_is_no_gap() -> None:
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    for number in range(4):
        db.put(b"k%d" % number, b"1", durability="object")
    first, second = names(world, WAL_PREFIX)[:2]
    world = world.kill()
    world.open().put(b"l", b"1", durability="object")
    again = second.replace(f"{1:020}/", f"{2:020}/")
    world.bucket.put(again, world.bucket.get(second))
    assert first < second < again
    assert verified(world.bucket).problems == []


def test_what_is_listed_and_cannot_be_read_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = taken_over()
    gone, get = names(world, WAL_PREFIX)[-1], world.bucket.get

    def lossy(name: str) -> bytes:
        if name == gone:
            raise NotFoundError(name)
        return get(name)

    monkeypatch.setattr(world.bucket, "get", lossy)
    assert verified(world.bucket).problems == [f"{gone}: it is listed, but it is gone"]
