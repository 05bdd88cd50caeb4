"""What one backup consists of, and its bytes. Pure.

The descriptor is the last object of a backup to be written: a backup without one does not exist.
It names every object that the backup needs with size and checksum, all of them in the same
repository, where several backups may share them.

Bytes: an envelope (see ``object_store/envelope.py``) with the magic "SeerBkup" around the JSON of a
:class:`Descriptor`, so that an operator can read it with nothing but ``tail -c +21``. Part of the
format: change a name or a meaning only together with ``FORMAT_VERSION``.

    version 1   the first
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from seerdb.errors import MALFORMED, CorruptionError, InternalError
from seerdb.ids import Epoch, StoredNumber, StoredSeqNo, StoredSize
from seerdb.storage.manifest.edit import Checkpoint
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.object_store.envelope import HEADER_SIZE, Envelope
from seerdb.storage.object_store.names import blob_name, table_name

FORMAT_VERSION = 1

_ENVELOPE = Envelope(
    b"SeerBkup",
    FORMAT_VERSION,
    "the descriptor of a backup",
    "restore another backup; delete the object to give this one up",
)
_EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)


class ObjectSum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object as it must be: its name in the repository, its length and the CRC32C of all of
    it."""

    name: str
    size: StoredSize
    checksum: StoredNumber


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One backup."""

    id: str
    """Microsecond of its creation and 8 random hex digits: ids are in the order of time."""
    database_id: str
    seq: StoredSeqNo
    """It holds all commits up to this one, and no other."""
    time_us: StoredNumber
    """No commit up to ``seq`` is younger, none after it older: microseconds since 1970."""
    created_us: StoredNumber
    """When it was begun, by the clock of whoever made it."""
    label: str
    keep: bool
    """Whether ``prune`` leaves it alone."""
    record: Checkpoint
    """The tables, as the manifest would have them had it a checkpoint there. Commits above its
    ``last_seq`` are in the log."""
    log: tuple[ObjectSum, ...]
    """The shipped log from the tables to ``seq``."""

    @property
    def state(self) -> ManifestState:
        """The tables as a reader wants them. Raises ``InternalError`` if they break a rule."""
        return ManifestState.of(self.record)

    @property
    def objects(self) -> list[ObjectSum]:
        """Everything it needs, each once."""
        return [*objects_of(self.state), *self.log]

    @property
    def size(self) -> int:
        """Bytes of everything it needs."""
        return sum(each.size for each in self.objects)


def objects_of(state: ManifestState) -> list[ObjectSum]:
    """The tables and blobs that a state needs, large ones first."""
    version = state.version
    objects = [ObjectSum(table_name(each.id), each.size, each.checksum) for each in version.tables]
    objects += [ObjectSum(blob_name(each.id), each.size, each.checksum) for each in version.blobs]
    return sorted(objects, key=lambda each: (-each.size, each.name))


def following(epoch: Epoch) -> Epoch:
    """The epoch in which a copy of a state of ``epoch`` makes tables of its own, so that no id of
    a table is used twice."""
    return Epoch(epoch + 1)


def new_id(created_us: int, random_hex: str) -> str:
    """The id of a backup begun at ``created_us``; 8 random hex digits make it unique."""
    return f"{moment(created_us):%Y%m%dT%H%M%S%fZ}-{random_hex}"


def moment(time_us: int) -> datetime:
    """Microseconds since 1970 as a time of UTC."""
    return _EPOCH_START + timedelta(microseconds=time_us)


_decoder = msgspec.json.Decoder(Descriptor)


def encode_descriptor(descriptor: Descriptor) -> bytes:
    """The object's bytes. Deterministic."""
    return _ENVELOPE.wrap(msgspec.json.encode(descriptor))


def decode_descriptor(name: str, data: bytes) -> Descriptor:
    """The descriptor in ``data``, which was read from the object ``name``.

    Raises: ``UnsupportedFormatError`` (not a descriptor, or from a newer release),
    ``TruncatedError``, ``ChecksumError``, or ``CorruptionError`` for a body that is none.
    """
    body = _ENVELOPE.unwrap(name, data)
    try:
        descriptor = _decoder.decode(body)
        ManifestState.of(descriptor.record)
    except (*MALFORMED, InternalError) as error:
        raise CorruptionError(
            f"the body does not describe a backup: {error}", name=name, offset=HEADER_SIZE
        ) from error
    return descriptor
