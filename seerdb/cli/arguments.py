"""Options that several commands take, and how keys are written on the command line.

A key is the bytes that are typed. With ``--hex`` it is hexadecimal digits instead, for keys that
cannot be typed: NUL, for one, cannot be in an argument.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from seerdb.errors import InvalidRequestError

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option("--url", envvar="SEERDB_URL", help="Where the server listens.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Hex = Annotated[bool, typer.Option("--hex", help="Keys are written as hexadecimal digits.")]
Durability = Annotated[
    str | None,
    typer.Option(
        metavar="LEVEL",
        help="What the write must survive: memory, interval, local or object. "
        "By default what the server is set to.",
    ),
]
Target = Annotated[
    str, typer.Argument(metavar="DATA_DIR|STORE_URL", help="A data directory, or a bucket.")
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="The bucket of the data directory; by default SEERDB_STORE, or bucket/ inside it.",
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Instead of a server: the database in this directory, which nobody has open.",
    ),
]
Config = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="Settings, as a TOML file.")
]


def key_bytes(text: str, *, as_hex: bool) -> bytes:
    """The key that is written as ``text``. Raises: ``InvalidRequestError``."""
    if not as_hex:
        return os.fsencode(text)
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise InvalidRequestError(
            f"with --hex a key is hexadecimal digits, not {text!r}"
        ) from error


def key_text(key: bytes, *, as_hex: bool) -> str:
    """``key`` as :func:`key_bytes` reads it if ``as_hex``, else as :func:`escaped`."""
    return key.hex() if as_hex else escaped(key)


def escaped(data: bytes) -> str:
    r"""``data`` as text on one line: UTF-8 as it is, and what cannot be shown as ``\t``, ``\n``,
    ``\r``, ``\\`` or ``\x`` and two hexadecimal digits for each byte."""
    text = data.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_escaped_character, text))


_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"}


def _escaped_character(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    raw = character.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in raw)
