"""Clones in stores of other kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import seerdb
from seerdb import DB, Transfer
from tests.fixtures.database import fill

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("background", ["inline", "process"])
def test_a_clone_in_s3_borrows_from_another_prefix(
    moto_store_url: tuple[str, dict[str, Any]], tmp_path: Path, background: str
) -> None:
    url, options = moto_store_url
    branch = f"{url}-branch"
    plain: dict[str, Any] = {"store_options": options, "min_free_disk": 0}
    with DB.open(str(tmp_path / "a"), store=url, background="inline", **plain) as db:
        rows = fill(db, 100)
        db.flush()
        report = seerdb.clone(url, branch, transfer=Transfer(target_options=options))
        assert report.copied_bytes == 0
        assert report.lenders == [url]
        with DB.open(str(tmp_path / "b"), store=branch, background=background, **plain) as clone:
            assert dict(clone.scan()) == rows
            clone.delete(b"k0000")
            clone.compact()
            assert clone.get(b"k0000") is None
            assert clone.verify().ok
        assert dict(db.scan()) == rows
    assert [loan.url for loan in seerdb.clones(url, store_options=options)] == [branch]
    report_of_drop = seerdb.drop_clone(branch, dry_run=False, store_options=options)
    assert report_of_drop.objects > 3
    assert seerdb.clones(url, store_options=options) == []
