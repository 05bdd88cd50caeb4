"""What a scan hands out, where several threads ask the same iterator for it."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Thread

import pytest

from seerdb.storage.merge import Chunk
from seerdb.storage.read.rows import keys, rows

CHUNKS = (Chunk([b"a", b"b"], [1, 2], [b"", b""]), Chunk([b"c"], [3], [b""]))


@pytest.mark.parametrize("limit", [None, 10])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_second_thread_is_refused_and_the_first_has_all(
    limit: int | None, *, reverse: bool
) -> None:
    fetching, go_on = Event(), Event()

    def chunks() -> Iterator[Chunk]:
        fetching.set()
        assert go_on.wait(60.0)
        yield from CHUNKS

    shared = rows(chunks(), keys, reverse=reverse, limit=limit)
    found: list[bytes] = []
    first = Thread(target=lambda: found.extend(shared), daemon=True)
    first.start()
    assert fetching.wait(60.0)
    try:
        with pytest.raises(ValueError, match="already executing"):
            next(shared)
    finally:
        go_on.set()
    first.join(60.0)
    assert found == ([b"b", b"a", b"c"] if reverse else [b"a", b"b", b"c"])
