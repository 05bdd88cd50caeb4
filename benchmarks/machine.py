"""What a result was measured on: hardware, system and versions; no host names, no paths."""

from __future__ import annotations

import gc
import os
import platform
import re
import shutil
import sqlite3
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "seerdb",
    "rocksdict",
    "plyvel",
    "lmdb",
    "slatedb",
    "crc32c",
    "msgspec",
    "sortedcontainers",
    "xxhash",
    "zstandard",
    "uvicorn",
    "uvloop",
    "httptools",
)
_PROGRAMS = {"etcd": "--version", "redis-server": "--version", "wrk": "--version"}


def describe_machine(work: Path) -> dict[str, Any]:
    """JSON values; ``work`` is the directory whose file system is written to."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(work.resolve()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gc": {"enabled": gc.isenabled(), "thresholds": list(gc.get_threshold())},
        "packages": {**_package_versions(), "sqlite3": sqlite3.sqlite_version},
        "programs": _program_versions(),
    }


def _cpu_model() -> str:
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return model[1] if model else platform.machine()


def _file_system(path: Path) -> str:
    """Type of the file system that holds ``path``: that of the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [(len(point), kind) for point, kind in mounts if path.is_relative_to(point)]
    return max(above)[1]


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


def _program_versions() -> dict[str, str]:
    versions = {}
    for program, flag in _PROGRAMS.items():
        path = shutil.which(program)
        if path is None:
            versions[program] = "absent"
            continue
        output = subprocess.run([path, flag], capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+(\.\d+)?", output.stdout + output.stderr)
        versions[program] = found[0] if found else "unknown"
    return versions


def source_version() -> str:
    """Short name of the commit that is checked out, ``-dirty`` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    here = Path(__file__).parent
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=here)
    return answer.stdout.strip() if answer.returncode == 0 else "uncommitted"
