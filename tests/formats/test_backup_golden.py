"""The bytes of a backup's descriptor: ``golden/backup_v1.bin`` is read for ever."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from seerdb.errors import UnsupportedFormatError
from seerdb.ids import Epoch, SegmentId, SeqNo
from seerdb.storage.backup.descriptor import (
    Descriptor,
    ObjectSum,
    decode_descriptor,
    encode_descriptor,
)
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.version import Version
from seerdb.storage.object_store.names import backup_name, wal_name
from seerdb.storage.retention.kept import record_of
from tests.unit.storage.manifest.samples import table

FILE = Path(__file__).parent / "golden" / "backup_v1.bin"

DESCRIPTOR = Descriptor(
    id="20231114T221320000007Z-5eedb0a7",
    database_id="ab" * 16,
    seq=SeqNo(120),
    time_us=1_700_000_000_000_000,
    created_us=1_700_000_000_000_007,
    label="nightly ☾",
    keep=True,
    record=record_of(
        ManifestState(
            number=9,
            epoch=Epoch(3),
            write_id="cd" * 16,
            time_us=1_699_999_999_000_000,
            database_id="ab" * 16,
            home="ef" * 16,
            version=Version.of([table(1), table(2, level=1)]),
            last_seq=SeqNo(110),
            log_start=SegmentId(4),
            checkpoint=8,
            claims=(1, 5),
        )
    ),
    log=(ObjectSum(wal_name(Epoch(3), SeqNo(111), SeqNo(120)), 5000, 0x11223344),),
)


def test_a_descriptor_of_version_1_is_read() -> None:
    assert decode_descriptor(backup_name(DESCRIPTOR.id), FILE.read_bytes()) == DESCRIPTOR


def test_a_descriptor_is_written_as_version_1() -> None:
    assert encode_descriptor(DESCRIPTOR) == FILE.read_bytes()


def test_the_body_is_json_that_people_can_read() -> None:
    body = msgspec.json.decode(FILE.read_bytes()[20:])
    assert (body["label"], body["seq"], body["record"]["last_seq"]) == ("nightly ☾", 120, 110)


def test_another_version_and_another_format_are_refused() -> None:
    data = FILE.read_bytes()
    for other in (b"SeerMfst" + data[8:], data[:8] + b"\x02" + data[9:]):
        with pytest.raises(UnsupportedFormatError):
            decode_descriptor("name", other)
