"""What became of the last drill: ``DRILL`` in the data directory, so that a restart neither forgets
a failure nor begins the interval anew, be it the first.

The file is one line: the CRC32C of the rest in 8 hex digits, a space, a JSON object. One that
cannot be read counts as none: the first interval begins then.
"""

from __future__ import annotations

import msgspec
from crc32c import crc32c

from seerdb.errors import MALFORMED, DiskError
from seerdb.storage.drill.run import DrillReport
from seerdb.storage.local.files import FileSystem, read_whole

_NAME = "DRILL"


class DrillOutcome(msgspec.Struct, frozen=True):
    """When a drill ended, by the wall clock in seconds since 1970, and with what: a report, or the
    error. With neither, there was none yet, and the first interval began then."""

    ended: float
    report: DrillReport | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether the backup proved good."""
        return self.report is not None

    @property
    def is_of_a_drill(self) -> bool:
        """Whether there was one."""
        return self.ok or bool(self.error)


def save_outcome(files: FileSystem, directory: str, outcome: DrillOutcome) -> None:
    """Replace what was saved before. Raises: ``DiskError``."""
    path = f"{directory}/{_NAME}"
    draft = f"{path}.new"
    files.remove(draft)
    file = files.open(draft, create=True)
    try:
        body = msgspec.json.encode(outcome)
        file.write_at(0, b"%08x " % crc32c(body) + body)
        file.sync(metadata=True)
    finally:
        file.close()
    files.rename(draft, path)


def load_outcome(files: FileSystem, directory: str) -> DrillOutcome | None:
    """What was saved last; ``None`` where that cannot be read."""
    path = f"{directory}/{_NAME}"
    try:
        if not files.exists(path):
            return None
        data = read_whole(files, path)
    except DiskError:
        return None
    stated, _, body = data.partition(b" ")
    if stated != b"%08x" % crc32c(body):
        return None
    try:
        return msgspec.json.decode(body, type=DrillOutcome)
    except MALFORMED:
        return None
