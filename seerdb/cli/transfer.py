"""``seerdb dump`` and ``seerdb load``: a whole database, or a range, into a file and back.

Through a server, or, where there is none, in a data directory. The formats are in ``formats.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import msgspec
import typer

from seerdb.cli.arguments import DEFAULT_URL, Config, DataDir, Durability, Hex, Json, Store, Url
from seerdb.cli.client import Client, fits_path, key_target, with_query
from seerdb.cli.directory import demand_database, open_directory
from seerdb.cli.formats import Format, Pair, Source, encoder_for, gathered
from seerdb.cli.keys import End, Item, Prefix, Start, range_query
from seerdb.cli.output import item, print_json, progress_bar
from seerdb.cli.serve import load_settings
from seerdb.clock import Clock, SystemClock
from seerdb.errors import (
    BusyError,
    CorruptionError,
    InvalidRequestError,
    SeerDBError,
)
from seerdb.options import Options
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.read.rows import Entry

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

BATCH_OPERATIONS = 1000
BATCH_BYTES = 1 << 20
"""Of keys and values in one batch; a larger value travels alone, where a path holds its key as it
is."""
PATIENCE_SECONDS = 60.0
"""How long a busy server is asked again before the command gives up."""
PROGRESS_EVERY = 1000
"""Entries from one look at the progress bar to the next."""

STDIO = "-"


def dump(  # noqa: PLR0913 - an argument for each option
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="Where to; - is stdout.")] = STDIO,
    *,
    form: Annotated[
        Format, typer.Option("--format", help="Lines of JSON, or smaller and faster.")
    ] = Format.JSON,
    prefix: Prefix = None,
    start: Start = None,
    end: End = None,
    as_hex: Hex = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    data_dir: DataDir = None,
    store: Store = None,
    config: Config = None,
) -> None:
    """Write all keys and values, or a range, all of one moment, as lines of JSON or binary.

    A FILE gets its name when it is complete. --json is about the summary, which a FILE has."""
    query = range_query(prefix, start, end, as_hex=as_hex)
    _check_place(data_dir, store)
    parts = (
        _parts_from_server(url, query, form)
        if data_dir is None
        else _parts_from_directory(data_dir, _options(data_dir, store, config), query, form)
    )
    entries = written = 0
    with closing(parts), _output(file) as output, progress_bar("bytes") as bar:
        task = bar.add_task("dumping", total=None)
        for count, part in parts:
            output.write(part)
            entries += count
            written += len(part)
            bar.update(task, completed=written)
    if file != STDIO:
        _print_summary("dumped", {"entries": entries, "bytes": written}, as_json=as_json)


def load(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="Where from; - is stdin.")] = STDIO,
    *,
    durability: Durability = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    data_dir: DataDir = None,
    store: Store = None,
    config: Config = None,
) -> None:
    """Put what a dump holds, in either format, or any lines of JSON with a key and a value each.

    Through a server it goes in batches, so a failure leaves what came before it, and says how
    much that is. With --data-dir all of it comes into effect in one step, or nothing does. Loading
    the same again does no harm."""
    _check_place(data_dir, store)
    if data_dir is not None and durability is not None:
        raise InvalidRequestError(
            "--durability goes with a server; --data-dir waits for the bucket"
        )
    with _input(file) as stream, progress_bar("bytes") as bar:
        source = Source(stream, "standard input" if file == STDIO else file)
        size = Path(file).stat().st_size if file != STDIO else None
        rest = None if data_dir is None else "making tables"
        pairs = _watched(source, bar, bar.add_task("loading", total=size), rest)
        summary = (
            _load_into_server(pairs, url, durability)
            if data_dir is None
            else _load_into_directory(pairs, data_dir, _options(data_dir, store, config))
        )
    _print_summary("loaded", summary | {"bytes": source.size}, as_json=as_json)


def _check_place(data_dir: str | None, store: str | None) -> None:
    if store is not None and data_dir is None:
        raise InvalidRequestError("--store goes with --data-dir")


def _options(data_dir: str, store: str | None, config: str | None) -> Options:
    return load_settings(config, data_dir=data_dir, store=store).options


Parts = Generator[tuple[int, bytes], None, None]
"""Of a dump: how many entries each holds, and its bytes."""


def _parts_from_server(url: str, query: dict[str, bytes], form: Format) -> Parts:
    with Client(url) as client:
        blocks = client.scan({**query, "fill_cache": "false"})
        if form is Format.JSON:
            for block in blocks:
                yield block.count(b"\n"), block
        else:
            decode = msgspec.json.Decoder(Item).decode_lines
            items = chain.from_iterable(map(decode, blocks))
            yield from _encoded((Entry(i.key_bytes, i.value_bytes, i.seq) for i in items), form)


def _parts_from_directory(
    data_dir: str, options: Options, bounds: dict[str, Any], form: Format
) -> Parts:
    demand_database(data_dir, options)
    with open_directory(data_dir, options) as database:
        yield from _encoded(database.scan_entries(**bounds, fill_cache=False), form)


def _encoded(entries: Iterable[Entry], form: Format) -> Parts:
    encoder = encoder_for(form)
    yield 0, encoder.start()
    for some in gathered(entries):
        yield len(some), encoder.entries(some)
    yield 0, encoder.end()


def _watched(source: Source, bar: Progress, task: TaskID, rest: str | None) -> Iterator[Pair]:
    """The pairs of ``source``; the bar is told how far that is, and the ``rest`` of the work after
    the last of them, whose end nobody knows."""
    for number, pair in enumerate(source):
        if number % PROGRESS_EVERY == 0:
            bar.update(task, completed=source.size)
        yield pair
    bar.update(task, completed=source.size)
    if rest is not None:
        bar.remove_task(task)
        bar.add_task(rest, total=None, completed=source.size)


def _load_into_directory(pairs: Iterable[Pair], data_dir: str, options: Options) -> dict[str, Any]:
    with open_directory(data_dir, options) as database:
        try:
            report = database.ingest(pairs)
        except (CorruptionError, InvalidRequestError) as error:
            error.add_note("nothing was changed")
            raise
    return {"entries": report.entries, "seq": report.seq, "tables": report.tables}


def _load_into_server(pairs: Iterable[Pair], url: str, durability: str | None) -> dict[str, Any]:
    with Client(url) as client:
        loader = _Loader(client, durability, SystemClock())
        try:
            for key, value in pairs:
                loader.add(key, value)
            loader.flush()
        except SeerDBError as error:
            error.add_note(f"{loader.entries:,} entries were loaded before that")
            raise
    return {"entries": loader.entries}


class _Loader:
    """Gathers pairs into batches and commits them."""

    def __init__(self, client: Client, durability: str | None, clock: Clock) -> None:
        self.entries = 0
        """Committed."""
        self._client = client
        self._durability = durability
        self._clock = clock
        self._batch: list[dict[str, Any]] = []
        self._batch_bytes = 0

    def add(self, key: bytes, value: bytes) -> None:
        """Take a pair."""
        size = len(key) + len(value)
        if size > BATCH_BYTES:
            self.flush()
            if fits_path(key):
                self._put(key, value)
                return
        self._batch.append({"op": "put", **item(key, value)})
        self._batch_bytes += size
        if len(self._batch) == BATCH_OPERATIONS or self._batch_bytes > BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Commit what was gathered."""
        if self._batch:
            body = {"ops": self._batch, "durability": self._durability}
            self._send("POST", "/v1/batch", msgspec.json.encode(body))
            self.entries += len(self._batch)
            self._batch, self._batch_bytes = [], 0

    def _put(self, key: bytes, value: bytes) -> None:
        target = with_query(key_target(key), {"durability": self._durability})
        self._send("PUT", target, value)
        self.entries += 1

    def _send(self, method: str, target: str, content: bytes) -> None:
        """Send a request, again and again while the server is busy."""
        deadline = self._clock.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._client.request(method, target, content=content)
            except BusyError as error:
                if self._clock.monotonic() > deadline:
                    raise
                self._clock.sleep(error.retry_after_seconds)
            else:
                return


@contextmanager
def _output(file: str) -> Iterator[BinaryIO]:
    """Standard output; what is there and is no plain file, such as a pipe, as it is; or a file that
    gets its name when all of it is on the disk."""
    if file == STDIO:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    if path.exists() and not path.is_file():
        with path.open("wb") as output:
            yield output
        return
    path = path.resolve()  # a symbolic link stays one
    draft = path.with_name(f"{path.name}.{os.urandom(4).hex()}.partial")
    try:
        with draft.open("xb") as output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        draft.replace(path)
        OsFileSystem().sync_directory(str(path.parent))
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _input(file: str) -> Iterator[BinaryIO]:
    """Standard input or a file."""
    if file == STDIO:
        yield sys.stdin.buffer
        return
    with Path(file).open("rb") as source:
        yield source


def _print_summary(verb: str, summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(summary)
    else:
        print(f"{verb} {summary['entries']:,} entries, {summary['bytes']:,} bytes")
