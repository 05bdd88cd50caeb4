"""What was hot when a database was closed: ``cache/HOT``, so that the next opening finds it again.

A hint: it may be missing, old or damaged, and costs no more than a cold start then. The file is
the CRC32C of the rest (u32, little-endian), and by MessagePack a map of table ids to the
numbers of their hot blocks.
"""

from __future__ import annotations

import msgspec
from crc32c import crc32c

from seerdb.errors import MALFORMED, DiskError
from seerdb.ids import TableId
from seerdb.storage.local.files import FileSystem, read_whole

Heat = dict[TableId, list[int]]
"""Of each table the numbers of its hot blocks, ascending."""

_NAME = "HOT"
_CRC_SIZE = 4


def save_heat(files: FileSystem, directory: str, heat: Heat) -> None:
    """Replace what was saved before. Raises: ``DiskError``."""
    path = f"{directory}/{_NAME}"
    draft = f"{path}.new"
    files.remove(draft)
    file = files.open(draft, create=True)
    try:
        body = msgspec.msgpack.encode(heat)
        file.write_at(0, crc32c(body).to_bytes(_CRC_SIZE, "little") + body)
    finally:
        file.close()
    files.rename(draft, path)


def load_heat(files: FileSystem, directory: str) -> Heat:
    """What was saved last; nothing where that cannot be read."""
    path = f"{directory}/{_NAME}"
    try:
        if not files.exists(path):
            return {}
        data = read_whole(files, path)
    except DiskError:
        return {}
    body = data[_CRC_SIZE:]
    if data[:_CRC_SIZE] != crc32c(body).to_bytes(_CRC_SIZE, "little"):
        return {}
    try:
        return msgspec.msgpack.decode(body, type=Heat)
    except MALFORMED:
        return {}
