"""What a clone borrows, for those who read its bucket without having loaded its state.

Every checkpoint of the manifest tells it. Should all of them be lost, an object does that was put
when the clone was made, and is never changed: without it a repair would take what lies in the
clone's own bucket for all there is.

Bytes of that object, ``loans``: an envelope (see ``object_store/envelope.py``) with the magic
"SeerLoan" around the JSON of a record.
"""

from __future__ import annotations

import msgspec

from seerdb.errors import MALFORMED, CorruptionError, NotFoundError
from seerdb.storage.manifest.edit import Checkpoint, ManifestRecord
from seerdb.storage.manifest.store import manifest_numbers, read_record
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.envelope import HEADER_SIZE, Envelope
from seerdb.storage.object_store.lender import NO_DEBT, Debt
from seerdb.storage.object_store.names import LOANS_NAME

_ENVELOPE = Envelope(
    b"SeerLoan", 1, "what a clone borrows", "restore the object, or the manifest, or a backup"
)


def encode_debt(debt: Debt) -> bytes:
    """The object's bytes. Deterministic."""
    return _ENVELOPE.wrap(msgspec.json.encode(debt))


def decode_debt(data: bytes) -> Debt:
    """The record in the object's bytes. Raises: ``CorruptionError`` and its kinds."""
    body = _ENVELOPE.unwrap(LOANS_NAME, data)
    try:
        return msgspec.json.decode(body, type=Debt)
    except MALFORMED as error:
        raise CorruptionError(
            f"the body does not say what is borrowed: {error}", name=LOANS_NAME, offset=HEADER_SIZE
        ) from error


def read_debt(store: ObjectStore) -> Debt:
    """What the database in ``store`` borrows; nothing where there is none.

    One LIST and one or two GETs, more where objects are damaged. Raises: ``CorruptionError`` where
    nothing that is left can tell, ``UnavailableError``.
    """
    numbers = manifest_numbers(store)
    newest = _readable(store, numbers[-1]) if numbers else None
    if newest is not None and not newest.checkpoint:
        return NO_DEBT  # a clone begins with one
    for number in (newest.checkpoint if newest else 0, *reversed(numbers)):
        record = newest if newest and number == newest.number else _readable(store, number)
        if isinstance(record, Checkpoint):
            return Debt(record.database_id, record.loans)
    try:
        return decode_debt(store.get(LOANS_NAME))
    except NotFoundError:
        return NO_DEBT


def _readable(store: ObjectStore, number: int) -> ManifestRecord | None:
    try:
        return read_record(store, number) if number else None
    except (CorruptionError, NotFoundError):
        return None
