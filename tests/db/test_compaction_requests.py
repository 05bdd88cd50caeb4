"""Merges that people ask for, while none can be done."""

from __future__ import annotations

import pytest

from seerdb import ChecksumError
from tests.db.test_compaction_control import fill
from tests.fixtures.database import World


def test_merges_that_are_asked_for_again_and_again_in_an_outage_do_not_pile_up() -> None:
    """Each that failed was kept beside the next one until the outage was over."""
    world = World(compaction="tiered", memtable_capacity=1 << 20, wal_segment_size=1 << 20)
    db = world.open()
    rows = fill(db, range(100)) | fill(db, range(0, 100, 3), b"newer")
    requests = db._engine.compactor._requests
    world.store.fail("put", match="tables/", times=60, error=ChecksumError("planned"))
    for number in range(30):
        with pytest.raises(ChecksumError):
            db.compact(b"0020", b"00%02d" % (30 + number))
        with pytest.raises(ChecksumError):
            db.compact(b"0025", b"0026")
    assert len(requests.open()) <= 3
    kept = requests.open()[-1]
    world.store.fail("put", match="tables/", error=ChecksumError("planned"))
    with pytest.raises(ChecksumError):
        db.compact()
    assert kept not in requests.open(), "all is more"
    db.compact()
    assert requests.open() == []
    assert db.statistics().runs == 1
    assert dict(db.scan()) == rows
