"""What people get from `pip install`: our packages under our names, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.architecture.source import ROOT, name_of, python_files

BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "seerdb", "api")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    built = subprocess.run(
        [*command, "--no-index", "--wheel-dir", str(folder / "dist"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    [file] = (folder / "dist").glob("*.whl")
    return file


def test_the_wheel_holds_every_module_and_no_package_called_api(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    assert {name.split("/")[0] for name in files if ".dist-info/" not in name} == {
        "seerdb",
        "seerdb_api",
    }
    modules = {name_of(file) for file in python_files("seerdb")}
    modules |= {f"seerdb_{name_of(file)}" for file in python_files("api")}
    assert {name for name in files if name.endswith(".py")} == modules
    assert {"seerdb/py.typed", "seerdb_api/py.typed"} <= files


def test_the_wheel_carries_its_licence_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" in name]
        files = {name.split("/", 1)[1]: name for name in names}
        metadata = archive.read(files["METADATA"]).decode()
        commands = archive.read(files["entry_points.txt"]).decode()
        assert archive.read(files["licenses/LICENSE"]) == (ROOT / "LICENSE").read_bytes()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "seerdb = seerdb.__main__:main" in commands


def test_the_packages_of_the_wheel_import(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import seerdb, seerdb_api.app; print(seerdb.__file__, seerdb_api.__file__)"
    imported = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert imported.returncode == 0, imported.stderr
    assert [Path(path).parent.parent for path in imported.stdout.split()] == [tmp_path, tmp_path]
