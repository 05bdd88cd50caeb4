"""``seerdb get``, ``put``, ``delete`` and ``scan``: single keys and ranges of a server."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from seerdb.cli.arguments import (
    DEFAULT_URL,
    Durability,
    Hex,
    Json,
    Url,
    escaped,
    key_bytes,
    key_text,
)
from seerdb.cli.client import KEYS_TARGET, Client, NoSuchKeyError, key_target, with_query
from seerdb.cli.output import item, print_json, write_bytes
from seerdb.errors import InvalidRequestError, NotFoundError

Key = Annotated[str, typer.Argument(metavar="KEY", help="The key, as typed.")]
Prefix = Annotated[str | None, typer.Option(help="Only keys that begin with this.")]
Start = Annotated[str | None, typer.Option(help="Only keys from this one on.")]
End = Annotated[str | None, typer.Option(help="Only keys before this one.")]
AsOf = Annotated[
    str | None,
    typer.Option(
        metavar="SEQ|TIME", help="What was there then; a time as in 2026-11-20T18:00:00Z."
    ),
]
IfSeq = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Only if the key was written by commit N; else exit 4."),
]


class Item(msgspec.Struct):
    """One line of a scan."""

    seq: int
    key: str = ""
    key_base64: bytes = b""
    value: str = ""
    value_base64: bytes = b""

    @property
    def key_bytes(self) -> bytes:
        """The key."""
        return self.key.encode() or self.key_base64

    @property
    def value_bytes(self) -> bytes:
        """The value; empty if only keys were asked for."""
        return self.value.encode() or self.value_base64


def get(
    key: Key,
    *,
    as_of: AsOf = None,
    as_hex: Hex = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Print the value of a key.

    Its bytes and nothing else, except that a terminal gets a newline after a value that does not
    end in one. Exits 3 when there is no such key."""
    wanted = key_bytes(key, as_hex=as_hex)
    with Client(url) as client:
        try:
            reply = client.request("GET", with_query(key_target(wanted), {"as_of": as_of}))
        except NoSuchKeyError as error:
            shown = key_text(wanted, as_hex=as_hex)
            raise NotFoundError(f"there is no key {shown}") from error
    value = reply.content
    if as_json:
        print_json(item(wanted, value) | {"seq": int(reply.headers["etag"].strip('"'))})
    else:
        is_open_line = sys.stdout.isatty() and not value.endswith(b"\n")
        write_bytes(value + b"\n" * is_open_line)


def put(  # noqa: PLR0913 - an argument for each option
    key: Key,
    value: Annotated[
        str | None, typer.Argument(metavar="VALUE", help="The value, as typed; - is stdin.")
    ] = None,
    *,
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Read the value from here; - is stdin.")
    ] = None,
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="Only if the key is not there; else exit 4.")
    ] = False,
    if_seq: IfSeq = None,
    ttl: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="After so many the value is gone.")
    ] = None,
    durability: Durability = None,
    as_hex: Hex = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Set a key to a value, given as VALUE or in a file.

    Prints nothing, or with --json the sequence number of the commit and what it survives."""
    if if_absent and if_seq is not None:
        raise InvalidRequestError("give either --if-absent or --if-seq")
    conditions = {"if-none-match": "*"} if if_absent else _if_seq(if_seq)
    target = key_target(key_bytes(key, as_hex=as_hex))
    query = {"durability": durability, "ttl": None if ttl is None else _decimal(ttl)}
    content = _value(value, file)
    with Client(url) as client:
        reply = client.request(
            "PUT",
            with_query(target, query),
            content=content,
            headers=conditions,
        )
    _print_written(reply.headers, reply.headers["etag"].strip('"'), as_json=as_json)


def delete(  # noqa: PLR0913 - an argument for each option
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="The key, as typed.")] = None,
    *,
    prefix: Annotated[
        str | None, typer.Option(help="Instead of a key: all keys that begin with this.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Instead of a key: all from this one on, up to --end.")
    ] = None,
    end: Annotated[str | None, typer.Option(help="See --start; this one stays.")] = None,
    if_seq: IfSeq = None,
    durability: Durability = None,
    as_hex: Hex = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Remove a key, whether or not it is there; or a whole range in one step."""
    bounds = range_query(prefix, start, end, as_hex=as_hex)
    if (key is None) == (not bounds):
        raise InvalidRequestError("give either a KEY, or --prefix, or --start and --end")
    if bounds and if_seq is not None:
        raise InvalidRequestError("--if-seq goes with a KEY")
    target = KEYS_TARGET if key is None else key_target(key_bytes(key, as_hex=as_hex))
    with Client(url) as client:
        reply = client.request(
            "DELETE",
            with_query(target, {**bounds, "durability": durability}),
            headers=_if_seq(if_seq),
        )
    _print_written(reply.headers, reply.headers["seerdb-seq"], as_json=as_json)


def scan(  # noqa: PLR0913 - an argument for each option
    *,
    prefix: Prefix = None,
    start: Start = None,
    end: End = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="In descending order.")] = False,
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Without values.")] = False,
    as_of: AsOf = None,
    as_hex: Hex = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    r"""Print keys and values in order, all of one moment.

    A line for each, with a tab between key and value. What would break a line is escaped (\t, \n,
    \r, \\, \xNN). With --json, lines of JSON."""
    query: dict[str, bytes | str | int | None] = {
        **range_query(prefix, start, end, as_hex=as_hex),
        "limit": limit,
        "reverse": "true" if reverse else None,
        "keys_only": "true" if keys_only else None,
        "as_of": as_of,
    }
    decoder = msgspec.json.Decoder(Item)
    with Client(url) as client:
        for block in client.scan(query):
            if as_json:
                write_bytes(block)
                continue
            lines = []
            for entry in decoder.decode_lines(block):
                shown = key_text(entry.key_bytes, as_hex=as_hex)
                lines.append(shown if keys_only else f"{shown}\t{escaped(entry.value_bytes)}")
            write_bytes("".join(f"{line}\n" for line in lines).encode())


def range_query(
    prefix: str | None, start: str | None, end: str | None, *, as_hex: bool
) -> dict[str, bytes]:
    """The query that names a range of keys. Raises: ``InvalidRequestError``."""
    return {
        name: key_bytes(text, as_hex=as_hex)
        for name, text in (("prefix", prefix), ("start", start), ("end", end))
        if text is not None
    }


def _decimal(number: float) -> str:
    """A number without an exponent, as people write it."""
    return re.sub(r"(\.[0-9]*?)0+$", r"\1", f"{number:f}").removesuffix(".")


def _if_seq(seq: int | None) -> dict[str, str]:
    return {} if seq is None else {"if-match": f'"{seq}"'}


def _value(value: str | None, file: str | None) -> bytes:
    if (value is None) == (file is None):
        raise InvalidRequestError("give either a VALUE or --file")
    if "-" in (value, file):
        return sys.stdin.buffer.read()
    return Path(file).read_bytes() if file is not None else key_bytes(value or "", as_hex=False)


def _print_written(headers: Any, seq: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"seq": int(seq), "durability": headers["seerdb-durability"]})
