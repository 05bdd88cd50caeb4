"""Bytes in pieces are the bytes, however they are cut."""

from __future__ import annotations

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from seerdb.storage.object_store.base import Checksum
from seerdb.storage.pieces import Body, Piece, Pieces, crc_of, end_of, pieces_of
from seerdb.testing.objects import MemoryObjectStore


def viewed(piece: bytes) -> Piece:
    return memoryview(piece)


BYTES: st.SearchStrategy[Piece] = st.binary(max_size=20)
CUTS = st.lists(BYTES | st.binary(max_size=20).map(viewed), max_size=20).map(tuple)


@given(CUTS, st.integers(1, 200))
def test_pieces_are_what_they_join_to(pieces: tuple[Piece, ...], size: int) -> None:
    whole, cut = b"".join(pieces), Pieces(pieces)
    assert bytes(cut) == b"".join(pieces_of(cut)) == whole
    assert len(cut) == len(whole)
    assert crc_of(cut) == crc_of(whole) == crc32c(whole)
    assert end_of(cut, size) == end_of(whole, size) == whole[-size:]
    assert Checksum.of(cut) == Checksum.of(whole)
    store = MemoryObjectStore()
    store.put("a", cut)
    store.put_if_absent("b", cut)
    assert store.get("a") == store.get("b") == whole


@pytest.mark.parametrize("body", [b"", Pieces(()), Pieces((b"", b""))])
def test_nothing_is_nothing_in_any_number_of_pieces(body: Body) -> None:
    assert not len(body)
    assert bytes(body) == end_of(body, 5) == b""
    assert Checksum.of(body) == (0, 0)


def test_what_is_whole_is_not_copied() -> None:
    whole = b"whole" * 100
    assert bytes(whole) is whole
    assert pieces_of(whole) == (whole,)
    assert pieces_of(whole)[0] is whole
