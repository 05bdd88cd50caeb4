"""Requests, not time: what reads ask of the bucket when next to nothing is in memory.

``keys`` pairs are ingested as one sorted run, or found there from the run before. Then, with a
block cache of a few MiB and no disk cache: gets of stored keys, gets of missing ones and scans of
a hundred rows, each anywhere in the database and each cold. And, with the default caches, hot
gets, beside those of a database of 200,000 keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event as Flag
from time import process_time
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from benchmarks.report import print_circumstances
from benchmarks.results import Results, Sample, median
from seerdb import DB, Components, Event
from seerdb.events import WarmedUp

COLD = "cold"
SMALL_KEYS = 200_000
CACHE = 8 << 20
READS, SCANS, ROWS = 1_000, 200, 100
HOT_KEYS, HOT_GETS, HOT_ROUNDS = 2_000, 200_000, 5
WARM_SECONDS = 600.0
GET, MISSING, SCAN, HOT = "cold get", "missing key", "scan of 100 rows", "hot get"
GOALS = {GET: 1.0, MISSING: 0.05, SCAN: 2.0, HOT: 2.0}
"""Requests for each at most (of a scan, the most of any), for a missing key what filters are wrong
about; of a hot get the time as a multiple of that with 200,000 keys."""

_MULTIPLIER = 0x9E3779B97F4A7C15
"""Odd, so that its multiples are different modulo a power of two, and far apart."""
_NOISE = 1 << 20
_RANDOM_PART = 50
_TEXT = b"and then fifty bytes that every value has in common"


@dataclass(frozen=True)
class Pairs:
    """``count`` pairs that need no memory: each follows from its number."""

    count: int
    noise: bytes = field(default_factory=lambda: Random(1).randbytes(_NOISE), repr=False)

    def key(self, number: int) -> bytes:
        """16 hexadecimal digits of an even number; the one behind it is missing."""
        return b"%016x" % (number * _MULTIPLIER % (1 << 63) << 1)

    def missing(self, number: int) -> bytes:
        """A key that is not there, right behind one that is."""
        return b"%016x" % (number * _MULTIPLIER % (1 << 63) << 1 | 1)

    def value(self, number: int) -> bytes:
        """100 bytes, half of them random."""
        at = number * 61 % (_NOISE - _RANDOM_PART)
        return self.noise[at : at + _RANDOM_PART] + _TEXT[:50]

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        for number in range(self.count):
            yield self.key(number), self.value(number)


@dataclass(frozen=True)
class Place:
    """Where a database is, and the settings that say where its bucket is."""

    directory: Path
    settings: dict[str, Any]

    def open(self, **settings: Any) -> DB:
        """Open it, and wait until it has brought in what it does after an opening."""
        warm = Flag()

        def listen(event: Event) -> None:
            if isinstance(event, WarmedUp):
                warm.set()

        given = self.settings | {"min_free_disk": 0} | settings
        db = DB.open(str(self.directory), components=Components(listener=listen), **given)
        if db.statistics().tables and not warm.wait(WARM_SECONDS):
            raise TimeoutError(f"{self.directory} did not warm up in {WARM_SECONDS:.0f} s")
        return db

    def fill(self, pairs: Pairs) -> None:
        """Make sure that it holds just ``pairs``. Raises: ``ValueError`` if it holds others."""
        with self.open() as db:
            found = db.statistics().table_entries
            if not found:
                db.ingest(pairs)
            elif found != pairs.count:
                raise ValueError(f"{self.directory} holds {found:,} keys, not {pairs.count:,}")


def measure_cold(
    place: Place, small: Place, keys: int, tag: str, progress: Callable[[str], None]
) -> Results:
    """Count and time, at ``keys`` keys in ``place`` and, for hot gets, 200,000 in ``small``."""
    settings = {"keys": keys, "block_cache_capacity": CACHE}
    results = Results(COLD, tag, describe_machine(place.directory), settings)
    pairs = Pairs(keys)
    progress(f"{keys:,} keys into {place.directory}")
    place.fill(pairs)
    progress("counting")
    (place.directory / "cache" / "HOT").unlink(missing_ok=True)  # what it would bring in
    with place.open(block_cache_capacity=CACHE, disk_cache_capacity=0) as db:
        results.add(_counts(db, pairs))
    few = Pairs(min(keys, SMALL_KEYS))
    small.fill(few)
    times: dict[str, list[float]] = {"": [], "few": []}
    with place.open() as many_db, small.open() as few_db:
        for number in range(HOT_ROUNDS):
            progress(f"hot gets: round {number + 1} of {HOT_ROUNDS}")
            times[""].append(_hot_get(many_db, pairs))
            times["few"].append(_hot_get(few_db, few))
    samples = [
        Sample(COLD, HOT, "seerdb", None, "x", a / b, HOT_GETS, {"us": a, "us_at_200k": b})
        for a, b in zip(times[""], times["few"], strict=True)
    ]
    results.measurements.append(median(samples))
    return results


def _counts(db: DB, pairs: Pairs) -> Iterator[Sample]:
    random = Random(1)
    numbers = random.sample(range(pairs.count), READS)
    yield _counted(db, GET, READS, lambda n: db.get(pairs.key(numbers[n]), fill_cache=False))
    yield _counted(
        db, MISSING, READS, lambda n: db.get(pairs.missing(numbers[n]), fill_cache=False)
    )
    yield _counted(db, SCAN, SCANS, lambda n: list(_scan(db, pairs, numbers[n])))


def _scan(db: DB, pairs: Pairs, number: int) -> Iterator[tuple[bytes, bytes]]:
    return db.scan(pairs.key(number), limit=ROWS, fill_cache=False)


def _counted(db: DB, case: str, count: int, read: Callable[[int], object]) -> Sample:
    """The mean number of requests a read; for scans, where it is the goal, the most."""
    made = []
    before = _requests(db)
    for number in range(count):
        read(number)
        after = _requests(db)
        made.append(after - before)
        before = after
    mean, most = sum(made) / count, float(max(made))
    detail = {"mean": mean, "most": most, "runs": float(db.statistics().runs)}
    return Sample(COLD, case, "seerdb", None, "GETs", most if case == SCAN else mean, count, detail)


def _requests(db: DB) -> int:
    """Ranged GETs of reads since the opening."""
    rows = db.statistics().store_requests
    return sum(r.requests for r in rows if (r.purpose, r.operation) == ("read", "get_range"))


def _hot_get(db: DB, pairs: Pairs) -> float:
    """Microseconds of processor time a get, out of a small hot set."""
    random = Random(2)
    hot = [random.randrange(pairs.count) for _ in range(HOT_KEYS)]
    keys = [pairs.key(number) for number in random.choices(hot, k=HOT_GETS)]
    get = db.get
    for key in keys:
        if get(key) is None:
            raise AssertionError(f"{key!r} is not there")
    started = process_time()
    for key in keys:
        get(key)
    return 1e6 * (process_time() - started) / HOT_GETS


def missed(results: Results) -> list[str]:
    """The cases that are above their goals."""
    return [m.case for m in results.measurements if m.value > GOALS[m.case]]


def print_cold(console: Console, results: Results) -> None:
    """What was counted, beside the goals."""
    table = Table(title=f"{results.settings['keys']:,} keys, cold", title_justify="left")
    for name in ("case", "measured", "goal", "detail"):
        table.add_column(name)
    for found in results.measurements:
        detail = ", ".join(f"{name} {value:.3f}" for name, value in found.detail.items())
        verdict = "MISS" if found.case in missed(results) else "PASS"
        goal = f"<= {GOALS[found.case]:g} {verdict}"
        table.add_row(found.case, f"{found.value:.3f} {found.unit}", goal, detail)
    console.print(table)
    print_circumstances(console, results)
