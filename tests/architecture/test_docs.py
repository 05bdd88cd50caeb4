"""The documents tell the truth: nothing is missing, stale, or broken."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest

import seerdb
from docs import generate
from seerdb import errors
from seerdb.options import SETTING_NAMES
from tests.architecture.source import ROOT, name_of, python_files

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(page for name in ("docs", "infra") for page in (ROOT / name).rglob("*.md")),
    ]
)
ERRORS = [
    name
    for name, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, errors.SeerDBError)
]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.MULTILINE)
_MAKE = re.compile(r"(?:^|`)(?:[A-Z_]+=\S+ )*make ([a-z][a-z0-9]*)", re.MULTILINE)


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _prose(page: Path) -> str:
    return _FENCE.sub("", _text(page))


def _anchors(page: Path) -> set[str]:
    """The anchors that renderers of Markdown give to the headings of ``page``."""
    headings = _HEADING.findall(_prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_table_of_settings_is_up_to_date() -> None:
    page = _text(generate.PAGE)
    assert page == generate.updated(page), "run `make docs`"


@pytest.mark.parametrize("setting", SETTING_NAMES)
def test_every_setting_is_explained(setting: str) -> None:
    [row] = re.findall(rf"^\| `{setting}` \|.*\|$", _text(generate.PAGE), re.MULTILINE)
    default, allowed, meaning = [cell.strip() for cell in row.split(" | ")[1:4]]
    assert all((default, allowed, meaning.strip(" |")))


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_explained(error: str) -> None:
    assert f"`{error}`" in _text(ROOT / "docs" / "errors.md")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in _LINK.findall(_prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken, f"{name_of(page)}: {broken}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_rows_of_tables_follow_a_head(page: Path) -> None:
    """Renderers show a row that follows an empty line as plain text."""
    blocks = re.split(r"\n\s*\n", _prose(page))
    tables = [
        block[block.index("|") :] for block in blocks if re.search(r"^\|", block, re.MULTILINE)
    ]
    assert not [table for table in tables if not re.match(r"\|.*\|\n\|[ :|-]+\|(\n|$)", table)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_in_the_documents_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", _text(ROOT / "Makefile"), re.MULTILINE))
    assert set(_MAKE.findall(_text(page))) <= targets


def test_the_tour_visits_every_module() -> None:
    tour = _text(ROOT / "docs" / "architecture.md")
    modules = [
        name_of(file)
        for file in python_files("seerdb", "api")
        if file.parent.name not in {"cli", "routes", "testing"} and file.stem != "__init__"
    ]
    assert not [name for name in modules if name.rsplit("/", 1)[1] not in tour]
    visited = set(re.findall(r"`(?:[a-z_]+/)*([a-z_]+\.py)`", tour))
    assert visited <= {file.name for file in python_files("seerdb", "api")}


def test_every_decision_is_listed_in_order() -> None:
    decisions = sorted(file.name for file in (ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert [int(name[:4]) for name in decisions] == list(range(len(decisions)))
    assert _LINK.findall(_text(ROOT / "docs" / "adr" / "README.md")) == decisions


def test_the_changelog_starts_with_this_version() -> None:
    version = tomllib.loads(_text(ROOT / "pyproject.toml"))["project"]["version"]
    [newest, *_] = re.findall(r"^## \[?([0-9][^\]\s]*)", _text(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert newest == version == seerdb.__version__


def _examples() -> list[str]:
    blocks = _FENCE.findall(_text(ROOT / "README.md"))
    return [body for language, body in blocks if language == "python"]


@pytest.mark.parametrize("number", range(len(_examples())))
def test_the_python_examples_of_the_readme_run(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(_examples()[number], f"README.md, example {number}", "exec"), {})


def test_the_layers_for_contributors_exist() -> None:
    """They named modules that had long been split, and one that was gone."""
    page = _text(ROOT / "CONTRIBUTING.md")
    rows = re.findall(r"^    (?:the|bytes and) .*?   +(.*)$", page, re.MULTILINE)
    named = [name for row in rows for name in row.removesuffix(" …").split(", ")]
    storage = ROOT / "seerdb" / "storage"
    assert len(named) > 10
    assert [
        name
        for name in named
        if not (storage / name).is_dir() and not (storage / f"{name}.py").exists()
    ] == []
