"""An upload counts once every byte of it was read back."""

from __future__ import annotations

import pytest
from crc32c import crc32c

from seerdb.errors import ChecksumError
from seerdb.storage.object_store.upload import upload
from seerdb.storage.pieces import Body, Pieces
from seerdb.testing.objects import MemoryObjectStore

DATA = bytes(range(256)) * 4


class Changing(MemoryObjectStore):
    """Keeps something else than what it is given."""

    def __init__(self, change: bytes) -> None:
        super().__init__()
        self._change = change

    def put(self, name: str, data: Body) -> None:
        super().put(name, self._change)


def test_what_was_uploaded_is_read_back_by_one_request() -> None:
    store = MemoryObjectStore()
    upload(store, "tables/a", DATA, crc32c(DATA))
    assert (store.calls["put"], store.calls["get"]) == (1, 1)
    assert store.get("tables/a") == DATA


def test_pieces_are_uploaded_as_one_object() -> None:
    store = MemoryObjectStore()
    upload(store, "tables/a", Pieces((DATA[:100], DATA[100:])), crc32c(DATA))
    assert store.get("tables/a") == DATA


@pytest.mark.parametrize(
    "there",
    [b"\1" + DATA[1:], DATA[:-1] + b"\0", DATA[:-1], DATA + b"\0", b""],
    ids=["first byte", "last byte", "too short", "too long", "empty"],
)
def test_anything_else_is_noticed(there: bytes) -> None:
    with pytest.raises(ChecksumError, match="reads back differently"):
        upload(Changing(there), "tables/a", DATA, crc32c(DATA))
    with pytest.raises(ChecksumError, match="reads back differently"):
        upload(Changing(there), "tables/a", Pieces((DATA[:9], DATA[9:])), crc32c(DATA))
