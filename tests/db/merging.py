"""A database with a merge operator, and what all its kinds of read must say alike."""

from __future__ import annotations

from typing import Any

from seerdb import DB
from tests.fixtures.database import ROOMY, World


def int64(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)


def opened(operator: str = "append", **settings: Any) -> tuple[World, DB]:
    world = World(**{**ROOMY, "merge_operator": operator, **settings})
    return world, world.open()


def tables(db: DB) -> list[Any]:
    return db._engine.manifest.state.version.tables


def everywhere(db: DB, expected: bytes | None) -> None:
    """Every kind of read says the same."""
    assert db.get(b"k") == expected
    assert db.multi_get([b"k"]) == [expected]
    rows = [] if expected is None else [(b"k", expected)]
    assert list(db.scan(b"k", b"l")) == rows
    assert list(db.scan(b"k", b"l", reverse=True)) == rows
    with db.snapshot() as snapshot:
        assert snapshot.get(b"k") == expected
        assert list(snapshot.scan(b"k", b"l")) == rows
