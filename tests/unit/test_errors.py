"""The tree of errors: what catches what, what they say, and that they travel."""

from __future__ import annotations

import inspect
import pickle

import pytest

import seerdb
from seerdb import errors
from seerdb.errors import (
    BusyError,
    ChecksumError,
    ClosedError,
    ConflictError,
    CorruptionError,
    DiskError,
    DiskFullError,
    FencedError,
    LockedError,
    PoisonedError,
    SeerDBError,
    TruncatedError,
    UnavailableError,
    UnsupportedFormatError,
    WorkerError,
)

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if cls.__module__ == errors.__name__
]


def test_one_class_catches_all_of_them() -> None:
    assert all(issubclass(cls, SeerDBError) for cls in CLASSES)
    assert not issubclass(SeerDBError, OSError | ValueError)


def test_all_of_them_are_public_and_documented() -> None:
    for cls in CLASSES:
        assert getattr(seerdb, cls.__name__) is cls
        assert cls.__name__ in seerdb.__all__
        assert cls.__name__ in (errors.__doc__ or "") or cls is SeerDBError
        assert cls.__doc__


@pytest.mark.parametrize(
    ("special", "general"),
    [
        (LockedError, ConflictError),
        (DiskFullError, DiskError),
        (FencedError, ClosedError),
        (PoisonedError, ClosedError),
        (ChecksumError, CorruptionError),
        (TruncatedError, CorruptionError),
        (UnsupportedFormatError, CorruptionError),
        (WorkerError, UnavailableError),
    ],
)
def test_the_special_is_caught_as_the_general(
    special: type[SeerDBError], general: type[SeerDBError]
) -> None:
    assert issubclass(special, general)


def test_corruption_says_what_where_and_what_to_do() -> None:
    error = ChecksumError(
        "checksum mismatch", name="tables/1.sst", offset=42, expected=1, found=2, hint="restore it"
    )
    assert str(error) == (
        "tables/1.sst at byte 42: checksum mismatch: expected 1, found 2 (restore it)"
    )
    assert str(CorruptionError("odd")) == "odd"
    assert str(CorruptionError("odd", name="a", offset=0)) == "a at byte 0: odd"
    assert str(TruncatedError("short", name="a", expected=0, found=3)) == (
        "a: short: expected 0, found 3"
    )


def test_busy_says_when_to_come_back() -> None:
    assert BusyError("slow down", retry_after_seconds=2.5).retry_after_seconds == 2.5


@pytest.mark.parametrize("cls", CLASSES)
def test_they_travel_between_processes(cls: type[SeerDBError]) -> None:
    """A job's error is raised again in the process that asked for it."""
    error: SeerDBError
    if issubclass(cls, CorruptionError):
        error = cls("what", name="n", offset=7, expected=b"a", found=b"b", hint="h")
    elif cls is BusyError:
        error = BusyError("what", retry_after_seconds=3.0)
    else:
        error = cls("what")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)
    assert vars(again) == vars(error)
