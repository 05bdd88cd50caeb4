"""The identity of a data directory: ``wal/HOME``, so that the log and its owner go together.

The manifest names the home whose log continues it. A log found under another home's name is
not part of the database any more, whatever it holds.

The file is one line: the CRC32C of the rest in 8 hex digits, a space, a JSON object.
"""

from __future__ import annotations

import msgspec
from crc32c import crc32c

from seerdb.errors import MALFORMED, ChecksumError, UnsupportedFormatError
from seerdb.storage.local.files import FileSystem, read_whole

_NAME = "HOME"


class Home(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``home``: id of the data directory; ``database_id``: whose log it holds; ``complete``:
    the log holds all that this home began with. Until then an opening was interrupted, nothing
    was acknowledged, and what the log holds are copies from the bucket. ``contested_seq``: behind
    it the shipped log of the last epoch is somebody else's, not this home's."""

    home: str
    database_id: str
    complete: bool = True
    contested_seq: int | None = None


def has_home(files: FileSystem, directory: str) -> bool:
    """Whether the directory was set up completely once."""
    return files.exists(f"{directory}/{_NAME}")


def load_home(files: FileSystem, directory: str) -> Home | None:
    """The identity of a log directory; ``None`` for a fresh one. Raises: ``ChecksumError``,
    ``UnsupportedFormatError``, ``DiskError``."""
    path = f"{directory}/{_NAME}"
    if not has_home(files, directory):
        return None
    stated, _, body = read_whole(files, path).partition(b" ")
    found = _checksum(body)
    if stated != found:
        raise ChecksumError(
            "the identity of the data directory is damaged",
            name=path,
            expected=stated,
            found=found,
            hint="move the whole data directory away to start from the bucket, without its log",
        )
    try:
        return msgspec.json.decode(body, type=Home)
    except MALFORMED as error:
        raise UnsupportedFormatError(
            f"the identity of the data directory is of another version: {error}",
            name=path,
            hint="open it with the release that wrote it",
        ) from error


def save_home(files: FileSystem, directory: str, home: Home) -> None:
    """Give a log directory an identity. Durable when it returns; the old one or the new one
    is there at any moment."""
    path = f"{directory}/{_NAME}"
    draft = f"{path}.new"
    files.remove(draft)
    file = files.open(draft, create=True)
    try:
        body = msgspec.json.encode(home)
        file.write_at(0, _checksum(body) + b" " + body)
        file.sync(metadata=True)
    finally:
        file.close()
    files.rename(draft, path)
    files.sync_directory(directory)


def _checksum(body: bytes) -> bytes:
    return b"%08x" % crc32c(body)
