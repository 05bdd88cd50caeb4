"""Settings: bounds, names, and the two ways to give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from types import MappingProxyType
from typing import Any

import pytest

from seerdb.errors import InvalidRequestError
from seerdb.options import DURABILITY_LEVELS, SETTING_NAMES, DBOptions, Durability, Options

EDGES: dict[str, tuple[list[Any], list[Any]]] = {
    "store": (["s3://b/p", "dir", None], ["", 1, b"dir"]),
    "store_options": ([{}, {"a": 1}, MappingProxyType({})], [None, [], {1: 2}, "a=1"]),
    "durability": (["memory", "interval", "local", "object"], ["", "Local", None, 1]),
    "sync": (["data", "full"], ["none", None, True]),
    "sync_interval": ([0.0005, 1, 60, 60.0], [0, 0.0004, 60.1, "1", True, None, float("inf")]),
    "memtable_capacity": ([1024, 16 << 30], [1023, (16 << 30) + 1, 1e6, "1024", None, True]),
    "wal_segment_size": ([16 << 10, 4 << 30], [(16 << 10) - 1, (4 << 30) + 1]),
    "wal_compression": (["none", "zstd"], ["lz4", None]),
    "wal_direct_io": ([True, False], [0, 1, "yes", None]),
    "ship_interval": ([0, 0.5, 1.0, 3600], [-1, 3601, "1", True, None]),
    "wal_retention": (
        ["flushed", "count:0", "count:999999", "duration:0", "duration:86400"],
        ["", "count", "count:", "count:-1", "count:1x", "duration:1.5", "forever", None, 3],
    ),
    "wal_budget": ([64 << 10, 1 << 50], [(64 << 10) - 1, (1 << 50) + 1]),
    "recovery": (["strict", "point_in_time", "salvage"], ["lenient", None]),
    "block_size": ([256, 4 << 20], [255, (4 << 20) + 1, 256.0]),
    "compression": (["zstd", "none"], ["snappy", None]),
    "blob_threshold": ([0, 1, 1 << 30], [-1, (1 << 30) + 1, 4096.0, None]),
    "filter_bits_per_key": ([0, 64], [-1, 65, 1.5]),
    "filter_prefix": ([0, 255], [-1, 256, 1.5]),
    "index": (["bisect", "learned"], ["", "btree", 1]),
    "block_cache_capacity": ([0, 1 << 44], [-1, (1 << 44) + 1]),
    "disk_cache_capacity": ([0, 1 << 50], [-1, (1 << 50) + 1]),
    "history_retention": ([0, 0.5, 600.0, 315_360_000], [-1, 315_360_001, "600", None, True]),
    "pin_levels": ([0, 8], [-1, 9, True, None]),
    "merge_operator": (["int64_add", "mine", None], ["", 1, b"max"]),
    "background": (
        ["inline", "thread", "process", "dask://10.0.0.1:8786", "dask://[::1]:1", "dask://a-b.c:1"],
        [
            "asyncio",
            None,
            "dask://",
            "dask://host",
            "dask://host:port",
            "tcp://host:1",
            "dask://h:1/",
        ],
    ),
    "compaction": (
        ["lazy_leveled", "leveled", "tiered", "adaptive"],
        ["universal", "", None],
    ),
    "compaction_rate": ([0, 1 << 40], [-1, (1 << 40) + 1, 1.5]),
    "drill_interval": ([0, 60, 86_400.0], [-1, 59.9, 366 * 86_400 + 1, "60", None, True]),
    "drill_repository": (["s3://b/copies", "dir", None], ["", 1]),
    "drill_scratch": (["s3://b/scratch", "dir", None], ["", 1]),
    "drill_store_options": ([{}, {"a": 1}], [None, [], {1: 2}]),
    "drill_rate": ([0, 1 << 40], [-1, (1 << 40) + 1, 1.5]),
    "lease": ([0, 0.0, 1, 6.5, 3600], [-1, 0.5, 3601, float("nan"), False, "6"]),
    "min_free_disk": ([0, 1 << 50], [-1, (1 << 50) + 1]),
    "prices": (
        [{}, {"put_or_list": 0.005, "get": 0, "delete": 1000, "gigabyte_month": 0.023}],
        [None, [], {"put": 1}, {1: 1}, {"get": -1}, {"get": "1"}, {"get": float("nan")}],
    ),
}


def test_every_setting_has_its_edges_here() -> None:
    assert set(EDGES) == set(SETTING_NAMES)
    assert len(SETTING_NAMES) < 40


@pytest.mark.parametrize("name", EDGES)
def test_what_is_in_bounds_is_taken(name: str) -> None:
    for value in EDGES[name][0]:
        assert getattr(Options.build({name: value}), name) == value
        assert getattr(DBOptions(), name)(value).values == {name: value}


@pytest.mark.parametrize("name", EDGES)
def test_what_is_out_of_bounds_is_refused_by_name(name: str) -> None:
    for value in EDGES[name][1]:
        for call in (
            lambda v=value: Options.build({name: v}),
            lambda v=value: DBOptions(**{name: v}),
            lambda v=value: getattr(DBOptions(), name)(v),
            lambda v=value: Options().with_values({name: v}),
        ):
            with pytest.raises(InvalidRequestError, match=f"setting {name} must be"):
                call()


def test_numbers_out_of_bounds_are_told_the_bounds() -> None:
    with pytest.raises(InvalidRequestError, match=r"between 256 and 4,194,304, not 100$"):
        Options(block_size=100)
    with pytest.raises(InvalidRequestError, match=r"between 0\.0005 and 60, not 61$"):
        Options(sync_interval=61)


def test_the_defaults() -> None:
    options = Options()
    assert (options.durability, options.sync, options.recovery) == ("local", "data", "strict")
    assert (options.memtable_capacity, options.wal_segment_size) == (64 << 20, 64 << 20)
    assert (options.block_size, options.compression, options.filter_bits_per_key) == (
        16 << 10,
        "zstd",
        10,
    )
    assert options.blob_threshold == 64 << 10
    assert (options.block_cache_capacity, options.disk_cache_capacity) == (256 << 20, 10 << 30)
    assert (options.wal_budget, options.min_free_disk) == (4 << 30, 1 << 30)
    assert (options.sync_interval, options.wal_retention, options.background) == (
        0.01,
        "flushed",
        "thread",
    )
    assert (options.store, options.store_options, options.wal_compression) == (None, {}, "none")


def test_unknown_settings_are_named() -> None:
    """PB-10."""
    for call in (
        lambda: Options.build({"nope": 1, "block_size": 512, "also": 2}),
        lambda: DBOptions(nope=1, also=2),
        lambda: Options().with_values({"also": 1, "nope": 1}),
    ):
        with pytest.raises(
            InvalidRequestError, match="unknown setting also, nope; known are store"
        ):
            call()


def test_options_are_values() -> None:
    first = Options(block_size=512)
    assert first == Options().with_values({"block_size": 512})
    assert first != Options()
    with pytest.raises(FrozenInstanceError):
        first.block_size = 1024  # type: ignore[misc]
    second = first.with_values({"compression": "none"})
    assert (first.compression, second.compression, second.block_size) == ("zstd", "none", 512)
    assert first.with_values({}) == first


def test_credentials_are_not_shown() -> None:
    secret = {"secret": "of mine"}
    options = Options(store="s3://bucket", store_options=secret, drill_store_options=secret)
    assert "s3://bucket" in repr(options)
    assert "of mine" not in repr(options)


def test_one_database_does_not_get_the_store_options_of_another() -> None:
    assert Options().store_options is not Options().store_options


def test_chained_settings_do_not_change_what_they_are_chained_on() -> None:
    base = DBOptions().block_size(512)
    longer = base.compression("none").block_size(1024)
    assert base.values == {"block_size": 512}
    assert longer.values == {"block_size": 1024, "compression": "none"}


def test_every_setting_can_be_chained() -> None:
    options = DBOptions()
    for setting in fields(Options):
        default = getattr(Options(), setting.name)
        options = getattr(options, setting.name)(default)
    assert Options.build(options.values) == Options()


def test_secrets_are_not_shown() -> None:
    options = DBOptions().store("s3://bucket").store_options({"secret": "hunter2"})
    assert "hunter2" not in repr(options)
    assert repr(options) == "DBOptions(store='s3://bucket', store_options='…')"
    values: Mapping[str, Any] = options.values
    assert values["store_options"] == {"secret": "hunter2"}


def test_durability_levels_are_in_order_of_strength() -> None:
    assert DURABILITY_LEVELS == ("memory", "interval", "local", "object")
    assert [Durability(level).value for level in DURABILITY_LEVELS] == list(DURABILITY_LEVELS)
