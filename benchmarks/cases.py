"""The names, sizes and records of the embedded cases; ``measure.py`` runs them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

BARE = "bare fdatasync"
"""What the lone durable put is compared with; it takes part in the rounds like an engine."""

BATCH_SIZE = 1_000
MULTI_GET_SIZE = 100
READS = 200_000
"""Most reads per read case."""

DURABLE_THREADS = (1, 16)
DURABLE_PUTS_PER_THREAD = 2_000
DURABLE_SECONDS = 10.0
"""A durable case ends at whichever of the two comes first."""

RECOVERY_ENTRIES = 200_000
"""Few enough for every engine to hold them in its log and memory, so all of it is replayed."""

IDLE_ENTRIES = 1_000_000
"""Written before it, enough for a tree that was merged."""

IDLE_SECONDS = 60.0
"""How long the idle case watches."""

LOAD_CASES = ("put", "batch_put")
GET_CASES = ("get_hot", "get_uniform", "get_missing")
READ_CASES = (*GET_CASES, "multi_get", "scan", "scan_reverse")
WHOLE_CASES = (*LOAD_CASES, "scan", "scan_reverse")
"""Cases that touch every entry once."""

SCALED_CASES = (*LOAD_CASES, "reopen", *READ_CASES)
"""Cases that are run at every number of entries."""

DURABLE_CASES = tuple(f"durable_put_{threads}" for threads in DURABLE_THREADS)
COMPACT = "compact"
COMPACT_PROCESS = "compact_process"
INGEST_CASES = {"ingest_thread": "thread", "ingest_process": "process"}
"""Case -> where flush and compaction run in it."""
COST_IDLE = "cost_idle"
TREE_CASES = (COMPACT, COMPACT_PROCESS, *INGEST_CASES, COST_IDLE)
"""What a tree costs that is merged, grows for long, or rests. Minutes each, so only when asked
for, by sub-commands of their own."""

UNSCALED_CASES = (*DURABLE_CASES, "recovery", COST_IDLE)
"""Cases whose size is fixed; run once per round, whatever the numbers of entries."""

CASES = (*SCALED_CASES, *DURABLE_CASES, "recovery")
"""What the suite runs unless told otherwise."""


@dataclass(frozen=True)
class Task:
    """One process's work: ``cases`` of ``engine`` at ``entries``, in an empty directory."""

    engine: str
    entries: int
    cases: tuple[str, ...]
    directory: str
    seed: int = 1
    idle_seconds: float = IDLE_SECONDS

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Task:
        """The reverse of ``to_json``."""
        return cls(**{**data, "cases": tuple(data["cases"])})


@dataclass(frozen=True)
class Timing:
    """``operations`` of one case took ``seconds``; ``detail`` holds what else was seen."""

    case: str
    operations: int
    seconds: float
    detail: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
