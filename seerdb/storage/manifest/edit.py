"""The records of the manifest and their bytes.

The manifest is a log of numbered objects, each created once and never changed. An object
holds one record: a :class:`Claim` (a writer opens), an :class:`Edit` (tables come and go) or
a :class:`Checkpoint` (everything the records so far amount to). What a record *means* is in
``state.py``.

An object is one JSON object in an envelope with the magic "SeerMfst"; see
``storage/object_store/envelope.py``.

The body is JSON so that an operator can read it with nothing but ``tail -c +21``; its
``kind`` says which record it is, and keys of the database are in base64. Part of the format:
change a name or a meaning only together with ``FORMAT_VERSION``.

    version 1   the first
"""

from __future__ import annotations

import msgspec

from seerdb.errors import MALFORMED, CorruptionError, InternalError
from seerdb.ids import StoredEpoch, StoredNumber, StoredSegmentId, StoredSeqNo, TableId
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.object_store.envelope import HEADER_SIZE, Envelope
from seerdb.storage.object_store.lender import NO_LOANS, Loans

MAGIC = b"SeerMfst"
FORMAT_VERSION = 1

INGEST = "ingest"
RESTORE = "restore"
"""Reasons of edits that are commits of their own: their seq is in no log."""

_ENVELOPE = Envelope(
    MAGIC,
    FORMAT_VERSION,
    "a manifest object",
    "the manifest is damaged; nothing will be deleted; restore the object or a backup",
)


class Record(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """What every record carries."""

    number: StoredNumber
    """Of the object: 1, 2, 3 ... without gaps. Also its name."""
    epoch: StoredEpoch
    """Of the writer. A claim raises it by one, nothing else changes it."""
    write_id: str
    """Random, 32 hex digits: equal ids prove that two sights of an object are one write."""
    previous: str
    """The write id of the record before, "" in the first: proof that no other history was
    continued."""
    checkpoint: StoredNumber
    """Number of the newest checkpoint at or before this object; 0 when there is none yet."""
    last_seq: StoredSeqNo
    """Everything up to here is in the tables."""
    time_us: StoredNumber
    """Wall clock of the writer in microseconds since 1970, forced to grow from record to
    record."""

    def __post_init__(self) -> None:
        if not (self.number >= 1 and self.epoch >= 1 and 0 <= self.checkpoint <= self.number):
            raise ValueError("number, epoch or checkpoint is out of range")


class Claim(Record, frozen=True, kw_only=True, tag="claim", omit_defaults=True):
    """A writer opened the database and shuts out all writers before it.

    The number after a writer's last record is always the claim of its successor, so the next
    put-if-absent of a writer that does not know yet finds the name taken. Therefore a claim
    is **never deleted**: SlateDB collected such fences (its issues 352 and 1622), a stalled
    writer's create then succeeded, was acknowledged, and was ignored by every reader.
    """

    database_id: str
    home: str
    """Id of the data directory whose local log continues this state. All of that log counts if
    the home before was another one."""
    store: str
    """Fingerprint of the store's URL: tells a copied bucket from the original."""
    capabilities: dict[str, bool]
    """What the probe found the store able to do."""
    merge_operator: str = ""
    """Name of the operator that folds what is merged; left out while there is none. Once there
    is one, no later record names another."""
    lease: float = 0.0
    """Seconds that the writer's lease runs; left out where it keeps none. Whoever claims next has
    to wait that out; see ``lease/``."""


class Edit(Record, frozen=True, kw_only=True, tag="edit"):
    """Tables come and go in one step."""

    add: list[TableMeta]
    remove: list[TableId]
    """A table that is in both keeps its bytes and moves to another level or run."""
    log_start: StoredSegmentId
    """First segment of the home's log that is still needed; 0: all of them."""
    reason: str
    """``flush``, ``compaction`` ...: for people, but for ``INGEST`` and ``RESTORE``."""


class Checkpoint(Record, frozen=True, kw_only=True, tag="checkpoint", omit_defaults=True):
    """The whole state, changing nothing: loading starts here."""

    checkpoint_before: StoredNumber
    """Number of the checkpoint before this one; 0 when this is the first."""
    database_id: str
    home: str
    store: str
    capabilities: dict[str, bool]
    log_start: StoredSegmentId
    claims: list[StoredNumber]
    """Numbers of all claims so far, ascending: what the collector must leave alone."""
    tables: list[TableMeta]
    merge_operator: str = ""
    lease: float = 0.0
    loans: Loans = NO_LOANS
    """What a clone borrows; left out where the database is none. No other record tells it: the
    first one of a clone is a checkpoint."""


ManifestRecord = Claim | Edit | Checkpoint

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[ManifestRecord] = msgspec.json.Decoder(ManifestRecord)


def encode_record(record: ManifestRecord) -> bytes:
    """The object's bytes. Deterministic. Raises: ``InternalError`` for a record that could not be
    read again."""
    body = _encoder.encode(record)
    try:
        _decoder.decode(body)
    except MALFORMED as error:
        raise InternalError(f"no manifest record may say this: {error}") from error
    return _ENVELOPE.wrap(body)


def decode_record(name: str, data: bytes) -> ManifestRecord:
    """The record in ``data``, which was read from the object ``name``.

    Raises: ``UnsupportedFormatError`` (not a manifest object, or from a newer release),
    ``TruncatedError``, ``ChecksumError``, or ``CorruptionError`` for a body that is not a
    record.
    """
    body = _ENVELOPE.unwrap(name, data)
    try:
        return _decoder.decode(body)
    except MALFORMED as error:
        raise CorruptionError(
            f"the body is not a manifest record: {error}", name=name, offset=HEADER_SIZE
        ) from error
