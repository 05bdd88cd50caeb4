"""The only place that builds or parses an object name.

::

    manifest/<20 digits>                          numbered edits and checkpoints
    tables/<table id>.sst                         immutable tables
    blobs/<blob id>.blob                          immutable blobs: large values
    wal/<20 digits epoch>/<20 digits first seq>-<20 digits last seq>.wal
    checkpoints/<name>                            named states of the database
    holds/<32 hex digits>                         the same for a while, to copy or name them
    probe/<hex digits>                            written and removed by the capability probe
    lease                                         who may write; the one object that is replaced
    loans                                         of a clone: from whom it borrows tables and blobs

In a backup repository, beside the tables, blobs and log of the database it holds::

    backups/<backup id>                           what one backup consists of
    locks/<32 hex digits>-<8 digits>              somebody works on the repository

Where restore drills work, be it a repository or not:

    drills/<32 hex digits>/...                    what one drill has restored; gone after it

Numbers are padded with zeros so that the order of names is the order of numbers.
"""

from __future__ import annotations

import re

from seerdb.ids import BlobId, Epoch, SeqNo, TableId, epoch_of, maker_of

MANIFEST_PREFIX = "manifest/"
TABLE_PREFIX = "tables/"
BLOB_PREFIX = "blobs/"
WAL_PREFIX = "wal/"
PROBE_PREFIX = "probe/"
CHECKPOINT_PREFIX = "checkpoints/"
HOLD_PREFIX = "holds/"
LEASE_NAME = "lease"
LOANS_NAME = "loans"
BACKUP_PREFIX = "backups/"
LOCK_PREFIX = "locks/"
DRILL_PREFIX = "drills/"

_NUMBER = "(00[0-9]{18})"
"""Of 20 digits, but less than 10^18, with room to go on up to 2^63: no writer gets that far."""
_MANIFEST = re.compile(rf"manifest/{_NUMBER}\Z")
_TABLE = re.compile(r"tables/([0-9]{8}-[0-9]{12})\.sst\Z")
_BLOB = re.compile(r"blobs/([0-9]{8}-[0-9]{12}-[0-9]{6})\.blob\Z")
_WAL = re.compile(rf"wal/{_NUMBER}/{_NUMBER}-{_NUMBER}\.wal\Z")
_CHECKPOINT = re.compile(r"checkpoints/([A-Za-z0-9][A-Za-z0-9._-]{0,127})\Z")
_HOLD = re.compile(r"holds/([0-9a-f]{32})\Z")
_BACKUP = re.compile(r"backups/([0-9]{8}T[0-9]{12}Z-[0-9a-f]{8})\Z")
_LOCK = re.compile(r"locks/([0-9a-f]{32})-([0-9]{8})\Z")
_DRILL = re.compile(r"drills/([0-9a-f]{32})/")
_PROBE = re.compile(r"probe/[0-9a-f]+\Z")


def manifest_name(number: int) -> str:
    """The name of the ``number``-th manifest object."""
    return f"{MANIFEST_PREFIX}{number:020d}"


def parse_manifest_name(name: str) -> int | None:
    """The number in a manifest object's name; ``None`` for any other name."""
    match = _MANIFEST.match(name)
    return int(match[1]) if match else None


def table_name(table: TableId) -> str:
    """The name of a table object."""
    return f"{TABLE_PREFIX}{table}.sst"


def parse_table_name(name: str) -> TableId | None:
    """The id in a table object's name; ``None`` for any other name."""
    match = _TABLE.match(name)
    return TableId(match[1]) if match else None


def blob_name(blob: BlobId) -> str:
    """The name of a blob object."""
    return f"{BLOB_PREFIX}{blob}.blob"


def parse_blob_name(name: str) -> BlobId | None:
    """The id in a blob object's name; ``None`` for any other name."""
    match = _BLOB.match(name)
    return BlobId(match[1]) if match else None


def made_in(name: str) -> Epoch | None:
    """The epoch in which a table or blob was made; ``None`` for any other name."""
    blob = parse_blob_name(name)
    table = maker_of(blob) if blob else parse_table_name(name)
    return epoch_of(table) if table else None


def wal_name(epoch: Epoch, first: SeqNo, last: SeqNo) -> str:
    """The name of the shipped log of ``first`` to ``last``, both inclusive."""
    return f"{wal_epoch_prefix(epoch)}{first:020d}-{last:020d}.wal"


def wal_epoch_prefix(epoch: Epoch) -> str:
    """What the names of all log shipped in ``epoch`` begin with."""
    return f"{WAL_PREFIX}{epoch:020d}/"


def parse_wal_name(name: str) -> tuple[Epoch, SeqNo, SeqNo] | None:
    """Epoch, first and last seq of a shipped log's name; ``None`` for any other name."""
    match = _WAL.match(name)
    return (Epoch(int(match[1])), SeqNo(int(match[2])), SeqNo(int(match[3]))) if match else None


def probe_name(random_hex: str) -> str:
    """The name of the object that a capability probe works on."""
    return f"{PROBE_PREFIX}{random_hex}"


def is_probe_name(name: str) -> bool:
    """Whether this is the object of a capability probe."""
    return _PROBE.match(name) is not None


def checkpoint_name(name: str) -> str | None:
    """The name of a checkpoint's object; ``None`` if that may not be called so."""
    path = f"{CHECKPOINT_PREFIX}{name}"
    return path if _CHECKPOINT.match(path) else None


def hold_name(hold: str) -> str:
    """The name of the object that is a hold, of 32 hex digits."""
    return f"{HOLD_PREFIX}{hold}"


def is_kept_name(name: str) -> bool:
    """Whether this is the object of a checkpoint or a hold."""
    return _CHECKPOINT.match(name) is not None or _HOLD.match(name) is not None


def is_database_name(name: str) -> bool:
    """Whether this is an object of a database."""
    parsers = _MANIFEST, _TABLE, _BLOB, _WAL, _CHECKPOINT, _HOLD, _PROBE
    return name in (LEASE_NAME, LOANS_NAME) or any(each.match(name) for each in parsers)


def backup_name(backup: str) -> str:
    """The name of the descriptor of a backup."""
    return f"{BACKUP_PREFIX}{backup}"


def parse_backup_name(name: str) -> str | None:
    """The id in a descriptor's name; ``None`` for any other name."""
    match = _BACKUP.match(name)
    return match[1] if match else None


def drill_name(drill: str, name: str) -> str:
    """The name of an object in the folder of a drill, of 32 hex digits."""
    return f"{DRILL_PREFIX}{drill}/{name}"


def parse_drill_name(name: str) -> str | None:
    """The drill in whose folder an object is; ``None`` for any other name."""
    match = _DRILL.match(name)
    return match[1] if match else None


def lock_name(owner: str, number: int) -> str:
    """The name of the ``number``-th lock object of an owner, 32 hex digits."""
    return f"{LOCK_PREFIX}{owner}-{number:08d}"


def parse_lock_name(name: str) -> tuple[str, int] | None:
    """Owner and number in the name of a lock object; ``None`` for any other name."""
    match = _LOCK.match(name)
    return (match[1], int(match[2])) if match else None
