"""The compressor tries hard only where that pays."""

from __future__ import annotations

from random import Random

import zstandard

from seerdb.storage.sstable.compressor import _THOROUGH, _TRY_EVERY, Compressor

TEXT = b"".join(b'{"id": %d, "name": "user %d", "active": true}' % (n, n * 7) for n in range(300))
_random = Random(7)
NOISE = b"".join(_random.randbytes(50) + TEXT[at : at + 50] for at in range(0, 7000, 50))


def thorough(payload: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_THOROUGH, write_content_size=False).compress(payload)


def restored(frame: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(frame, max_output_size=1 << 20)


def test_text_is_compressed_thoroughly() -> None:
    compressor = Compressor()
    assert [compressor.compress(TEXT) for _ in range(3)] == [thorough(TEXT)] * 3


def test_noise_is_compressed_fast_and_comes_back() -> None:
    compressor = Compressor()
    frames = [compressor.compress(NOISE) for _ in range(3)]
    assert [restored(frame) for frame in frames] == [NOISE] * 3
    assert len(frames[0]) < len(NOISE)
    assert compressor.compress(TEXT) != thorough(TEXT), "what was chosen holds for some parts"


def test_what_pays_is_found_out_again_and_again() -> None:
    compressor = Compressor()
    for payload in (NOISE, TEXT, NOISE):
        frames = [compressor.compress(payload) for _ in range(_TRY_EVERY + 1)]
        assert {restored(frame) for frame in frames} == {payload}
        assert (frames[-1] == thorough(payload)) == (payload is TEXT)


def test_many_are_compressed_as_one_after_the_other() -> None:
    payloads = [NOISE, TEXT, NOISE + TEXT, b"x"] * _TRY_EVERY
    one_by_one, together = Compressor(), Compressor()
    frames = [one_by_one.compress(payload) for payload in payloads]
    assert together.compress_all(payloads[:100]) == frames[:100]
    assert together.compress_all(payloads[100:]) == frames[100:]
    assert together.compress_all([]) == []
