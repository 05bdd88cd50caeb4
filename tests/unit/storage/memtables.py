"""What a memtable holds, for comparing."""

from __future__ import annotations

from seerdb.ids import MAX_SEQ
from seerdb.storage.memtable import Memtable
from seerdb.storage.value import Version


def versions(memtable: Memtable) -> dict[bytes, Version | None]:
    """The newest version of each key."""
    return {key: memtable.find(key, MAX_SEQ) for key in memtable.newest}
