"""What comes into memory with a new table, and how."""

from __future__ import annotations

import pytest

from seerdb.storage.tiers import warming
from seerdb.storage.tiers.warming import Interest, load_hot, warm_flushed, warm_merged
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


def test_a_pace_is_kept_after_each_block() -> None:
    store = MemoryObjectStore()
    inputs = put_table(store, 1, many(0, 100, seq=1))
    outputs = put_table(store, 2, many(0, 100, seq=1))
    tables = new_table_store(store)
    paces = 0

    def pace(entries: int = 0) -> None:
        nonlocal paces
        paces += 1

    flushed = warm_flushed(tables, inputs, pace, whole=True)
    reader = tables.open(flushed)
    assert paces >= reader.block_count > 1
    for block in reader.slots:
        assert block is not None
        block.visited = True
    paces = 0
    [merged] = warm_merged(tables, [inputs.id], [outputs], pace)
    assert paces >= tables.open(merged).block_count > 1


def test_hot_blocks_are_kept_from_the_request_on_that_brought_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They were marked when all had come: where memory was short the first had left by then."""
    monkeypatch.setattr(warming, "_BLOCKS_AT_ONCE", 2)
    store = MemoryObjectStore()
    meta = put_table(store, 1, many(0, 100, seq=1))
    tables = new_table_store(store)
    handle = tables.handle(meta)
    slots = tables.open(handle).slots
    seen: list[int] = []

    def pace(entries: int = 0) -> None:
        seen.append(sum(block is not None and block.visited for block in slots))

    load_hot(tables, handle, range(4), pace)
    assert seen[0] == 0
    assert seen[-1] == 2
    assert sum(block is not None and block.visited for block in slots) == 4


def test_interest_lasts_from_one_look_to_the_next() -> None:
    reads = 5
    interest = Interest(lambda: reads)
    assert not interest.is_fresh(), "reads before do not count"
    reads += 1
    assert interest.is_fresh()
    assert not interest.is_fresh()
