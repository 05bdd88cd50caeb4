"""Objects under names of ours that promise more than any object holds: they cost an error at most,
and neither memory nor time in proportion to the promise."""

from __future__ import annotations

import pytest

from seerdb.ids import Epoch, SeqNo
from seerdb.storage.backup.archive import open_archive
from seerdb.storage.backup.points import recovery_points
from seerdb.storage.object_store.names import (
    is_database_name,
    manifest_name,
    parse_manifest_name,
    parse_wal_name,
    wal_name,
)
from tests.fixtures.database import ROOMY, World
from tests.fixtures.repairs import MANIFEST_PREFIX, WAL_PREFIX, names, reopened, repaired, verified

MANY = 10**12


def shipped() -> World:
    world = World(takes_tables=False, **ROOMY)
    db = world.open()
    for number in range(4):
        db.put(b"k%d" % number, b"1", durability="object")
    return world.kill()


def test_a_shipped_log_that_promises_a_trillion_commits() -> None:
    """A list of all of them was made, to compare it with what is there."""
    world = shipped()
    lie = wal_name(Epoch(1), SeqNo(1), SeqNo(MANY))
    world.bucket.put(lie, world.bucket.get(names(world, WAL_PREFIX)[0]))
    [problem] = verified(world.bucket).problems
    assert problem.startswith(f"{lie}: a shipped log does not hold what its name says")
    archive = open_archive(world.bucket)
    assert recovery_points(archive).ranges
    assert archive.seq_at(2**62) == 4


def test_a_manifest_object_far_beyond_all_others() -> None:
    """Each number up to it was told to be missing, and kept in memory for that."""
    world = World(**ROOMY)
    with world.open() as db:
        for number in range(4):
            db.put(b"k%d" % number, b"1")
    newest = names(world, MANIFEST_PREFIX)[-1]
    lie = manifest_name(1_000_000)
    world.bucket.put(lie, world.bucket.get(newest))
    report, bucket = repaired(world)
    first = parse_manifest_name(newest)
    assert first is not None
    assert [(each.name, each.problem) for each in report.lost[1:]] == [
        (manifest_name(first + 1), "it is missing, and so is all up to 999999")
    ]
    assert report.lost[0].name == lie
    assert dict(reopened(world, bucket).scan()) == {b"k%d" % number: b"1" for number in range(4)}


@pytest.mark.parametrize("digits", ["9" * 20, "01" + "0" * 18])
def test_a_number_that_no_writer_reaches_makes_no_name_of_ours(digits: str) -> None:
    """A repair went on after it, and made a database that could not be opened."""
    world = shipped()
    lies = [f"wal/{digits}/{digits}-{digits}.wal", f"manifest/{digits}"]
    for lie in lies:
        assert parse_wal_name(lie) is None
        assert parse_manifest_name(lie) is None
        assert not is_database_name(lie)
        world.bucket.put(lie, b"")
    assert verified(world.bucket).problems == []
    _, bucket = repaired(world)
    with reopened(world, bucket) as db:
        assert db.put(b"l", b"1") == 5
