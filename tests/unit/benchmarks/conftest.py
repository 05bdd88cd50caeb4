"""What the tests of benchmarks share."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest


@pytest.fixture
def command() -> ModuleType:
    """``python -m benchmarks``, where what it draws with is installed."""
    pytest.importorskip("matplotlib")
    return import_module("benchmarks.__main__")
