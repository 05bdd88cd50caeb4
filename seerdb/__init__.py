"""SeerDB: a key-value database that lives in a bucket.

::

    from seerdb import DB

    with DB.open("./my_db") as db:
        db.put(b"key", b"value")
"""

from __future__ import annotations

from seerdb.db import DB
from seerdb.errors import (
    AlreadyExistsError,
    BusyError,
    ChecksumError,
    ClosedError,
    ConflictError,
    CorruptionError,
    DiskError,
    DiskFullError,
    FencedError,
    HistoryError,
    InternalError,
    InvalidRequestError,
    LockedError,
    LostError,
    MergeError,
    NotFoundError,
    PoisonedError,
    ReadOnlyError,
    SeerDBError,
    TruncatedError,
    UnavailableError,
    UnsupportedFormatError,
    WorkerError,
)
from seerdb.events import Event
from seerdb.options import DBOptions, Durability, Options
from seerdb.read_only import ReadOnly
from seerdb.reader import NEEDS_IO, NeedsIO
from seerdb.replica import Replica
from seerdb.snapshot import Snapshot
from seerdb.standby import Standby, StandbyReplica, promote
from seerdb.storage.backup.places import (
    Transfer,
    backup,
    prune_backups,
    recovery_points,
    restore,
    verify_backups,
)
from seerdb.storage.backup.points import RecoveryPoints
from seerdb.storage.backup.restore import RestoreReport
from seerdb.storage.backup.take import BackupReport
from seerdb.storage.backup.tasks import BackupStatus
from seerdb.storage.batch import Batch, WriteBatch
from seerdb.storage.clone.drop import DropReport
from seerdb.storage.clone.make import CloneReport
from seerdb.storage.clone.places import Loan, clone, clones, drop_clone, forget_clone
from seerdb.storage.drill.places import drill
from seerdb.storage.drill.run import DrillReport
from seerdb.storage.operators import MergeOperator, register_merge_operator
from seerdb.storage.past.in_place import InPlaceReport
from seerdb.storage.past.versions import KeyVersion
from seerdb.storage.read.content import ContentDigest
from seerdb.storage.read.rows import Entry
from seerdb.storage.retention.checkpoints import Checkpoint
from seerdb.storage.runtime import Components, Runtime

__all__ = [
    "DB",
    "NEEDS_IO",
    "AlreadyExistsError",
    "BackupReport",
    "BackupStatus",
    "Batch",
    "BusyError",
    "Checkpoint",
    "ChecksumError",
    "CloneReport",
    "ClosedError",
    "Components",
    "ConflictError",
    "ContentDigest",
    "CorruptionError",
    "DBOptions",
    "DiskError",
    "DiskFullError",
    "DrillReport",
    "DropReport",
    "Durability",
    "Entry",
    "Event",
    "FencedError",
    "HistoryError",
    "InPlaceReport",
    "InternalError",
    "InvalidRequestError",
    "KeyVersion",
    "Loan",
    "LockedError",
    "LostError",
    "MergeError",
    "MergeOperator",
    "NeedsIO",
    "NotFoundError",
    "Options",
    "PoisonedError",
    "ReadOnly",
    "ReadOnlyError",
    "RecoveryPoints",
    "Replica",
    "RestoreReport",
    "Runtime",
    "SeerDBError",
    "Snapshot",
    "Standby",
    "StandbyReplica",
    "Transfer",
    "TruncatedError",
    "UnavailableError",
    "UnsupportedFormatError",
    "WorkerError",
    "WriteBatch",
    "backup",
    "clone",
    "clones",
    "drill",
    "drop_clone",
    "forget_clone",
    "promote",
    "prune_backups",
    "recovery_points",
    "register_merge_operator",
    "restore",
    "verify_backups",
]

__version__ = "0.1.0"
