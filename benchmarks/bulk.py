"""A database of many large values that do not compress, made once and kept for the next run; and
the end of those that are not kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from seerdb import DB
from seerdb.storage.backup.places import open_store

VALUE_BYTES = 1_000
_NOISE = 1 << 22


def pairs(numbers: range, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys in order, and values that do not compress."""
    noise = Random(seed).randbytes(_NOISE)
    for number in numbers:
        at = number * 7919 % (_NOISE - VALUE_BYTES)
        yield key_of(number), noise[at : at + VALUE_BYTES]


def key_of(number: int) -> bytes:
    """The key of a pair."""
    return b"%016d" % number


def count_of(mebibytes: int) -> int:
    """How many pairs come to so much."""
    return (mebibytes << 20) // VALUE_BYTES


def build(path: Path, mebibytes: int, progress: Callable[[str], None], **settings: Any) -> None:
    """Have a database of that size in ``path``, unless there is one already, and whole."""
    count = count_of(mebibytes)
    with DB.open(str(path), min_free_disk=0, **settings) as db:
        if db.statistics().table_entries != count:
            progress(f"{count:,} keys into {path}")
            db.ingest(pairs(range(count), seed=0))


def clear(url: str, options: Mapping[str, Any], beginning: str) -> None:
    """Delete what lies in the directory or at the URL ``url`` under names of that beginning."""
    if "://" not in url:
        for directory in Path(url).glob(f"{beginning}*"):
            shutil.rmtree(directory)
        return
    with open_store(url, options) as store:
        store.delete(info.name for info in store.list(beginning))
