"""What people see of a database at one moment, as a digest: to compare it with a copy, a restored
database or a replica, however differently that keeps it in tables, blobs and log.
"""

from __future__ import annotations

from typing import NamedTuple

from seerdb.errors import InvalidRequestError
from seerdb.storage.digest import NONE, digest
from seerdb.storage.entry import PUT
from seerdb.storage.read.reads import Reads, View
from seerdb.storage.read.rows import living
from seerdb.storage.read.scan import Wanted
from seerdb.storage.sstable.packed import pack


class ContentDigest(NamedTuple):
    """Of all keys and their values after a commit, without those that have expired by a second.

    Two databases of one history that show the same have the same digest. The first half of it, 16
    hex digits, tells keys and values alone, the second half with which commit each was written.
    """

    seq: int
    """The newest commit that counts."""
    second: int
    """Since 1970: what expires by then does not count."""
    entries: int
    digest: str
    """32 hex digits."""


def content_digest(reads: Reads, view: View, second: int | None = None) -> ContentDigest:
    """The digest of what ``view`` shows, by its second or another one. Reads all of it, values in
    blobs too, and keeps nothing of it in the caches. Raises as reads do, and
    ``InvalidRequestError`` for what is no second since 1970."""
    if second is not None:
        _check_second(second)
        view = view._replace(second=second)
    total = NONE
    for found in reads.scan(view, Wanted(None, None, fill=False)):
        keys, seqs, values = living(found)
        kinds = bytes((PUT,)) * len(keys)
        total += digest(pack(keys, seqs, kinds, values))  # type: ignore[arg-type]  # all are bytes
    return ContentDigest(view.at, view.second, total.entries, str(total))


def _check_second(second: object) -> None:
    if isinstance(second, bool) or not isinstance(second, int) or second < 0:
        raise InvalidRequestError(
            f"second must be a whole number of seconds since 1970, not {second!r}"
        )
