"""A body that is read as a file is the same bytes."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerdb.storage.object_store.body_file import BodyFile
from seerdb.storage.pieces import Pieces

PIECES = st.lists(st.binary(max_size=9), max_size=9).map(tuple)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 30)),
        st.tuples(st.just("seek"), st.integers(0, 90)),
    )
)


@given(PIECES, STEPS)
def test_it_reads_as_its_bytes_do(pieces: tuple[bytes, ...], steps: list[tuple[str, int]]) -> None:
    file, model = BodyFile(Pieces(pieces)), io.BytesIO(b"".join(pieces))
    assert file.readable()
    assert file.seekable()
    for name, number in steps:
        assert getattr(file, name)(number) == getattr(model, name)(number)
        assert file.tell() == model.tell()


def test_places_are_told_from_the_start_the_end_and_here() -> None:
    file = BodyFile(b"0123456789")
    assert file.seek(-3, io.SEEK_END) == 7
    assert file.seek(1, io.SEEK_CUR) == 8
    assert file.read() == b"89"
    with pytest.raises(ValueError, match="-1"):
        file.seek(-11, io.SEEK_END)
    assert file.tell() == 10
