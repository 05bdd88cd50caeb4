"""Range deletes that once hid too much or too little."""

from __future__ import annotations

from itertools import pairwise
from unittest.mock import Mock

import pytest

from seerdb.storage import entry
from tests.fixtures.database import World


def test_a_put_after_a_range_delete_in_one_batch_stays() -> None:
    """A merge compared their equal seqs with "less than": scans left the put out, and the
    flush then dropped it from the table."""
    world = World()
    db = world.open()
    db.put(b"a", b"old")
    with db.batch() as batch:
        batch.put(b"c", b"hidden by what follows")
        batch.delete_range(b"a", b"z")
        batch.put(b"b", b"1")
    expected = [(b"b", b"1")]
    assert list(db.scan()) == expected
    db.flush()
    assert list(db.scan()) == expected
    assert db.get(b"b") == b"1"
    db.put(b"x", b"2")
    db.compact()
    assert list(db.scan()) == [*expected, (b"x", b"2")]
    assert db.get(b"b") == b"1"
    assert dict(world.lose_machine().open().scan()) == {b"b": b"1", b"x": b"2"}


def test_a_key_at_the_border_of_two_tables_under_a_range_delete_is_found() -> None:
    """A merge that is not at the bottom cuts a range tombstone at the border of its outputs;
    the first table then ends at the key with which the second begins."""
    world = World(table_size=200, memtable_capacity=1 << 20, wal_segment_size=1 << 20)
    db = world.open()
    db.put(b"a", b"older, so that the merge below is not at the bottom")
    for number in range(400):
        db.put(b"old %04d" % number, world.random.randbytes(100))
    db.flush()
    rows = {b"k%03d" % number: world.random.randbytes(40) for number in range(100)}
    for _ in range(5):
        db.delete_range(b"k", b"l")
        for key, value in rows.items():
            db.put(key, value)
        db.flush()
    assert db._engine.compactor.statistics.compactions == 1
    merged = db._engine.manifest.state.version.runs[0]
    assert len(merged.tables) > 2
    assert all(left.largest == right.smallest for left, right in pairwise(merged.tables)), (
        "or this tests nothing"
    )
    assert {key: db.get(key) for key in rows} == rows
    assert db.multi_get(list(rows)) == list(rows.values())
    assert dict(db.scan(prefix=b"k")) == rows


def test_range_deletes_in_tables_are_not_put_in_order_again_after_each_flush(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first read after any flush or merge did so for those of all tables: a second of a
    processor with 24,000 of them."""
    world = World(memtable_capacity=1 << 20, wal_segment_size=1 << 20)
    db = world.open()
    db.put(b"a", b"kept")
    for number in range(100):
        db.delete_range(b"k%03d" % number, b"k%03d" % (number + 1))
    db.flush()
    assert list(db.scan()) == [(b"a", b"kept")]
    overlaid = Mock(wraps=entry._overlaid)
    monkeypatch.setattr(entry, "_overlaid", overlaid)
    for number in range(2):
        db.put(b"b", b"%d" % number)
        db.flush()
        assert list(db.scan()) == [(b"a", b"kept"), (b"b", b"%d" % number)]
        assert not overlaid.called
    db.delete_range(b"b", b"c")
    db.flush()
    assert list(db.scan()) == [(b"a", b"kept")]
    assert not overlaid.called, "one more is no reason either"
