"""The bytes in which releases have noted what a clone borrows. These files stay for ever."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from seerdb.errors import CorruptionError
from seerdb.ids import Epoch
from seerdb.storage.manifest.edit import Checkpoint, decode_record, encode_record
from seerdb.storage.manifest.loans import decode_debt, encode_debt
from seerdb.storage.object_store.envelope import Envelope
from seerdb.storage.object_store.lender import Debt, Lender, Loans
from tests.unit.storage.manifest.samples import every_kind

GOLDEN = Path(__file__).parent / "golden"

LOANS = Loans(
    lenders=(
        Lender("s3://bucket/first", "0a" * 16, Epoch(3), hold="0b" * 16),
        Lender(
            "s3://bucket/second",
            "0c" * 16,
            Epoch(7),
            also=("tables/00000002-000000000004.sst",),
            hold="0d" * 16,
        ),
    ),
    copied=("tables/00000003-000000000009.sst", "blobs/00000006-000000000001-000000.blob"),
)


def test_a_checkpoint_of_a_clone_is_written_and_read_as_ever() -> None:
    found = next(record for record in every_kind() if isinstance(record, Checkpoint))
    record = replace(found, loans=LOANS)
    file = GOLDEN / "manifest_checkpoint_clone_v1.bin"
    assert encode_record(record) == file.read_bytes()
    assert decode_record(file.name, file.read_bytes()) == record


def test_what_a_clone_borrows_is_written_and_read_as_ever() -> None:
    debt = Debt("0e" * 16, LOANS)
    file = GOLDEN / "loans_v1.bin"
    assert encode_debt(debt) == file.read_bytes()
    assert decode_debt(file.read_bytes()) == debt


def test_damage_is_told() -> None:
    data = bytearray((GOLDEN / "loans_v1.bin").read_bytes())
    for place in range(len(data)):
        data[place] ^= 1
        with pytest.raises(CorruptionError):
            decode_debt(bytes(data))
        data[place] ^= 1


@pytest.mark.parametrize(
    "changed",
    [
        {"lenders": [{"url": "a", "database_id": "b", "epoch": 3}] * 2},
        {"lenders": [{"url": "a", "database_id": "b", "epoch": 3, "hold": "\0"}]},
        {"lenders": [{"url": "a", "database_id": "b", "epoch": 3, "hold": "../tables/x"}]},
    ],
    ids=["a lender twice", "a hold without a name", "a hold elsewhere"],
)
def test_what_no_clone_borrows_is_damage(changed: dict[str, object]) -> None:
    envelope = Envelope(b"SeerLoan", 1, "", "")
    body = msgspec.json.decode(envelope.unwrap("loans", (GOLDEN / "loans_v1.bin").read_bytes()))
    data = envelope.wrap(msgspec.json.encode({**body, "loans": changed}))
    with pytest.raises(CorruptionError, match="does not say what is borrowed"):
        decode_debt(data)
