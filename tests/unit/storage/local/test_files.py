"""Files that are opened to be read are closed, also where reading them fails."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from seerdb.errors import DiskError
from seerdb.storage.drill.outcome import DrillOutcome, load_outcome, save_outcome
from seerdb.storage.ingest.sorting import SortedRun, merged
from seerdb.storage.local.files import File, FileSystem, read_whole, size_of
from seerdb.storage.tiers.disk_tier import DiskTier
from seerdb.storage.tiers.heat import load_heat, save_heat
from seerdb.storage.workers.pace import at_full_speed
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.machine import disk_error
from tests.unit.storage.tables import id_of


class Sick(CrashableFileSystem):
    """Opens files, but cannot tell how long they are."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    def open_read(self, path: str) -> File:
        file = super().open_read(path)
        self.opened += 1
        close = file.close

        def fail() -> int:
            raise disk_error(errno.EIO, path)

        def count() -> None:
            self.opened -= 1
            close()

        file.size = fail  # type: ignore[method-assign]
        file.close = count  # type: ignore[method-assign]
        return file


def write(files: FileSystem, path: str) -> None:
    file = files.open(path, create=True)
    file.write_at(0, b"something")
    file.close()


def adopt(files: FileSystem) -> None:
    tier = DiskTier(files, "cache", 1000)
    write(files, f"cache/{id_of(2)}.parts")
    assert not tier.adopt(id_of(2))


def take_stock(files: FileSystem) -> None:
    assert DiskTier(files, "cache", 1000).statistics().errors == 1


def read_drill(files: FileSystem) -> None:
    save_outcome(files, "cache", DrillOutcome(1.0))
    assert load_outcome(files, "cache") is None


def read_heat(files: FileSystem) -> None:
    save_heat(files, "cache", {id_of(1): [1]})
    assert load_heat(files, "cache") == {}


def look(files: FileSystem) -> None:
    for read in (read_whole, size_of):
        with pytest.raises(DiskError):
            read(files, f"cache/{id_of(1)}.parts")


def merge(files: FileSystem) -> None:
    runs = [SortedRun(f"cache/{id_of(1)}.parts", 1, 9, 9), SortedRun("cache/none", 1, 9, 9)]
    with pytest.raises(DiskError):
        next(merged(files, runs, at_full_speed))


@pytest.mark.parametrize("use", [adopt, take_stock, read_drill, read_heat, look, merge])
def test_no_file_stays_open_where_a_disk_fails(use: Callable[[FileSystem], None]) -> None:
    files = Sick()
    files.make_directory("cache")
    write(files, f"cache/{id_of(1)}.parts")
    use(files)
    assert not files.opened
