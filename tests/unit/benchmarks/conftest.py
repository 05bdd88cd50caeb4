"""The benchmarks wait until their process leaves the processor alone. This one never quite does:
timers of databases that other tests have left open look at clocks that stand still."""

from __future__ import annotations

import pytest

from benchmarks import processes


@pytest.fixture(autouse=True)
def quiet_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_QUIET_SHARE", 0.5)
