"""A backup has the log of when it began, and goes around damaged log where others have the same
commits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import seerdb
from seerdb import Transfer
from seerdb.errors import CorruptionError, NotFoundError, SeerDBError
from seerdb.ids import Epoch, SeqNo
from seerdb.storage.backup import take
from seerdb.storage.backup.check import check_backups
from seerdb.storage.backup.copying import Progress
from seerdb.storage.backup.take import Wish
from seerdb.storage.object_store.names import HOLD_PREFIX, TABLE_PREFIX, WAL_PREFIX, wal_name
from seerdb.storage.wal.format import HEADER_SIZE
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.fixtures.backups import back_up, carrier, content, restore
from tests.fixtures.database import ROOMY, World, collect_garbage, fill


@pytest.mark.parametrize(
    "wrong", [NotFoundError("collected"), CorruptionError("damaged", name="it")], ids=str
)
@pytest.mark.parametrize("are_others_sound", [True, False])
def test_log_that_is_damaged_is_taken_from_other_objects_that_hold_it(
    wrong: SeerDBError, *, are_others_sound: bool
) -> None:
    """As where an opening has shipped again what was on its way when the writer before it died."""
    world, repository, bucket = World(**ROOMY), MemoryObjectStore(), MemoryObjectStore()
    with world.open() as db:
        for number in range(1, 8):
            db.put(b"k%d" % number, b"1", durability="object")
        bucket._objects = dict(world.bucket._objects)
    parts = [info.name for info in bucket.list(WAL_PREFIX) if info.size][1:6]
    bodies = [bucket.get(name) for name in parts]
    larger = wal_name(Epoch(1), SeqNo(2), SeqNo(6))
    bucket.put(larger, bodies[0] + b"".join(body[HEADER_SIZE:] for body in bodies[1:]))
    source = FaultyObjectStore(bucket)
    source.fail("get", match=larger, times=1 << 20, error=wrong)
    if not are_others_sound:
        bucket.delete([parts[3]])
        with pytest.raises(type(wrong)):
            back_up(world, repository, source=source)
        return
    report = back_up(world, repository, source=source)
    assert (report.seq, report.copied_objects) == (7, len(repository.list("")) - 1)
    assert check_backups(repository, carrier(world.clock)).ok
    _, restored = restore(world, repository)
    assert sorted(content(world, restored)) == [b"k%d" % number for number in range(1, 8)]


def test_log_of_when_a_backup_began_is_in_it_however_long_its_tables_take() -> None:
    """What is flushed meanwhile, the bucket lets go of."""
    world, repository = World(**ROOMY), MemoryObjectStore()
    with world.open() as db:
        fill(db, 10)
        db.flush()
        back_up(world, repository)
        rows = fill(db, 10, start=10)
        db.flush()
        db.put(b"shipped", b"1", durability="object")

        def release_log(progress: Progress) -> None:
            if progress.objects and repository.list(TABLE_PREFIX)[1:] and bucket.list(WAL_PREFIX):
                db.flush()
                collect_garbage(world, db)

        bucket = world.bucket
        report = back_up(world, repository, watch=release_log)
        assert not bucket.list(WAL_PREFIX)
    assert report.seq == 21
    _, restored = restore(world, repository)
    assert content(world, restored).items() >= (rows | {b"shipped": b"1"}).items()


def test_log_that_is_collected_while_it_is_read_is_in_the_tables_that_are_backed_up() -> None:
    world, repository = World(**ROOMY), MemoryObjectStore()
    happened: list[str] = []

    class Busy(MemoryObjectStore):
        """The bucket of a writer that flushes, and lets go of log, right before that is read."""

        def get(self, name: str) -> bytes:
            if name.startswith(WAL_PREFIX) and len(happened) < 2:
                happened.append(name)
                db.flush()
                collect_garbage(world, db)
                db.put(b"z%d" % len(happened), b"1", durability="object")
            return super().get(name)

    with world.open() as db:
        rows = fill(db, 10)
        db.flush()
        db.put(b"shipped", b"1", durability="object")
        source = Busy(world.clock)
        source._objects = world.bucket._objects
        report = take.back_up(source, repository, Wish(), carrier(world.clock), random.randbytes)
        assert not world.bucket.list(HOLD_PREFIX)
    assert (len(happened), report.seq) == (2, 13)
    _, restored = restore(world, repository)
    assert content(world, restored) == rows | {b"shipped": b"1", b"z1": b"1", b"z2": b"1"}


def test_a_backup_beside_a_writer_that_lets_go_of_log_is_made(tmp_path: Path) -> None:
    source, repository = str(tmp_path / "db"), str(tmp_path / "repository")
    looks: list[Progress] = []

    def let_go(progress: Progress) -> None:
        """Once the log was listed."""
        if not looks:
            looks.append(progress)
            db.flush()
            for path in Path(source, "bucket", "wal").rglob("*.wal"):
                path.unlink()

    with seerdb.DB.open(source, background="inline", min_free_disk=0) as db:
        db.put(b"k", b"v", durability="object")
        report = seerdb.backup(source, repository, transfer=Transfer(watch=let_go))
    assert (len(looks), report.seq) == (1, 1)
