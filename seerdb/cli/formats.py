"""The formats of ``seerdb dump`` and ``seerdb load``: lines of JSON, and the binary one.

A line is an item as HTTP has it: ``{"key":"a","value":"1","seq":7}``, with ``key_base64`` or
``value_base64`` for bytes that are not UTF-8. ``load`` does not need ``seq``. The binary form is
that of ``storage/ingest/dump.py``, and has no seqs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import chain
from typing import BinaryIO, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from seerdb.cli.output import item
from seerdb.errors import InvalidRequestError
from seerdb.options import MAX_KEY_SIZE, MAX_VALUE_SIZE
from seerdb.storage.batch import check_key, check_value
from seerdb.storage.ingest.dump import CHUNK_BYTES, MAGIC, DumpDecoder, DumpEncoder
from seerdb.storage.read.rows import Entry

Pair = tuple[bytes, bytes]

MAX_LINE = 6 * (MAX_KEY_SIZE + MAX_VALUE_SIZE) + 1024
"""Bytes of a line: each byte of key and value may be written with six, as ``\\u0000`` is."""
LOOK = 1 << 20
"""Bytes of a longer line that are read before the rest is, if it begins as ours do."""


class Format(StrEnum):
    """What a dump is written as."""

    JSON = "json"
    BINARY = "binary"


class Encoder(Protocol):
    """The parts of a dump, in order."""

    def start(self) -> bytes:
        """What it begins with."""

    def entries(self, entries: list[Entry]) -> bytes:
        """The next entries."""

    def end(self) -> bytes:
        """What it ends with."""


def encoder_for(form: Format) -> Encoder:
    """An encoder for one dump."""
    return BinaryDump() if form is Format.BINARY else JsonLines()


class JsonLines:
    """Lines of JSON, with nothing around them."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode_lines

    def start(self) -> bytes:
        return b""

    def entries(self, entries: list[Entry]) -> bytes:
        return self._encode([item(key, value) | {"seq": seq} for key, value, seq in entries])

    def end(self) -> bytes:
        return b""


class BinaryDump:
    """The binary form, compressed."""

    def __init__(self) -> None:
        self._encoder = DumpEncoder(compress=True)

    def start(self) -> bytes:
        return self._encoder.start()

    def entries(self, entries: list[Entry]) -> bytes:
        keys, values, _ = zip(*entries, strict=True)
        return b"".join(self._encoder.chunks(keys, values))

    def end(self) -> bytes:
        return self._encoder.end()


def gathered(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """The same entries, about as many at a time as a chunk holds."""
    some: list[Entry] = []
    size = 0
    for entry in entries:
        some.append(entry)
        size += len(entry.key) + len(entry.value)
        if size >= CHUNK_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line that is loaded."""

    key: str | UnsetType = UNSET
    key_base64: bytes | UnsetType = UNSET
    value: str | UnsetType = UNSET
    value_base64: bytes | UnsetType = UNSET
    seq: int | UnsetType = UNSET

    def pair(self) -> Pair:
        """Key and value. Raises: ``ValueError`` unless there is one of each."""
        return _one(self.key, self.key_base64), _one(self.value, self.value_base64)


def _one(text: str | UnsetType, encoded: bytes | UnsetType) -> bytes:
    if isinstance(text, str) and encoded is UNSET:
        return text.encode()
    if text is UNSET and isinstance(encoded, bytes):
        return encoded
    raise ValueError("it needs one key and one value, each as text or as base64")


class Source:
    """The keys and values of a stream in either format, which its first byte tells.

    ``name`` is for error messages.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._lines_size = 0
        self._dump: DumpDecoder | None = None

    @property
    def size(self) -> int:
        """Bytes read so far."""
        return self._lines_size if self._dump is None else self._dump.offset

    def __iter__(self) -> Iterator[Pair]:
        """Raises: ``InvalidRequestError`` naming the line that is none of ours,
        ``CorruptionError`` naming where a dump is damaged or cut off."""
        first = self._stream.read(1)
        if first == MAGIC[:1]:
            return self._from_dump(first)
        return self._from_lines(self._lines(first))

    def _lines(self, first: bytes) -> Iterator[bytes]:
        """The lines of the stream, of which ``first`` is the first byte. What is too long to be
        one that can be loaded is cut."""
        read = self._stream.readline
        line = first if first == b"\n" else first + read(LOOK)
        while line:
            if len(line) >= LOOK and line[-1:] != b"\n" and line.lstrip()[:1] == b"{":
                line += read(MAX_LINE - len(line))
            yield line
            line = read(LOOK)

    def _from_lines(self, lines: Iterable[bytes]) -> Iterator[Pair]:
        decode = msgspec.json.Decoder(Line).decode
        for number, line in enumerate(lines, 1):
            self._lines_size += len(line)
            if not line or line.isspace():
                continue
            try:
                if len(line) >= MAX_LINE:
                    raise ValueError("it is longer than any that holds a key and a value")
                key, value = decode(line).pair()
                check_key(key)
                check_value(value)
            except (ValueError, InvalidRequestError) as error:
                raise InvalidRequestError(f"line {number:,} cannot be loaded: {error}") from error
            yield key, value

    def _from_dump(self, first: bytes) -> Iterator[Pair]:
        begun = False

        def read(size: int) -> bytes:
            nonlocal begun
            if begun:
                return self._stream.read(size)
            begun = True
            return first + self._stream.read(size - len(first))

        self._dump = DumpDecoder(read, self._name)
        return chain.from_iterable(map(_pairs, self._dump))


def _pairs(chunk: tuple[Iterable[bytes], Iterable[bytes]]) -> Iterator[Pair]:
    return zip(*chunk, strict=True)
