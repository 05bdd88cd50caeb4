"""Writes the tables of settings in docs/configuration.md (``make docs``).

Names, defaults, bounds and meanings are written once, in seerdb/options.py and api/settings.py;
the page repeats them between marks, and a test compares.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from seerdb import options
from seerdb.options import Options
from seerdb_api.settings import ServiceSettings

PAGE = Path(__file__).with_name("configuration.md")

OUT_OF_BOUNDS = -(1 << 80)
"""A value no setting accepts, so that every check tells its bounds."""

_TABLE = re.compile(
    r"(<!-- settings of the (database|service): .*? -->\n).*?(<!-- end -->)", re.DOTALL
)


def updated(page: str) -> str:
    """``page`` with the tables between its marks made anew."""
    tables = {"database": _database_table(), "service": _service_table()}
    return _TABLE.sub(lambda mark: f"{mark[1]}{tables[mark[2]]}\n{mark[3]}", page)


def _database_table() -> str:
    lines = ["| setting | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for setting, default, meaning in _settings(Options):
        allowed = setting.metadata["check"](OUT_OF_BOUNDS)
        bounds = allowed.rsplit(", not ", 1)[0].removeprefix("must be ")
        lines.append(f"| `{setting.name}` | {default} | {bounds} | {meaning} |")
    return "\n".join(lines)


def _service_table() -> str:
    lines = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for setting, default, meaning in _settings(ServiceSettings):
        if setting.name != "options":
            lines.append(f"| `{setting.name}` | {default} | {meaning} |")
    return "\n".join(lines)


def _settings(owner: type) -> Iterator[tuple[Any, str, str]]:
    """Each field of a dataclass, its default as shown, and the docstring below it."""
    meanings = _meanings(owner)
    defaults = owner()
    for setting in fields(owner):
        yield setting, _shown(getattr(defaults, setting.name)), meanings[setting.name]


def _meanings(owner: type) -> dict[str, str]:
    """The docstring below each attribute of ``owner``, on one line, in Markdown."""
    [definition] = ast.parse(inspect.getsource(owner)).body
    assert isinstance(definition, ast.ClassDef)
    meanings = {}
    for attribute, text in itertools.pairwise(definition.body):
        match attribute, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str())):
                assert isinstance(text.value, ast.Constant)
                words = " ".join(str(text.value.value).split())
                meanings[name] = words.replace("``", "`").replace("|", "\\|")
    return meanings


def _shown(default: object) -> str:
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int) and default % options.KIB == 0 and default:
        return f"{default:,} ({_size(default)})"
    return f"`{default}`"


def _size(number: int) -> str:
    for unit, name in ((options.GIB, "GiB"), (options.MIB, "MiB")):
        if number % unit == 0:
            return f"{number // unit} {name}"
    return f"{number // options.KIB} KiB"


def main() -> int:
    """Write the page; 0."""
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
