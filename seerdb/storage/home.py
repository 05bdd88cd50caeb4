"""The identity of a data directory: ``wal/HOME``, so that the log and its owner go together.

The manifest names the home whose log continues it. A log found under another home's name is
not part of the database any more, whatever it holds.
"""

from __future__ import annotations

import msgspec

from seerdb.errors import CorruptionError
from seerdb.storage.files import FileSystem
from seerdb.storage.wal.reader import read_whole

_NAME = "HOME"


class Home(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``home``: id of the data directory; ``database_id``: whose log it holds; ``complete``:
    the log holds all that this home began with. Until then an opening was interrupted, nothing
    was acknowledged, and what the log holds are copies from the bucket."""

    home: str
    database_id: str
    complete: bool = True


def has_home(files: FileSystem, directory: str) -> bool:
    """Whether the directory was set up completely once."""
    return files.exists(f"{directory}/{_NAME}")


def load_home(files: FileSystem, directory: str) -> Home | None:
    """The identity of a log directory; ``None`` for a fresh one."""
    path = f"{directory}/{_NAME}"
    if not has_home(files, directory):
        return None
    try:
        return msgspec.json.decode(read_whole(files, path), type=Home)
    except msgspec.MsgspecError as error:
        raise CorruptionError(
            f"not an identity file: {error}",
            name=path,
            hint="move the whole data directory away to start anew from the bucket",
        ) from error


def save_home(files: FileSystem, directory: str, home: Home) -> None:
    """Give a log directory an identity. Durable when it returns; the old one or the new one
    is there at any moment."""
    path = f"{directory}/{_NAME}"
    draft = f"{path}.new"
    files.remove(draft)
    file = files.open(draft, create=True)
    try:
        file.write_at(0, msgspec.json.encode(home))
        file.sync(metadata=True)
    finally:
        file.close()
    files.rename(draft, path)
    files.sync_directory(directory)
