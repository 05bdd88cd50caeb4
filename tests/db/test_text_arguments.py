"""Strings of other types than ``str`` itself, and what is taken for text and is none."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seerdb
from seerdb import DB, InvalidRequestError


class Word(str, Enum):  # noqa: UP042 - one that is formatted as its name
    NAME = "name"
    APPEND = "append"
    INLINE = "inline"


@pytest.mark.parametrize("of", [np.str_, Word])
def test_any_string_is_taken_as_the_string_it_is(tmp_path: Path, of: Any) -> None:
    settings = {"merge_operator": of("append"), "background": of("inline")}
    with DB.open(tmp_path / "db", **settings) as db:
        assert db.options.merge_operator == "append"
        assert type(db.options.background) is str
        db.merge(b"k", b"1")
        assert [type(db.checkpoint(of("name")).name)] == [str]
        assert [each.name for each in db.checkpoints()] == ["name"]
        db.backup(str(tmp_path / "copies"), label=of("name"))
        db.drop_checkpoint(of("name"))
    [backup] = seerdb.recovery_points(str(tmp_path / "copies")).backups
    assert backup.label == "name"


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        ({"label": None}, "label must be a str.*None"),
        ({"label": 5}, "label must be a str.*5"),
        ({"label": b"name"}, "label must be a str"),
        ({"label": "\udc80"}, "lone surrogates"),
        ({"keep": "yes"}, "keep must be True or False, not 'yes'"),
        ({"full": 1}, "full must be True or False, not 1"),
    ],
)
def test_a_backup_that_nothing_could_read_is_not_made(
    tmp_path: Path, wish: dict[str, Any], complaint: str
) -> None:
    """It was reported as a success."""
    copies = tmp_path / "copies"
    with DB.open(tmp_path / "db", background="inline") as db:
        db.put(b"k", b"1")
        for make in (db.backup, db.start_backup):
            with pytest.raises(InvalidRequestError, match=complaint):
                make(str(copies), **wish)
        with pytest.raises(InvalidRequestError, match=complaint):
            seerdb.backup(str(tmp_path / "db" / "bucket"), str(copies), **wish)
    assert not copies.exists()
