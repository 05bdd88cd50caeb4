"""What a server asked of its bucket, by its own count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.costs import MONTH_SECONDS
from benchmarks.servers.seerdb import SeerDBServer


@dataclass(frozen=True)
class Requests:
    """Counters by purpose and operation, as in the status."""

    rows: dict[tuple[str, str], dict[str, Any]]

    @classmethod
    def of(cls, server: SeerDBServer) -> Requests:
        """Of a server, since its start."""
        rows = server.status()["store_requests"]
        return cls({(row["purpose"], row["operation"]): row for row in rows})

    def since(self, before: Requests) -> dict[str, float]:
        """How many came on top of ``before``, by kind, where any did."""
        more = {
            "_".join(kind): row["requests"] - before.rows.get(kind, {"requests": 0})["requests"]
            for kind, row in self.rows.items()
        }
        return {kind: float(count) for kind, count in more.items() if count}

    def total(self, name: str) -> float:
        """The sum of one counter."""
        return float(sum(row[name] for row in self.rows.values()))


def seconds_each(requests: Requests, purpose: str, operation: str) -> float:
    """What a request of one kind took on average; 0 where there was none."""
    row = requests.rows.get((purpose, operation))
    return row["seconds"] / row["requests"] if row else 0.0


def dollars_a_month(before: Requests, after: Requests, seconds: float) -> float:
    """What the requests of so many seconds come to if all months go on like that."""
    return (after.total("dollars") - before.total("dollars")) * MONTH_SECONDS / seconds
