"""Warming up: what is brought in, in which order, and where it stops."""

from __future__ import annotations

import pytest
from crc32c import crc32c

from seerdb.storage.memtable import Memtable
from seerdb.storage.read.state import LiveState, State
from seerdb.storage.read.warmup import BLOCKS_A_STEP, WarmUp
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.tiers.disk_tier import DiskTier
from seerdb.storage.tiers.heat import Heat, load_heat, save_heat
from seerdb.storage.tiers.pinning import Pins
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.workers.threads import InlineExecutor
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.tables import id_of, layout_of, many, put_table


class Place:
    """Three tables, each a run of its own; nothing is open."""

    def __init__(self, heat: Heat, *, memory: int = 1 << 20, levels: int = 0) -> None:
        self.bucket = MemoryObjectStore()
        metas = [put_table(self.bucket, n, many(0, 600, seq=1)) for n in (1, 2, 3)]
        files = CrashableFileSystem()
        files.make_directory("cache")
        disk = DiskTier(files, "cache", 1 << 20)
        self.tables = TableStore(
            self.bucket, cache=BlockCache(memory), disk=disk, fetchers=InlineExecutor()
        )
        layout = layout_of(metas, self.tables)
        self.handles = [run.handles[0] for run in layout.runs]
        pins = Pins(self.tables, disk, levels)
        pins.follow(layout.version)
        live = LiveState(State(Memtable([1]), (), layout), 600)
        self.warm_up = WarmUp(live, self.tables, pins, heat, memory=memory)
        self.bucket.calls.clear()

    def finish(self) -> int:
        """Take all steps; returns how many."""
        while self.warm_up.step():
            pass
        return self.warm_up.steps

    def hot(self) -> dict[str, list[int]]:
        readers = [(handle.meta.id, self.tables.open(handle)) for handle in self.handles]
        return {table: hot for table, reader in readers if (hot := self.tables.hot_blocks(reader))}


def test_tails_come_first_and_those_of_the_newest_run_before_others() -> None:
    place = Place({})
    for opened in range(1, 4):
        assert place.warm_up.step()
        assert [h.reader is not None for h in place.handles] == [n < opened for n in range(3)]
    assert not place.warm_up.step()
    assert place.bucket.calls == {"get_range": 3}


def test_a_step_makes_one_request_at_most() -> None:
    place = Place({id_of(2): [1, 2, 3, 7, 8]}, levels=1)
    made = 0
    while place.warm_up.step():
        assert place.bucket.calls["get_range"] - made <= 1
        made = place.bucket.calls["get_range"]
    assert made > 5


def test_what_was_hot_is_hot_again() -> None:
    heat = {id_of(2): [1, 2, 3, 7], id_of(3): [0], id_of(99): [5]}
    place = Place({table: list(numbers) for table, numbers in heat.items()})
    assert place.finish() == 3 + 3, "neighbours by one request"
    del heat[id_of(99)]
    assert place.hot() == heat
    assert place.bucket.calls == {"get_range": 3 + 3}


def test_blocks_that_are_not_there_are_not_looked_for() -> None:
    place = Place({id_of(1): [10_000], id_of(2): [-1, 3, 10_000]})
    place.finish()
    assert place.hot() == {id_of(2): [3]}


def test_it_stops_when_the_memory_is_full() -> None:
    place = Place({id_of(2): list(range(60))}, memory=20_000)
    place.finish()
    assert place.tables.spare_memory > 0
    [some] = place.hot().values()
    assert 5 < len(some) < 40
    assert place.tables._cache.statistics().evictions == 0


def test_many_neighbours_are_several_steps() -> None:
    place = Place({id_of(2): list(range(90))})
    assert BLOCKS_A_STEP < 90
    assert place.finish() == 3 + 2
    assert place.hot() == {id_of(2): list(range(90))}


def test_without_a_block_cache_nothing_comes_into_memory() -> None:
    place = Place({id_of(2): [1]}, memory=0)
    assert place.finish() == 0
    assert not place.bucket.calls


def test_tails_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seerdb.storage.read.warmup.LEAST_TAILS", 1)
    place = Place({}, memory=1)
    assert place.finish() == 1, "and what is one too many is there already"


@pytest.mark.parametrize("damage", ["missing", "short", "flipped", "of another kind", "no text"])
def test_heat_is_a_hint(damage: str) -> None:
    files = CrashableFileSystem()
    files.make_directory("cache")
    heat = {id_of(1): [1, 5], id_of(2): [0]}
    assert load_heat(files, "cache") == {}
    save_heat(files, "cache", {})
    save_heat(files, "cache", heat)
    assert load_heat(files, "cache") == heat
    file = files.open("cache/HOT")
    if damage == "missing":
        files.remove("cache/HOT")
    elif damage == "short":
        file.truncate(3)
    elif damage == "flipped":
        file.write_at(6, bytes([file.read_at(6, 1)[0] ^ 1]))
    elif damage == "no text":
        body = b"\x81\xa1\xff\x90"
        file.truncate(0)
        file.write_at(0, crc32c(body).to_bytes(4, "little") + body)
    else:
        save_heat(files, "cache", ["a"])  # type: ignore[arg-type]  # what is planned
    assert load_heat(files, "cache") == {}
