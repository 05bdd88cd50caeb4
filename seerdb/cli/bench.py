"""``seerdb bench``: how long an operation takes here, one at a time.

One client that waits for each answer measures latency; what a server can take from many at once
is the business of ``benchmarks/`` in the source tree.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Protocol

import typer

from seerdb.cli.arguments import Json
from seerdb.cli.client import KEYS_TARGET, Client, key_target, with_query
from seerdb.cli.output import print_json, print_table, progress_bar
from seerdb.clock import Clock, SystemClock
from seerdb.db import DB
from seerdb.options import without_user

SEED = 1
PREFIX = b"seerdb-bench/"
PROGRESS_STEP = 100


class Store(Protocol):
    """What is measured."""

    def put(self, key: bytes, value: bytes) -> object:
        """Write a key."""

    def get(self, key: bytes) -> object:
        """Read a key."""

    def flush(self) -> object:
        """Bring what was put into tables."""

    def scan(self) -> int:
        """Read all that was put; how many keys there were."""


class Embedded:
    """A database in this process."""

    def __init__(self, db: DB) -> None:
        self._db = db
        self.put, self.get, self.flush = db.put, db.get, db.flush

    def scan(self) -> int:
        """See :class:`Store`."""
        return sum(1 for _ in self._db.scan(prefix=PREFIX))


class Remote:
    """A server. Its data is left as it was, except for keys that begin with ``PREFIX``."""

    def __init__(self, client: Client, durability: str) -> None:
        self._client = client
        self._query = {"durability": durability}

    def put(self, key: bytes, value: bytes) -> None:
        """See :class:`Store`."""
        self._client.request("PUT", with_query(key_target(key), self._query), content=value)

    def get(self, key: bytes) -> None:
        """See :class:`Store`."""
        self._client.request("GET", key_target(key))

    def flush(self) -> None:
        """See :class:`Store`."""
        self._client.request("POST", "/v1/admin/flush", reply_seconds=None)

    def scan(self) -> int:
        """See :class:`Store`."""
        return sum(block.count(b"\n") for block in self._client.scan({"prefix": PREFIX}))

    def clear(self) -> None:
        """Remove what the measurement wrote."""
        self._client.request("DELETE", with_query(KEYS_TARGET, {"prefix": PREFIX}))


@dataclass(frozen=True)
class Result:
    """An operation, how often a second, and how long one took, in microseconds."""

    operation: str
    count: int
    per_second: int
    p50_us: float | None = None
    p99_us: float | None = None
    max_us: float | None = None


def bench(
    *,
    count: Annotated[int, typer.Option(min=1, help="How many keys.")] = 10_000,
    value_size: Annotated[int, typer.Option(min=0, help="Bytes of a value.")] = 100,
    durability: Annotated[
        str, typer.Option(metavar="LEVEL", help="What each put waits for.")
    ] = "local",
    directory: Annotated[
        str | None,
        typer.Option(
            "--dir",
            help="Where to make the temporary database. A disk in memory, as /tmp may be, "
            "flatters puts.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Measure this server instead; includes the client's own time."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure put, get and scan, one operation at a time, on a temporary database of its own.

    Puts are new keys in random order; gets and the scan come after a flush, so they read tables
    through the caches. Against a server, keys that begin with seerdb-bench/ are written, and
    removed at the end."""
    with _opened(url, directory, durability) as (store, where):
        results = _measure(store, count, value_size, SystemClock())
    if as_json:
        print_json({"where": where, "results": [asdict(result) for result in results]})
        return
    print(f"{where}; {count:,} keys with values of {value_size:,} bytes, durability {durability}")
    columns = ("operation", "count", "per second", "p50 µs", "p99 µs", "max µs")
    print_table(columns, [tuple(asdict(result).values()) for result in results])


@contextmanager
def _opened(url: str | None, directory: str | None, durability: str) -> Iterator[tuple[Store, str]]:
    if url is not None:
        with Client(url) as client:
            remote = Remote(client, durability)
            remote.clear()
            try:
                yield remote, without_user(url)
            finally:
                remote.clear()
        return
    with (
        tempfile.TemporaryDirectory(prefix="seerdb-bench-", dir=directory) as home,
        DB.open(home, durability=durability, min_free_disk=0) as db,
    ):
        yield Embedded(db), f"embedded, in {home}"


def _measure(store: Store, count: int, value_size: int, clock: Clock) -> list[Result]:
    chance = random.Random(SEED)
    keys = [PREFIX + b"%012d" % number for number in range(count)]
    chance.shuffle(keys)
    value = chance.randbytes(value_size)
    with progress_bar("operations") as bar:
        task = bar.add_task("put", total=count)

        def tell(done: int) -> None:
            bar.update(task, completed=done)

        puts = _timed("put", keys, lambda key: store.put(key, value), clock, tell)
        store.flush()
        chance.shuffle(keys)
        bar.update(task, description="get")
        gets = _timed("get", keys, store.get, clock, tell)
    started = clock.monotonic()
    rows = store.scan()
    seconds = clock.monotonic() - started
    return [puts, gets, Result("scan", rows, round(rows / seconds))]


def _timed(
    operation: str,
    keys: list[bytes],
    call: Callable[[bytes], object],
    clock: Clock,
    tell: Callable[[int], None],
) -> Result:
    """Each call timed by itself; the rate is of the calls alone."""
    times = []
    now = clock.monotonic
    for done, key in enumerate(keys, 1):
        started = now()
        call(key)
        times.append(now() - started)
        if done % PROGRESS_STEP == 0:
            tell(done)
    times.sort()
    p50, p99 = (times[len(times) * share // 100] for share in (50, 99))
    micros = [round(seconds * 1e6, 1) for seconds in (p50, p99, times[-1])]
    return Result(operation, len(times), round(len(times) / sum(times)), *micros)
