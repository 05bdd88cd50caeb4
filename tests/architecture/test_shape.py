"""Size limits, forbidden names, and what ruff's ban list cannot see."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.source import Function, code_lines, functions, name_of, parse, python_files

PRODUCTION = ("seerdb", "api")
SCRIPTS = ("benchmarks", "docs", "infra")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_P90_FUNCTION_LINES = 30
MAX_METHODS = 25
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "common", "misc"}
OPENS_FILES = {"seerdb/storage/local/os_files.py", "seerdb/storage/object_store/local_store.py"}

ALL_FILES = python_files(*PRODUCTION, *SCRIPTS, "tests")


@pytest.mark.parametrize("file", ALL_FILES, ids=name_of)
def test_a_file_is_one_noun_or_verb_and_short(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, (
        f"{name_of(file)} has {lines} lines; split it by what it is about"
    )


@pytest.mark.parametrize("file", ALL_FILES, ids=name_of)
def test_no_function_is_long(file: Path) -> None:
    long = {
        function.name: code_lines(function)
        for function in functions(file)
        if code_lines(function) > MAX_FUNCTION_LINES
    }
    assert not long, f"{name_of(file)}: over {MAX_FUNCTION_LINES} lines without docstring: {long}"


def test_nine_of_ten_functions_are_very_short() -> None:
    lengths = sorted(code_lines(f) for file in python_files(*PRODUCTION) for f in functions(file))
    p90 = lengths[len(lengths) * 9 // 10]
    assert p90 <= MAX_P90_FUNCTION_LINES, f"the 90th percentile of functions has {p90} lines"


@pytest.mark.parametrize("file", ALL_FILES, ids=name_of)
def test_no_class_offers_everything(file: Path) -> None:
    large = {
        node.name: methods
        for node in ast.walk(parse(file))
        if isinstance(node, ast.ClassDef) and (methods := _methods(node)) > MAX_METHODS
    }
    assert not large, f"{name_of(file)}: over {MAX_METHODS} public methods: {large}"


def _methods(node: ast.ClassDef) -> int:
    """How many public methods a class has; properties are data."""
    members = [member for member in node.body if isinstance(member, Function)]
    names = {member.name for member in members if not _is_property(member)}
    return sum(not name.startswith("_") for name in names)


def _is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "property" for d in function.decorator_list)


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = [
        name_of(file)
        for file in ALL_FILES
        if FORBIDDEN_NAMES & {file.stem.strip("_"), file.parent.name.strip("_")}
    ]
    assert not drawers, f"call them by what they hold: {drawers}"


def test_storage_opens_files_only_behind_its_ports() -> None:
    offenders = [
        f"{name_of(file)}:{node.lineno}"
        for file in python_files("seerdb/storage")
        if name_of(file) not in OPENS_FILES
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Call) and _opens_a_file(node.func)
    ]
    assert not offenders, f"go through FileSystem or ObjectStore: {offenders}"


def _opens_a_file(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id == "open"
    if not isinstance(function, ast.Attribute):
        return False
    if function.attr in {"read_bytes", "read_text", "write_bytes", "write_text"}:
        return True
    return (
        function.attr == "open"
        and isinstance(function.value, ast.Name)
        and function.value.id in {"os", "io", "builtins"}
    )


def test_the_library_has_one_colour() -> None:
    coloured = [
        f"{name_of(file)}:{function.lineno}"
        for file in python_files("seerdb")
        for function in functions(file)
        if isinstance(function, ast.AsyncFunctionDef)
    ]
    assert not coloured, f"nothing in seerdb/ is async: {coloured}"
