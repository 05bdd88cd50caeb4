"""Rows of bytes in order of eight of them, against sorting the rows."""

from __future__ import annotations

from operator import ne
from typing import Literal

import numpy as np
import pytest

from seerdb.storage.sstable.order import order_by_one_word, order_by_words


@pytest.mark.parametrize("kind", ["quicksort", "stable"])
def test_a_few_keys_that_begin_alike_are_put_in_order_one_by_one(
    kind: Literal["quicksort", "stable"],
) -> None:
    keys = [b"%08d" % (n * 7 % 100) + b"%08d" % (n % 3) for n in range(100)]
    keys += [b"%08d" % n + b"%08d" % 9 for n in (3, 4, 50)] + [b"%08d" % 50 + b"%08d" % 8]
    matrix = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 16)
    found = order_by_one_word(matrix, kind)
    assert found is not None
    assert [keys[position] for position in found[0]] == sorted(keys)


def test_keys_that_come_often_are_put_in_order_as_numbers() -> None:
    """However many come again, among them those of which others only begin alike."""
    keys = [b"%08dxx" % (n * 7 % 50) for n in range(400)]
    keys[30:33] = [b"%08dxa" % n for n in (7, 8, 7)]
    keys[200:203] = [b"%08dxz" % n for n in (7, 7, 49)]
    keys[210:212] = [b"00000900xz", b"00000900xa"]
    matrix = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 10)
    found = order_by_words(matrix)
    assert found is not None
    order, is_new = found
    assert order.tolist() == sorted(range(len(keys)), key=keys.__getitem__), "as they came"
    sorted_keys = sorted(keys)
    assert is_new.tolist() == [True, *map(ne, sorted_keys[1:], sorted_keys)]
