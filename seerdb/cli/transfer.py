"""``seerdb dump`` and ``seerdb load``: a whole database, or a range, as lines of JSON.

A line is an item as HTTP has it: ``{"key":"a","value":"1","seq":7}``, with ``key_base64`` or
``value_base64`` for bytes that are not UTF-8. ``load`` does not need ``seq``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer
from msgspec import UNSET, UnsetType

from seerdb.cli.arguments import DEFAULT_URL, Durability, Hex, Json, Url
from seerdb.cli.client import Client, key_target, with_query
from seerdb.cli.keys import End, Prefix, Start, range_query
from seerdb.cli.output import print_json, progress_bar
from seerdb.clock import Clock, SystemClock
from seerdb.errors import BusyError, InvalidRequestError, SeerDBError

BATCH_OPERATIONS = 1000
BATCH_BYTES = 1 << 20
"""Of lines in one batch; a longer line travels alone, its value as it is."""
PATIENCE_SECONDS = 60.0
"""How long a busy server is asked again before the command gives up."""

STDIO = "-"


class Line(msgspec.Struct, tag_field="op", tag="put", forbid_unknown_fields=True):
    """A line that is loaded, and the operation that it becomes."""

    key: str | UnsetType = UNSET
    key_base64: bytes | UnsetType = UNSET
    value: str | UnsetType = UNSET
    value_base64: bytes | UnsetType = UNSET
    seq: int | UnsetType = UNSET

    def pair(self) -> tuple[bytes, bytes]:
        """Key and value. Raises: ``ValueError`` unless there is one of each."""
        return _one(self.key, self.key_base64), _one(self.value, self.value_base64)


def dump(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="Where to; - is stdout.")] = STDIO,
    *,
    prefix: Prefix = None,
    start: Start = None,
    end: End = None,
    as_hex: Hex = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Write all keys and values, or a range, as lines of JSON, all of one moment.

    A FILE gets its name when it is complete. --json is about the summary, which a FILE has."""
    query = range_query(prefix, start, end, as_hex=as_hex)
    entries = written = 0
    with Client(url) as client, _output(file) as output, progress_bar("bytes") as bar:
        task = bar.add_task("dumping", total=None)
        for block in client.scan(query):
            output.write(block)
            entries += block.count(b"\n")
            written += len(block)
            bar.update(task, completed=written)
    if file != STDIO:
        _print_summary("dumped", entries, written, as_json=as_json)


def load(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="Where from; - is stdin.")] = STDIO,
    *,
    durability: Durability = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Put what a dump holds: lines of JSON, each with a key and a value.

    Goes in batches, so a failure leaves what came before it, and says how much that is. Loading
    the same again does no harm."""
    with Client(url) as client, _input(file) as source, progress_bar("bytes") as bar:
        size = Path(file).stat().st_size if file != STDIO else None
        task = bar.add_task("loading", total=size)
        loader = _Loader(client, durability, SystemClock())
        try:
            for line in source:
                loader.add(line)
                bar.update(task, completed=loader.bytes)
            loader.flush()
        except SeerDBError as error:
            error.add_note(f"{loader.entries:,} entries were loaded before that")
            raise
    _print_summary("loaded", loader.entries, loader.bytes, as_json=as_json)


class _Loader:
    """Gathers lines into batches and commits them."""

    def __init__(self, client: Client, durability: str | None, clock: Clock) -> None:
        self.entries = 0
        """Committed."""
        self.bytes = 0
        """Of lines seen."""
        self._client = client
        self._durability = durability
        self._clock = clock
        self._decode = msgspec.json.Decoder(Line).decode
        self._line = 0
        self._batch: list[Line] = []
        self._batch_bytes = 0

    def add(self, line: bytes) -> None:
        """Take a line. Raises: ``InvalidRequestError`` naming it when it is none of ours."""
        self._line += 1
        self.bytes += len(line)
        if line.isspace():
            return
        try:
            entry = self._decode(line)
            key, value = entry.pair()
        except ValueError as error:
            raise InvalidRequestError(f"line {self._line:,} cannot be loaded: {error}") from error
        if len(line) > BATCH_BYTES:
            self.flush()
            self._put(key, value)
            return
        entry.seq = UNSET
        self._batch.append(entry)
        self._batch_bytes += len(line)
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


def _one(text: str | UnsetType, encoded: bytes | UnsetType) -> bytes:
    if isinstance(text, str) and encoded is UNSET:
        return text.encode()
    if text is UNSET and isinstance(encoded, bytes):
        return encoded
    raise ValueError("it needs one key and one value, each as text or as base64")


@contextmanager
def _output(file: str) -> Iterator[BinaryIO]:
    """Standard output, or a file that gets its name when all went well."""
    if file == STDIO:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    draft = Path(f"{file}.partial")
    try:
        with draft.open("wb") as output:
            yield output
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _input(file: str) -> Iterator[Iterable[bytes]]:
    """The lines of standard input or of a file."""
    if file == STDIO:
        yield sys.stdin.buffer
        return
    with Path(file).open("rb") as source:
        yield source


def _print_summary(verb: str, entries: int, size: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"entries": entries, "bytes": size})
    else:
        print(f"{verb} {entries:,} entries, {size:,} bytes")
