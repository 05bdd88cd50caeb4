"""What comes into memory with a flushed table."""

from __future__ import annotations

import pytest

from seerdb.storage.warming import Interest, warm_flushed
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.tables import many, new_table_store, put_table


@pytest.mark.parametrize("whole", [True, False])
def test_a_flushed_table_is_brought_in_whole_or_its_tail(*, whole: bool) -> None:
    store = MemoryObjectStore()
    meta = put_table(store, 1, many(0, 100, seq=1))
    tables = new_table_store(store)
    handle = warm_flushed(tables, meta, whole=whole)
    slots = tables.open(handle).slots
    assert len(slots) > 1
    assert [block is not None for block in slots] == [whole] * len(slots)


def test_interest_lasts_from_one_look_to_the_next() -> None:
    reads = 5
    interest = Interest(lambda: reads)
    assert not interest.is_fresh(), "reads before do not count"
    reads += 1
    assert interest.is_fresh()
    assert not interest.is_fresh()
