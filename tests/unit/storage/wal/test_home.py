"""The identity of a data directory."""

from __future__ import annotations

import pytest
from crc32c import crc32c

from seerdb.errors import ChecksumError, UnsupportedFormatError
from seerdb.storage.local.files import FileSystem
from seerdb.storage.wal.home import Home, load_home, save_home
from tests.unit.storage.wal.samples import disk

HOME = Home("0a" * 16, "0b" * 16)
NESTED = b"[" * 100_000


def written(body: bytes) -> FileSystem:
    files = disk()
    files.open("wal/HOME", create=True).write_at(0, b"%08x %b" % (crc32c(body), body))
    return files


def test_what_is_saved_last_is_loaded() -> None:
    files = disk()
    assert load_home(files, "wal") is None
    for home in (HOME, Home("0c" * 16, "0d" * 16, complete=False, contested_seq=7)):
        save_home(files, "wal", home)
        assert load_home(files, "wal") == home
    assert files.list("wal") == ["HOME"]


def test_damage_is_told() -> None:
    files = disk()
    save_home(files, "wal", HOME)
    files.open("wal/HOME").write_at(20, b"?")
    with pytest.raises(ChecksumError, match="wal/HOME"):
        load_home(files, "wal")


@pytest.mark.parametrize(
    "body", [b'{"home":"a","database_id":"b","later":1}', b'{"home":"a"}', b"\xff", b"", NESTED]
)
def test_what_another_release_wrote_is_told_by_its_name(body: bytes) -> None:
    """An exception of msgspec's came out of the opening."""
    with pytest.raises(UnsupportedFormatError, match=r"wal/HOME.*release that wrote it"):
        load_home(written(body), "wal")
