"""The bytes of dumps that releases have written. These files stay for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from seerdb.storage.ingest.dump import DumpDecoder, DumpEncoder

GOLDEN = Path(__file__).parent / "golden"

CHUNKS: list[list[tuple[bytes, bytes]]] = [
    [],
    [(bytes([byte]), bytes([byte, 255 - byte]) * 2) for byte in range(256)],
    [(b"empty", b""), (b"k" * 300, b"long"), (b"z", b"zz" * 500)],
]


@pytest.mark.parametrize("name", ["dump_v1", "dump_v1_zstd"])
def test_a_dump_is_read_as_ever(name: str) -> None:
    with (GOLDEN / f"{name}.bin").open("rb") as file:
        pairs = [list(zip(*chunk, strict=True)) for chunk in DumpDecoder(file.read, name)]
    assert pairs == CHUNKS[1:]


def test_a_dump_is_written_as_ever() -> None:
    assert encoded(compress=False) == (GOLDEN / "dump_v1.bin").read_bytes()


def encoded(*, compress: bool) -> bytes:
    """The dump in the files. How zstd compresses is up to its release."""
    encoder = DumpEncoder(compress=compress)
    parts = [encoder.start()]
    for rows in CHUNKS:
        parts += encoder.chunks([key for key, _ in rows], [value for _, value in rows])
    return b"".join((*parts, encoder.end()))
