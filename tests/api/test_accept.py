"""Which of two media types a client would rather have."""

from __future__ import annotations

import pytest

from seerdb_api.accept import prefers


@pytest.mark.parametrize(
    ("header", "is_preferred"),
    [
        (b"", False),
        (b"*/*", False),
        (b"b/b", False),
        (b"a/a", True),
        (b"A/A", True),
        (b"a/a-b", False),
        (b"x/x, a/a;q=0.5", True),
        (b"a/a;charset=utf-8", True),
        (b"a/a;q=0", False),
        (b"a/a ; Q=0.000, b/b", False),
        (b"a/a, b/b", True),
        (b"b/b, a/a;q=0.9", False),
        (b"b/b;q=0.8, a/a;q=0.9", True),
        (b"a/a;q=high", True),
        (b"a/a;q=0,b/b;q=0", False),
    ],
)
def test_what_is_preferred(header: bytes, is_preferred: bool) -> None:
    assert prefers(header, b"a/a", b"b/b") is is_preferred
