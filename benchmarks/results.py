"""The record of a run: measurements with all their rounds, kept as one JSON file.

A measurement's ``value`` is the median of its rounds. Every unit but ``ms``, ``us`` and
``MiB`` is a rate, so more is better; but for kind ``compaction``, see ``simulator/simulate.py``.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from seerdb.clock import SystemClock

EMBEDDED = "embedded"
HTTP = "http"
REPLICATION = "replication"

RESULTS = Path(__file__).parent / "results"
_FORMAT = 1


@dataclass(frozen=True)
class Sample:
    """One round's outcome of one case on one engine or server."""

    suite: str
    case: str
    engine: str
    scale: int | None
    """Entries stored, for cases that are run at several; else ``None``."""
    unit: str
    value: float
    operations: int
    """How many were done; smaller than asked for where the engine is too slow."""
    detail: dict[str, float] = field(default_factory=dict)
    """What else was seen, such as ``p50_us`` and ``p99_us``."""


@dataclass(frozen=True)
class Measurement(Sample):
    """Medians over the rounds of one case on one engine or server."""

    rounds: list[float] = field(default_factory=list)
    """Every round's value, in order."""


@dataclass
class Results:
    """Everything one run found."""

    kind: str
    tag: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Engine or server that is not installed -> what is missing."""
    failed: dict[str, str] = field(default_factory=dict)
    """Engine or server that ended with an error -> what it wrote."""
    goals: list[dict[str, Any]] = field(default_factory=list)
    date: str = field(
        default_factory=lambda: datetime.fromtimestamp(SystemClock().now(), UTC).date().isoformat()
    )

    def add(self, samples: Iterable[Sample]) -> None:
        """Take in the medians of ``samples``, grouped by case, scale and engine."""
        groups: dict[tuple[object, ...], list[Sample]] = {}
        for sample in samples:
            key = (sample.suite, sample.case, sample.engine, sample.scale)
            groups.setdefault(key, []).append(sample)
        self.measurements += [median(group) for group in groups.values()]

    def find(
        self, case: str, engine: str, *, suite: str, scale: int | None = None
    ) -> Measurement | None:
        """The measurement of ``case`` on ``engine``, if there is one."""
        wanted = (suite, case, engine, scale)
        for found in self.measurements:
            if (found.suite, found.case, found.engine, found.scale) == wanted:
                return found
        return None

    def scales(self) -> list[int]:
        """Every number of entries that cases were run at, ascending."""
        return sorted({m.scale for m in self.measurements if m.scale is not None})

    def save(self, folder: Path = RESULTS) -> Path:
        """Write the file named after date, tag and kind; returns where it is."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.date}-{self.tag}-{self.kind}.json"
        path.write_text(json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a saved file. Raises: ``ValueError`` for a format this code does not know."""
        data = json.loads(path.read_text())
        if data.pop("format", None) != _FORMAT:
            raise ValueError(f"{path} is not a result file of format {_FORMAT}")
        measurements = [Measurement(**entry) for entry in data.pop("measurements")]
        return cls(**data, measurements=measurements)


def median(samples: list[Sample]) -> Measurement:
    """One measurement out of the rounds of one case."""
    names = {name for sample in samples for name in sample.detail}
    detail = {
        name: statistics.median(s.detail[name] for s in samples if name in s.detail)
        for name in sorted(names)
    }
    first = samples[0]
    values = [sample.value for sample in samples]
    return Measurement(
        first.suite,
        first.case,
        first.engine,
        first.scale,
        first.unit,
        statistics.median(values),
        first.operations,
        detail,
        values,
    )
