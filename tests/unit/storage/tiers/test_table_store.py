"""Handles, and where their blocks come from: cache, disk tier, bucket."""

from __future__ import annotations

import gc
from concurrent.futures import Executor, ThreadPoolExecutor
from threading import Barrier

import pytest

from seerdb.errors import ClosedError, CorruptionError, UnavailableError
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.names import table_name
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.tiers.disk_tier import DiskTier
from seerdb.storage.tiers.table_store import MAX_RANGE, TAIL, TableHandle, TableStore
from seerdb.storage.workers.threads import InlineExecutor
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.unit.storage.tables import many, new_table_store, put_table


class Place:
    """A bucket with one table of many blocks, a disk, and a store over both."""

    def __init__(self, *, cache: int = 1 << 20, disk: int = 1 << 20) -> None:
        self.bucket = MemoryObjectStore()
        self.faulty = FaultyObjectStore(self.bucket)
        self.files = CrashableFileSystem()
        self.files.make_directory("cache")
        self.meta = put_table(self.bucket, 1, many(0, 100, seq=1))
        self.reopen(cache=cache, disk=disk)

    def reopen(self, *, cache: int = 1 << 20, disk: int = 1 << 20) -> None:
        self.cache = BlockCache(cache)
        self.disk = DiskTier(self.files, "cache", disk) if disk else None
        self.tables = TableStore(
            self.faulty, cache=self.cache, disk=self.disk, fetchers=InlineExecutor()
        )
        self.handle = self.tables.handle(self.meta)
        self.bucket.calls.clear()

    @property
    def gets(self) -> int:
        """Ranged GETs since this was asked last."""
        made = self.bucket.calls["get_range"]
        self.bucket.calls.clear()
        return made

    def blocks(self) -> int:
        return self.tables.open(self.handle).block_count


def keys_of(tables: TableStore, handle: TableHandle, first: int, last: int) -> list[bytes]:
    blocks = tables.load_range(handle, first, last, fill=True)
    return [key for block in blocks for key in block.columns().keys]


def test_a_tail_is_fetched_once() -> None:
    place = Place()
    reader = place.tables.open(place.handle)
    assert place.tables.open(place.handle) is reader is place.handle.reader
    assert place.gets == 1


def test_a_block_is_fetched_once_and_cached() -> None:
    place = Place()
    place.tables.open(place.handle)
    assert place.gets == 1
    block = place.tables.load(place.handle, 3)
    assert place.tables.load(place.handle, 3) is block
    assert (place.gets, place.cache.statistics().entries) == (1, 1)


def test_what_is_not_to_fill_the_caches_is_kept_nowhere() -> None:
    place = Place()
    place.tables.load(place.handle, 0, fill=False)
    place.tables.load_many([(place.handle, 0), (place.handle, 1)], fill=False)
    place.tables.load_range(place.handle, 0, place.blocks(), fill=False)
    assert place.gets == 1 + 1 + 1 + 1, "the tail is kept"
    assert place.cache.statistics().entries == 0
    assert place.disk is not None
    assert place.disk.read(place.meta.id, 0) is None


def test_the_disk_tier_is_asked_before_the_bucket() -> None:
    place = Place()
    all_keys = keys_of(place.tables, place.handle, 0, place.blocks())
    assert place.gets == 2
    place.reopen()
    assert keys_of(place.tables, place.handle, 0, place.blocks()) == all_keys
    assert len(all_keys) == 100
    assert place.gets == 0


@pytest.mark.parametrize("part", [TAIL, 3])
def test_what_is_damaged_on_disk_is_fetched_again(part: int) -> None:
    place = Place()
    all_keys = keys_of(place.tables, place.handle, 0, place.blocks())
    place.reopen()
    assert place.disk is not None
    name = f"cache/{place.meta.id}.parts"
    stored = place.disk.read(place.meta.id, part)
    assert stored is not None
    file = place.files.open(name)
    content = file.read_at(0, file.size())
    position = content.index(stored) + len(stored) // 2
    file.write_at(position, bytes([content[position] ^ 1]))
    assert keys_of(place.tables, place.handle, 0, place.blocks()) == all_keys
    assert place.gets > 0
    assert place.disk.statistics().rejected == 1
    place.reopen()
    assert keys_of(place.tables, place.handle, 0, place.blocks()) == all_keys


def test_what_is_damaged_in_the_bucket_is_an_error_that_names_the_table() -> None:
    for part in ("tail", "block"):
        place = Place(disk=0)
        data = bytearray(place.bucket.get(table_name(place.meta.id)))
        data[-10 if part == "tail" else 30] ^= 1
        place.bucket.put(table_name(place.meta.id), bytes(data))
        with pytest.raises(CorruptionError, match=str(place.meta.id)):
            place.tables.load(place.handle, 0)


def test_damage_is_not_kept_on_disk() -> None:
    place = Place()
    place.tables.open(place.handle)
    place.faulty.corrupt("get_range")
    with pytest.raises(CorruptionError):
        place.tables.load(place.handle, 0)
    assert place.tables.load(place.handle, 0).columns().keys[0] == b"key0000"


def test_a_failed_fetch_is_an_error_and_may_be_tried_again() -> None:
    place = Place(disk=0)
    place.faulty.fail("get_range", times=2)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            place.tables.open(place.handle)
    assert place.tables.load(place.handle, 0).columns().keys[0] == b"key0000"
    place.bucket.delete([table_name(place.meta.id)])
    with pytest.raises(CorruptionError, match="it is gone"):
        place.tables.load(place.handle, 1)


def test_neighbouring_blocks_come_by_one_request() -> None:
    place = Place(disk=0)
    blocks = place.blocks()
    assert place.gets == 1
    keys = keys_of(place.tables, place.handle, 0, blocks)
    assert (len(keys), place.gets) == (100, 1)


def test_each_gap_between_cached_blocks_is_one_request() -> None:
    place = Place(disk=0)
    for number in (3, 4, 9):
        place.tables.load(place.handle, number)
    assert place.gets == 4
    blocks = place.tables.load_range(place.handle, 0, 12, fill=True)
    assert place.gets == 3, "0 to 2, 5 to 8, 10 to 11"
    keys = [key for block in blocks for key in block.columns().keys]
    assert keys == sorted(set(keys))
    assert place.tables.load_range(place.handle, 0, 12, fill=True) == blocks
    assert place.gets == 0


def test_a_request_is_not_larger_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seerdb.storage.tiers.table_store.MAX_RANGE", 600)
    place = Place(disk=0)
    blocks = place.blocks()
    assert place.gets == 1
    assert len(keys_of(place.tables, place.handle, 0, blocks)) == 100
    size = place.meta.tail_offset
    assert place.gets >= size // 600
    assert MAX_RANGE >= 1 << 20


def test_of_many_blocks_neighbours_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place()
    reader = place.tables.open(place.handle)
    assert place.gets == 1
    assert place.blocks() >= 10
    wanted = [(place.handle, number) for number in (7, 1, 2, 5, 3, 2, 9)]
    blocks = place.tables.load_many(wanted)
    assert place.gets == 4, "1 to 3, 5, 7, 9"
    assert {key: reader.slots[key[1]] for key in wanted} == blocks
    counts = place.tables.blocks_fetched, place.tables.blocks_from_disk
    assert counts == (6, 0)
    place.reopen()
    assert place.tables.load_many([(place.handle, number) for number in (2, 3, 4)]).keys()
    assert place.gets == 1, "what the disk lacks"
    assert (place.tables.blocks_fetched, place.tables.blocks_from_disk) == (1, 2)
    size = max(reader.block_range(number)[1] for number in range(10))
    monkeypatch.setattr("seerdb.storage.tiers.table_store.MAX_RANGE", 2 * size)
    place.reopen(disk=0)
    place.tables.load_many([(place.handle, number) for number in range(6)])
    assert place.gets == 1 + 3, "the tail, and no more than may be taken at a time"


def test_an_empty_range_costs_nothing() -> None:
    place = Place()
    place.tables.open(place.handle)
    assert place.gets == 1
    assert place.tables.load_range(place.handle, 3, 3, fill=True) == []
    assert place.tables.load_many([]) == {}
    assert place.tables.open_many([]) == []
    assert place.gets == 0


def test_what_was_fetched_ahead_is_what_would_have_been_fetched() -> None:
    place = Place()
    place.tables.open(place.handle)
    ahead = place.tables.fetch_ahead(place.handle, 3, 7)
    assert ahead is not None
    assert place.gets == 2
    blocks = place.tables.load_range(place.handle, 3, 7, fill=True, ahead=ahead)
    reader = place.tables.open(place.handle)
    assert blocks == reader.slots[3:7]
    assert place.disk is not None
    assert place.disk.lacks(place.meta.id, range(2, 8)) == [2, 7]
    assert place.gets == 0
    place.faulty.corrupt("get_range")
    damaged = place.tables.fetch_ahead(place.handle, 8, 10)
    assert damaged is not None
    with pytest.raises(CorruptionError):
        place.tables.load_range(place.handle, 8, 10, fill=True, ahead=damaged)


def test_nothing_is_fetched_ahead_that_is_nearer_or_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place()
    place.tables.load(place.handle, 3)
    place.gets  # noqa: B018 - none counts so far
    assert place.tables.fetch_ahead(place.handle, 3, 7) is None, "one is in memory"
    assert place.tables.fetch_ahead(place.handle, 5, 5) is None
    place.reopen()
    assert place.tables.fetch_ahead(place.handle, 1, 4) is None, "one is on disk"
    assert place.tables.fetch_ahead(place.handle, 4, 7) is not None
    monkeypatch.setattr("seerdb.storage.tiers.table_store.MAX_RANGE", 600)
    assert place.tables.fetch_ahead(place.handle, 4, 7) is None, "that takes two requests"
    assert place.gets == 1


def gated_store(count: int) -> tuple[MemoryObjectStore, list[TableMeta], Executor]:
    """Requests wait until ``count`` of them are under way."""
    gate = Barrier(count)

    class Gated(MemoryObjectStore):
        def get_range(self, name: str, offset: int, length: int) -> bytes:
            gate.wait(60)
            return super().get_range(name, offset, length)

    store = Gated()
    metas = [put_table(store, n, many(0, 50, seq=1)) for n in range(1, count + 1)]
    return store, metas, ThreadPoolExecutor(count)


def test_many_blocks_and_tails_are_fetched_at_the_same_time() -> None:
    store, metas, fetchers = gated_store(3)
    with fetchers:
        tables = TableStore(store, cache=BlockCache(0), disk=None, fetchers=fetchers)
        handles = [tables.handle(meta) for meta in metas]
        readers = tables.open_many(handles)
        assert [reader.meta for reader in readers] == metas
        wanted = [(handle, 1) for handle in handles]
        blocks = tables.load_many([*wanted, *wanted])
    assert list(blocks) == wanted
    assert store.calls["get_range"] == 6


def test_fetches_after_the_threads_have_ended_say_that_it_is_closed() -> None:
    store, metas, fetchers = gated_store(2)
    tables = TableStore(store, cache=BlockCache(0), disk=None, fetchers=fetchers)
    handles = [tables.handle(meta) for meta in metas]
    fetchers.shutdown()
    with pytest.raises(ClosedError):
        tables.open_many(handles)
    with pytest.raises(ClosedError):
        tables.load_many([(handle, 0) for handle in handles])


def test_nothing_is_fetched_ahead_once_the_threads_have_ended() -> None:
    store, fetchers = MemoryObjectStore(), ThreadPoolExecutor(1)
    meta = put_table(store, 1, many(0, 50, seq=1))
    tables = TableStore(store, cache=BlockCache(0), disk=None, fetchers=fetchers)
    fetchers.shutdown()
    with pytest.raises(ClosedError):
        tables.fetch_ahead(tables.handle(meta), 0, 1)


def test_what_a_fetch_raises_is_raised_as_it_is() -> None:
    def fail(_: int) -> None:
        raise RecursionError

    with ThreadPoolExecutor(1) as fetchers:
        tables = TableStore(MemoryObjectStore(), cache=BlockCache(0), disk=None, fetchers=fetchers)
        with pytest.raises(RecursionError):
            tables.fetch_all(fail, [1])


def test_a_handle_lives_as_long_as_somebody_has_it() -> None:
    place = Place()
    assert place.tables.handle(place.meta) is place.handle
    assert place.tables.live_objects() == {table_name(place.meta.id)}
    del place.handle
    gc.collect()
    assert place.tables.live_objects() == set()


def test_what_left_the_version_is_forgotten_but_can_be_read() -> None:
    place = Place()
    place.tables.load(place.handle, 0)
    place.tables.drop_cached([place.meta.id])
    assert place.cache.statistics().entries == 0
    assert place.files.list("cache") == []
    assert place.gets == 2
    assert place.tables.load(place.handle, 0).columns().keys[0] == b"key0000"
    assert place.gets == 1
    place.tables.drop_cached(["00000009-000000000009"])  # type: ignore[list-item]


def test_two_tables_do_not_mix() -> None:
    store = MemoryObjectStore()
    tables = new_table_store(store)
    first = tables.handle(put_table(store, 1, many(0, 50, seq=1, value=b"one")))
    second = tables.handle(put_table(store, 2, many(0, 50, seq=51, value=b"two")))
    for handle, value in ((first, b"one"), (second, b"two")):
        assert set(tables.load(handle, 1).columns().values) == {value}
        assert set(tables.load(handle, 1).columns().values) == {value}
