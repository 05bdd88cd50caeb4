"""Tables on their way to the bucket: in order, one at a time, and what fails is told."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from seerdb.errors import UnavailableError
from seerdb.storage.flush.uploads import Uploads
from seerdb.storage.manifest.version import TableMeta
from seerdb.storage.workers.threads import InlineExecutor
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.tables import many, put_table

METAS = [put_table(MemoryObjectStore(), number, many(0, 3, seq=1)) for number in range(1, 6)]


def test_all_are_there_in_the_end_in_order() -> None:
    for threads in (InlineExecutor(), ThreadPoolExecutor(4)):
        with threads:
            uploads = Uploads(threads)
            assert uploads.finish() == ()
            for number, meta in enumerate(METAS):
                assert len(uploads) == number
                uploads.begin(lambda meta=meta: meta)  # type: ignore[misc]
            assert uploads.finish() == tuple(METAS)


def test_one_at_most_is_under_way_and_nobody_waits_for_that_one() -> None:
    let_go = Event()
    under_way: list[TableMeta] = []

    def putting(meta: TableMeta) -> Callable[[], TableMeta]:
        def put() -> TableMeta:
            under_way.append(meta)
            assert len(under_way) == 1
            assert let_go.wait(60)
            under_way.remove(meta)
            return meta

        return put

    with ThreadPoolExecutor(4) as threads:
        uploads = Uploads(threads)
        uploads.begin(putting(METAS[0]))
        assert not let_go.is_set(), "here it would wait"
        let_go.set()
        for meta in METAS[1:]:
            uploads.begin(putting(meta))
        assert uploads.finish() == tuple(METAS)


def test_after_one_that_failed_none_is_begun() -> None:
    def fail() -> TableMeta:
        raise UnavailableError("the bucket is away")

    begun: list[TableMeta] = []

    def succeed() -> TableMeta:
        begun.append(METAS[1])
        return METAS[1]

    with ThreadPoolExecutor(4) as threads:
        uploads = Uploads(threads)
        uploads.begin(lambda: METAS[0])
        uploads.begin(fail)
        with pytest.raises(UnavailableError, match="away"):
            uploads.begin(succeed)
        with pytest.raises(UnavailableError, match="away"):
            uploads.finish()
    assert not begun
