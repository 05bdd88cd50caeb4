"""The bytes of the object ``lease``, the only one in the bucket that is ever replaced.

One line: the CRC32C of the rest in 8 hex digits, a space, a JSON object. Nothing of the database
rests on it: where it is damaged, missing, or of a version that is not known, whoever wants to write
waits for the whole time of a lease, which the manifest states. Members that are not known are
ignored.

    version 1   the first
"""

from __future__ import annotations

import msgspec
from crc32c import crc32c

from seerdb.errors import MALFORMED
from seerdb.ids import Epoch, SeqNo

FORMAT_VERSION = 1
MAX_SIZE = 64 << 10
"""Bytes; no lease is larger."""


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the holder of the lease said last. No two renewals have the same bytes."""

    epoch: Epoch
    """Of the holder. A record of another epoch than the manifest's says nothing."""
    number: int
    """Of the renewal, from 1 in each epoch."""
    seconds: float
    """How long the lease runs from a renewal on."""
    home: str
    """Id of the holder's data directory."""
    address: str
    """Where clients reach the holder; "" where it serves none."""
    seq: SeqNo
    """Everything that the holder had committed before this renewal."""
    shipped_seq: SeqNo
    """Everything of that which was in the bucket, in tables or as shipped log."""
    time_us: int
    """Wall clock of the holder, for people: nothing is decided by it."""
    version: int = FORMAT_VERSION
    released: bool = False
    """The holder acknowledges nothing any more, and everything it had is in tables."""


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[LeaseRecord] = msgspec.json.Decoder(LeaseRecord)


def encode_lease(record: LeaseRecord) -> bytes:
    """The object's bytes. Deterministic."""
    body = _encoder.encode(record)
    return b"%08x %b\n" % (crc32c(body), body)


def decode_lease(data: bytes | None) -> LeaseRecord | None:
    """The record in the object's bytes; ``None`` where they tell nothing: the object is missing
    or damaged."""
    if data is None or len(data) > MAX_SIZE:
        return None
    stated, _, body = data.rstrip(b"\n").partition(b" ")
    if stated != b"%08x" % crc32c(body):
        return None
    try:
        record = _decoder.decode(body)
    except MALFORMED:
        return None
    return record if record.version == FORMAT_VERSION else None
