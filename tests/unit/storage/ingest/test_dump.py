"""The bytes of a dump: what goes in comes out, and nothing damaged is taken for whole."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from seerdb.errors import CorruptionError, TruncatedError, UnsupportedFormatError
from seerdb.storage.ingest import dump
from seerdb.storage.ingest.dump import (
    CHUNK_BYTES,
    FRAME_HEADER_SIZE,
    MAGIC,
    START_SIZE,
    DumpDecoder,
    DumpEncoder,
)

Rows = list[tuple[bytes, bytes]]

EVERY_BYTE: Rows = [(bytes([byte]), bytes([255 - byte]) * 3) for byte in range(256)]


def encoded(rows: Rows, *, compress: bool = False) -> bytes:
    encoder = DumpEncoder(compress=compress)
    keys, values = [key for key, _ in rows], [value for _, value in rows]
    return b"".join((encoder.start(), *encoder.chunks(keys, values), encoder.end()))


def decoded(data: bytes) -> Rows:
    decoder = DumpDecoder(io.BytesIO(data).read, "the dump")
    rows = [pair for chunk in decoder for pair in zip(*chunk, strict=True)]
    assert decoder.offset == len(data)
    return rows


rows = st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.binary(max_size=400)))


@given(rows=rows, compress=st.booleans())
def test_what_goes_in_comes_out(rows: Rows, compress: bool) -> None:
    assert decoded(encoded(rows, compress=compress)) == rows


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
    "rows",
    [
        [],
        EVERY_BYTE,
        [(b"k" * 65_535, b"")],
        [(b"a", b""), (b"b", bytes(5 << 20)), (b"c", b"1")],
        [(b"%05d" % number, b"v" * 90) for number in range(5000)],
    ],
    ids=["nothing", "every byte", "longest key", "a large value", "many"],
)
def test_extremes_come_out_as_they_went_in(rows: Rows, compress: bool) -> None:
    assert decoded(encoded(rows, compress=compress)) == rows


def test_chunks_are_bounded_and_a_large_value_is_alone_in_its_own() -> None:
    rows = [(b"%05d" % number, b"v" * 90) for number in range(3000)]
    rows.insert(1000, (b"00999x", bytes(CHUNK_BYTES)))
    chunks = list(DumpDecoder(io.BytesIO(encoded(rows)).read, ""))
    assert len(chunks) == 6
    for keys, values in chunks:
        size = sum(map(len, keys)) + sum(map(len, values))
        assert size <= CHUNK_BYTES or len(keys) == 1


def test_what_compresses_is_smaller_and_what_does_not_is_as_it_was() -> None:
    plain = encoded(EVERY_BYTE * 9)
    assert len(encoded(EVERY_BYTE * 9, compress=True)) < len(plain) / 2
    assert encoded([(b"k", b"v")], compress=True) == encoded([(b"k", b"v")])


@pytest.mark.parametrize("compress", [True, False])
def test_a_dump_that_is_cut_anywhere_is_refused(compress: bool) -> None:
    data = encoded(EVERY_BYTE, compress=compress)
    for size in range(len(data)):
        with pytest.raises(TruncatedError, match=f"the dump at byte {size}: "):
            decoded(data[:size])


@pytest.mark.parametrize("compress", [True, False])
def test_a_flipped_bit_anywhere_is_found(compress: bool) -> None:
    data = encoded(EVERY_BYTE[:40], compress=compress)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(CorruptionError, match="the dump at byte"):
            decoded(bytes(damaged))


def test_what_follows_the_end_is_refused() -> None:
    data = encoded(EVERY_BYTE)
    with pytest.raises(CorruptionError, match=f"byte {len(data)}: something follows the end"):
        decoded(data + b"\n")


def test_another_version_is_refused_by_name() -> None:
    fields = MAGIC + struct.pack("<I", 2)
    with pytest.raises(UnsupportedFormatError, match="another version"):
        decoded(fields + struct.pack("<I", crc32c(fields)))


def frame(kind: int, codec: int, entries: int, raw: int, body: bytes) -> bytes:
    fields = struct.pack("<BBHQIII", kind, codec, 0, entries, raw, len(body), crc32c(body))
    return fields + struct.pack("<I", crc32c(fields)) + body


ONE = struct.pack("<HI", 1, 1) + b"kv"
NO_KEY = struct.pack("<HI", 0, 2) + b"kv"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (frame(3, 0, 1, len(ONE), ONE), "unknown kind 3"),
        (frame(1, 2, 1, len(ONE), ONE), "codec 2"),
        (frame(1, 0, 1, len(ONE) + 1, ONE), "wrong length"),
        (frame(1, 0, 2, len(ONE), ONE), "without its lengths"),
        (frame(1, 0, 0, len(ONE), ONE), "do not add up"),
        (frame(1, 0, 1 << 60, len(ONE), ONE), "without its lengths"),
        (frame(1, 0, 1, len(ONE) + 1, ONE + b"x"), "do not add up"),
        (frame(1, 0, 1, len(NO_KEY), NO_KEY), "an empty key"),
        (frame(1, 1, 1, len(ONE), ONE), "cannot be decompressed"),
        (frame(1, 0, 1, 1 << 31, ONE), "too large"),
        (frame(2, 0, 7, 0, b""), "another number of entries"),
        (frame(2, 0, 0, 1, b"x"), "something follows"),
    ],
)
def test_sound_checksums_do_not_make_sense_of_nonsense(bad: bytes, message: str) -> None:
    with pytest.raises(CorruptionError, match=f"byte .*{message}"):
        decoded(encoded([])[:START_SIZE] + bad)


def test_a_bomb_is_not_decompressed() -> None:
    encoder = DumpEncoder(compress=True)
    bomb = encoder._compressor.compress(bytes(10 << 20))  # type: ignore[union-attr]
    with pytest.raises(CorruptionError, match="wrong length of a chunk"):
        decoded(encoder.start() + frame(1, 1, 1, 8, bomb))


@pytest.mark.parametrize("make", [lambda data: data[1:], lambda data: b"{" + data])
def test_something_else_is_no_dump(make: Callable[[bytes], bytes]) -> None:
    with pytest.raises(UnsupportedFormatError, match="not a dump"):
        decoded(make(encoded(EVERY_BYTE)))


def test_the_sizes_of_the_format_are_as_described() -> None:
    assert (START_SIZE, FRAME_HEADER_SIZE, dump.VERSION) == (16, 28, 1)
    assert encoded([]) == encoded([])[:START_SIZE] + frame(2, 0, 0, 0, b"")
    assert MAGIC[0] >= 0x80
