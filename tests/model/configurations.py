"""Configurations that must all answer alike.

Of every two settings every pair of values is in one of them (pairwise testing: most faults of
combinations need two); those with a name have what the table of settings leaves out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

AXES: dict[str, tuple[Any, ...]] = {
    "compaction": ("lazy_leveled", "leveled", "tiered", "adaptive"),
    "life": ("close", "kill", "lose_power", "lose_machine"),
    "durability": ("memory", "interval", "local", "object"),
    "recovery": ("strict", "point_in_time", "salvage"),
    "block_cache_capacity": (0, 16 << 10, 256 << 20),
    "disk_cache_capacity": (0, 8 << 10, 10 << 30),
    "pin_levels": (0, 8),
    "blob_threshold": (1, 60, 0),
    "background": ("inline", "thread"),
    "memtable_capacity": (2 << 10, 64 << 20),
    "block_size": (256, 16 << 10),
    "table_size": (400, 0),
    "compression": ("none", "zstd"),
    "wal_compression": ("none", "zstd"),
    "filter_bits_per_key": (0, 10),
    "filter_prefix": (0, 2),
    "index": ("bisect", "learned"),
}
"""``life`` is how a process ends before the next one opens; ``table_size`` 0 is the default."""

CANDIDATES = 30


@dataclass(frozen=True)
class Configuration:
    """Settings of a :class:`~tests.fixtures.database.World`, and how its lives end."""

    settings: dict[str, Any] = field(default_factory=dict)
    life: str = "close"


def pairwise_choices() -> list[dict[str, Any]]:
    """A few choices of a value for each axis, in which every pair of values occurs."""
    draw = random.Random(1)
    missing = {
        ((one, value), (other, another))
        for one, other in combinations(AXES, 2)
        for value in AXES[one]
        for another in AXES[other]
    }
    chosen = []
    while missing:
        candidates = [_choice_with(min(missing, key=repr), draw) for _ in range(CANDIDATES)]
        best = max(candidates, key=lambda choice: len(missing & pairs_of(choice)))
        chosen.append(best)
        missing -= pairs_of(best)
    return chosen


def _choice_with(pair: Any, draw: random.Random) -> dict[str, Any]:
    return {axis: draw.choice(values) for axis, values in AXES.items()} | dict(pair)


def pairs_of(choice: dict[str, Any]) -> set[Any]:
    """The pairs of values in a choice."""
    return set(combinations(((axis, choice[axis]) for axis in AXES), 2))


def _name(choice: dict[str, Any]) -> str:
    return "-".join(str(value) for value in choice.values())


def _configuration(choice: dict[str, Any]) -> Configuration:
    settings = dict(choice)
    return Configuration(settings, settings.pop("life"))


NAMED: dict[str, Configuration] = {
    "tiny": Configuration(),
    "all in memory": Configuration({"memtable_capacity": 1 << 24, "wal_segment_size": 1 << 24}),
    "smallest memtable": Configuration({"memtable_capacity": 1024}),
    "large blocks": Configuration({"block_size": 1 << 20, "block_cache_capacity": 1 << 24}),
    "few bits": Configuration({"block_cache_capacity": 0, "filter_bits_per_key": 1}),
    "small tables": Configuration({"table_size": 300, "block_cache_capacity": 1 << 14}, "kill"),
    "small tables in the bucket": Configuration(
        {"memtable_capacity": 2048, "disk_cache_capacity": 1 << 20, "background": "thread"}
    ),
    "many levels": Configuration(
        {"table_size": 300, "memtable_capacity": 1024, "compaction": "leveled"}
    ),
    "blobs that die": Configuration(
        {"blob_threshold": 15, "memtable_capacity": 1024, "table_size": 300}, "lose_machine"
    ),
    "direct log": Configuration(
        {"wal_direct_io": True, "wal_segment_size": 64 << 10}, "lose_power"
    ),
    "log kept": Configuration({"wal_retention": "count:2", "sync": "full"}, "lose_power"),
    "no tables": Configuration(
        {"takes_tables": False, "wal_retention": "duration:60"}, "lose_power"
    ),
}

CONFIGURATIONS = NAMED | {_name(choice): _configuration(choice) for choice in pairwise_choices()}
