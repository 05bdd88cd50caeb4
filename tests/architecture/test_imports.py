"""The import contracts of pyproject.toml hold."""

from __future__ import annotations

import subprocess
import sys

import pytest
from importlinter import cli

from tests.architecture.source import ROOT


def test_every_import_points_downwards(capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.lint_imports(
        config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True
    )
    assert status == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_a_worker_process_does_not_import_the_command_line() -> None:
    """It imports the script that started its parent, with the module that the script names."""
    code = "import sys, seerdb.__main__; print('typer' in sys.modules, 'seerdb.cli' in sys.modules)"
    imported = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert imported.stdout == "False False\n"


def test_the_command_runs_as_a_module() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "seerdb", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "serve" in shown.stdout
