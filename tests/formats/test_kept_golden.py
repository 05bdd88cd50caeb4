"""The bytes of a kept state that releases have written. This file stays for ever."""

from __future__ import annotations

from pathlib import Path

from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.manifest.store import apply
from seerdb.storage.retention.kept import Kept, decode_kept, encode_kept, record_of
from tests.unit.storage.manifest.samples import every_kind

GOLDEN = Path(__file__).parent / "golden" / "kept_v1.bin"


def sample() -> Kept:
    state = ManifestState()
    for record in every_kind():
        state = apply(state, record)
    return Kept("c0ffee" * 5 + "00", "nightly", 1_700_000_000_000_000, 86_400.0, record_of(state))


def test_a_kept_state_is_written_and_read_as_ever() -> None:
    assert decode_kept(GOLDEN.name, GOLDEN.read_bytes()) == sample()
    assert encode_kept(sample()) == GOLDEN.read_bytes()
