"""What pyproject.toml declares and what the code imports are the same."""

from __future__ import annotations

import ast
import re
import sys
import tomllib

from tests.architecture.source import ROOT, parse, python_files

OURS = {"seerdb", "seerdb_api"}
IMPORTED_AS = {"prometheus-client": "prometheus_client"}
EXTRAS = {"distributed", "gcsfs"}
"""Imported where they are asked for only; a base install does without."""
COMES_WITH = {
    "anyio": "fastapi",
    "botocore": "boto3",
    "httptools": "uvicorn",
    "pydantic": "fastapi",
    "starlette": "fastapi",
    "tornado": "distributed",
}
"""Imported by us, and a declared part of the interface of another dependency."""
LOADED_BY_NAME = {"s3fs"}
"""fsspec finds its drivers by the protocol in the URL."""


def _declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w-]", line, maxsplit=1)[0] for line in project["dependencies"]}
    return {IMPORTED_AS.get(name, name) for name in names}


def _imported() -> set[str]:
    modules = set()
    for file in python_files("seerdb", "api", "infra"):
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module)
    return {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - OURS


def test_what_is_imported_is_declared() -> None:
    needed = {COMES_WITH.get(module, module) for module in _imported()}
    assert not needed - _declared() - EXTRAS


def test_what_is_declared_is_imported() -> None:
    assert not _declared() - _imported() - LOADED_BY_NAME
