"""What verify says of blobs in a bucket."""

from __future__ import annotations

import random

from msgspec.structs import replace

from seerdb import DB
from seerdb.storage.object_store.names import BLOB_PREFIX
from seerdb.storage.verify import VerifyReport, verify_database, verify_version
from tests.fixtures.database import ROOMY, World

ROWS = {b"%d" % number: random.Random(number).randbytes(200) for number in range(5)}


def filled() -> tuple[World, DB]:
    world = World(blob_threshold=100, **ROOMY)
    db = world.open()
    for key, value in ROWS.items():
        db.put(key, value)
    db.put(b"t", b"t" * 100, ttl=50)
    db.flush()
    return world, db


def report_of(world: World) -> VerifyReport:
    report = VerifyReport()
    verify_database(world.bucket, report)
    return report


def test_blobs_are_counted_and_sound() -> None:
    world, _ = filled()
    report = report_of(world)
    assert report.problems == []
    assert (report.tables, report.blobs, report.values) == (1, 1, 6)
    [info] = world.bucket.list(BLOB_PREFIX)
    assert report.blob_bytes == info.size


def test_a_blob_that_a_checkpoint_shares_counts_once() -> None:
    world, db = filled()
    db.checkpoint("before")
    db.put(b"0", b"in no blob")
    db.compact()
    db.checkpoint("after")
    [info] = world.bucket.list(BLOB_PREFIX)
    report = report_of(world)
    assert (report.problems, report.tables, report.blobs) == ([], 2, 1)
    assert (report.values, report.blob_bytes) == (5, info.size)


def test_a_blob_that_nobody_points_into_is_told_but_is_no_damage() -> None:
    world, _ = filled()
    stray = "blobs/00000001-000000000099-000000.blob"
    world.bucket.put(stray, b"left by a crash")
    world.bucket.put("blobs/README", b"not ours")
    report = report_of(world)
    assert (report.ok, report.unreferenced) == (True, [stray])


def test_a_missing_blob_is_named() -> None:
    world, _ = filled()
    [info] = world.bucket.list(BLOB_PREFIX)
    world.bucket.delete([info.name])
    assert report_of(world).problems == [f"{info.name}: tables point into it, but it is gone"]


def test_a_damaged_blob_is_named_with_the_value() -> None:
    world, _ = filled()
    [info] = world.bucket.list(BLOB_PREFIX)
    data = bytearray(world.bucket.get(info.name))
    data[2 * 209 + 5] ^= 1
    world.bucket.put(info.name, bytes(data))
    [problem] = report_of(world).problems
    assert problem.startswith(f"{info.name} at byte {2 * 209}: checksum mismatch")


def test_a_pointer_to_what_no_blob_has_is_damage_of_the_table() -> None:
    """Each object is sound, and they do not belong together."""
    world, db = filled()
    [meta] = db._engine.manifest.state.version.tables
    twin, other = filled()
    other.put(b"0", ROWS[b"0"][::-1])
    other.delete(b"1")
    other.flush()
    other.compact()
    [_, info] = twin.bucket.list(BLOB_PREFIX)
    data = twin.bucket.get(info.name)
    [ours] = world.bucket.list(BLOB_PREFIX)
    world.bucket.put(ours.name, data)
    [_, use] = other._engine.manifest.state.version.blobs
    ref = replace(meta.blobs[0], size=use.size, checksum=use.checksum, total=use.total)
    version = type(db._engine.manifest.state.version).of([replace(meta, blobs=(ref,))])
    report = VerifyReport()
    verify_version(world.bucket, version, report)
    assert any("points at what is not in its blob" in problem for problem in report.problems)
    assert any("0'" in problem for problem in report.problems)


def test_a_database_without_a_manifest_is_told_by_its_blobs_too() -> None:
    world, _ = filled()
    everything = world.bucket.list("")
    world.bucket.delete([i.name for i in everything if not i.name.startswith(BLOB_PREFIX)])
    [problem] = report_of(world).problems
    assert "no manifest" in problem
