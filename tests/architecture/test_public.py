"""What `import seerdb` offers is listed and documented (and sorted, which ruff sees to)."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

import seerdb

PUBLIC = list(seerdb.__all__)


def test_all_is_complete() -> None:
    offered = {
        name
        for name, value in vars(seerdb).items()
        if not name.startswith("_") and name != "annotations" and not isinstance(value, ModuleType)
    }
    assert sorted(offered) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(seerdb, name)
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return
    assert inspect.getdoc(value), f"seerdb.{name} has no docstring"
    if inspect.isclass(value):
        undocumented = [
            member
            for member, function in inspect.getmembers(value, _is_documented_member)
            if not member.startswith("_")
            and function.__module__.startswith("seerdb")
            and not inspect.getdoc(function)
        ]
        assert not undocumented, f"seerdb.{name} does not explain {undocumented}"


def _is_documented_member(value: object) -> bool:
    return inspect.isfunction(value)
