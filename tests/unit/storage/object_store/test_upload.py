"""An upload counts once every byte of it was read back."""

from __future__ import annotations

import pytest

from seerdb.errors import ChecksumError, TruncatedError
from seerdb.storage.object_store import upload as module
from seerdb.storage.object_store.upload import upload
from seerdb.testing.objects import MemoryObjectStore

DATA = bytes(range(256)) * 4


class Changing(MemoryObjectStore):
    """Keeps something else than what it is given."""

    def __init__(self, change: bytes) -> None:
        super().__init__()
        self._change = change

    def put(self, name: str, data: bytes) -> None:
        super().put(name, self._change)


@pytest.fixture(params=[100, 256, 1024, 8 << 20])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "PIECE", request.param)
    return int(request.param)


def test_what_is_there_is_read_in_pieces(piece: int) -> None:
    store = MemoryObjectStore()
    upload(store, "tables/a", DATA)
    assert store.get("tables/a") == DATA
    pieces = -(-len(DATA) // piece) if piece < len(DATA) else 0
    assert store.calls["get_range"] == pieces


@pytest.mark.parametrize("position", [0, 99, 100, 511, 1023])
def test_any_byte_that_differs_is_noticed(piece: int, position: int) -> None:
    changed = bytearray(DATA)
    changed[position] ^= 1
    with pytest.raises(ChecksumError, match="reads back differently"):
        upload(Changing(bytes(changed)), "tables/a", DATA)


def test_missing_bytes_are_noticed(piece: int) -> None:
    with pytest.raises((ChecksumError, TruncatedError)):
        upload(Changing(DATA[:-1]), "tables/a", DATA)
