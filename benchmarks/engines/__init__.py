"""One adapter per engine, each in the module named after it and importing its binding."""

from __future__ import annotations

from importlib import import_module

from benchmarks.engines.base import Engine

OURS = "seerdb"
PEERS = ("rocksdict", "rocksdict_tuned", "plyvel", "lmdb", "sqlite3", "slatedb")
OURS_PLAIN, SLATEDB_ZSTD = "seerdb_plain", "slatedb_zstd"
RECODED = (OURS_PLAIN, SLATEDB_ZSTD)
"""Each compresses its tables, or not, as the other does by default: for merges side by side."""
ENGINES = (OURS, *PEERS, *RECODED)

_CLASSES = {
    "seerdb": ("seerdb", "SeerDBEngine"),
    "seerdb_plain": ("seerdb", "PlainSeerDBEngine"),
    "rocksdict": ("rocksdict", "RocksdictEngine"),
    "rocksdict_tuned": ("rocksdict", "TunedRocksdictEngine"),
    "plyvel": ("plyvel", "PlyvelEngine"),
    "lmdb": ("lmdb", "LmdbEngine"),
    "sqlite3": ("sqlite3", "Sqlite3Engine"),
    "slatedb": ("slatedb", "SlateDBEngine"),
    "slatedb_zstd": ("slatedb", "ZstdSlateDBEngine"),
}


def engine_class(name: str) -> type[Engine]:
    """The adapter called ``name``. Raises: ``ImportError`` where its binding is not installed."""
    module, cls = _CLASSES[name]
    found: type[Engine] = getattr(import_module(f"benchmarks.engines.{module}"), cls)
    return found
