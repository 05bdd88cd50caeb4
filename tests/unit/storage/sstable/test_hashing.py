"""Hashes of many keys at once are those of each."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from seerdb.storage.sstable.filter import key_hash
from seerdb.storage.sstable.hashing import _AT_ONCE, _LONGEST, hash_rows


@pytest.mark.parametrize("size", range(1, _LONGEST + 3))
def test_they_are_those_of_the_library(size: int) -> None:
    special = [bytes(size), b"\xff" * size, bytes(range(size))]
    keys = [*special, *(Random(number).randbytes(size) for number in range(200))]
    rows = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, size)
    assert hash_rows(rows).tolist() == list(map(key_hash, keys))


@pytest.mark.parametrize("count", [0, 1, _AT_ONCE, 2 * _AT_ONCE + 1])
def test_of_any_number_of_keys(count: int) -> None:
    keys = [b"%012d" % number for number in range(count)]
    rows = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 12)
    assert hash_rows(rows).tolist() == list(map(key_hash, keys))
