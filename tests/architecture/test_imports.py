"""The import contracts of pyproject.toml hold."""

from __future__ import annotations

import pytest
from importlinter import cli

from tests.architecture.source import ROOT


def test_every_import_points_downwards(capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.lint_imports(
        config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True
    )
    assert status == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out
