"""The index of scenarios names tests that exist, and every test that is about a bug."""

from __future__ import annotations

import ast
import re

import pytest

from tests.architecture.source import ROOT, functions, name_of, parse, python_files

INDEX = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", INDEX)))

_BUG = re.compile(r"\b[SALWP]B-\d\d\b")
_ROW = re.compile(r"^\| ([SALWP]B-\d\d) \|.*$", re.MULTILINE)


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_test_that_the_index_names_exists(path: str, name: str) -> None:
    file = ROOT / "tests" / path
    assert file.exists(), f"there is no tests/{path}"
    assert name.startswith("test_")
    assert name in {function.name for function in functions(file)}


def test_the_index_lists_every_test_that_is_about_a_bug() -> None:
    listed = {(bug, path, name) for bug, path, name in _listed()}
    missing = [found for found in _told() if found not in listed]
    assert not missing, f"docs/testing.md does not list {missing}"


def _listed() -> list[tuple[str, str, str]]:
    rows = [(match[1], match[0]) for match in _ROW.finditer(INDEX)]
    return [(bug, *test) for bug, row in rows for test in re.findall(r"`([\w/]+\.py)::(\w+)`", row)]


def _told() -> list[tuple[str, str, str]]:
    """Bug, file and test, of the tests whose docstring or module's docstring names a bug."""
    found = []
    for file in python_files("tests"):
        module = ast.get_docstring(parse(file)) or ""
        for function in functions(file):
            if function.name.startswith("test_"):
                said = f"{module} {ast.get_docstring(function) or ''}"
                path = name_of(file).removeprefix("tests/")
                found += [(bug, path, function.name) for bug in _BUG.findall(said)]
    return found
