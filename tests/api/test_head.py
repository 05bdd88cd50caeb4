"""Which header lines are plain, and how long the body after them is."""

from __future__ import annotations

import pytest

from seerdb_api.head import MAX_LINES, MAX_PLAIN_HEAD, plain_body_length

HOST = b"host: x\r\n"


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (HOST + b"\r\n", 0),
        (HOST + b"Content-Length: 12\r\n\r\n", 12),
        (HOST + b"content-length:12\r\n\r\n", 12),
        (HOST + b"content-length: 1 2\r\n\r\n", None),
        (HOST + b"content-length: 12\r\nContent-Length: 12\r\n\r\n", None),
        (HOST + b"content-length : 12\r\n\r\n", None),
        (HOST + b"content-length: \r\n\r\n", None),
        (HOST + b"content-length: -1\r\n\r\n", None),
        (b"host: " + b"x" * MAX_PLAIN_HEAD + b"\r\n\r\n", None),
        (HOST + b"content-length: 99999999999999\r\n\r\n", None),
        (HOST + b"Transfer-Encoding: chunked\r\n\r\n", None),
        (HOST + b"CONNECTION: keep-alive, close\r\n\r\n", None),
        (HOST + b" folded: x\r\n\r\n", None),
        (b"host: x\r\n y\r\n\r\n", None),
        (HOST + b": x\r\n\r\n", None),
        (b"host: x\nrange: bytes=0-\r\n\r\n", None),
        (b"host: x\rrange: bytes=0-\r\n\r\n", None),
        (b"host: x\x00\r\n\r\n", None),
        (HOST + b"a: b\r\n" * (MAX_LINES - 1) + b"\r\n", 0),
        (HOST + b"a: b\r\n" * MAX_LINES + b"\r\n", None),
        (b"\r\n", None),
        (HOST + HOST + b"\r\n", None),
        (b"host: x y\r\n\r\n", None),
    ],
)
def test_what_a_plain_head_is(head: bytes, length: int | None) -> None:
    assert plain_body_length(head) == length


@pytest.mark.parametrize("end", [b"x: \xc3\xa4\r\n\r\n", b" folded: x\r\n\r\n", b"\r", b""])
def test_a_head_that_is_not_plain_is_known_at_once(end: bytes) -> None:
    """It took twice as long for each line before the one that is not: 40 lines, for ever."""
    assert plain_body_length(HOST + b"a: b\r\n" * 200 + end) is None
