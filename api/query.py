"""Query parameters: declared once, then both parsed and documented from the declaration.

Values are the percent-decoded bytes, as they stand: ``+`` is a plus, and they need not be UTF-8.
A name that a route does not declare, or a repeated one, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from seerdb.errors import InvalidRequestError
from seerdb.options import DURABILITY_LEVELS, MAX_TTL
from seerdb_api.percent import decoded

SHOWN_BYTES = 64
"""How much of what a client sent an error message repeats."""

PERCENT_ENCODED = "percent-encoded bytes"


@dataclass(frozen=True)
class Parameter:
    """One query parameter: how to read its bytes, and its line in the OpenAPI document."""

    name: str
    description: str
    read: Callable[[bytes], Any]
    """The value, or ``ValueError`` saying what it must be."""
    schema: dict[str, Any]
    example: str | None = None

    def documented(self) -> dict[str, Any]:
        """The OpenAPI parameter object."""
        shown = {} if self.example is None else {"example": self.example}
        return {
            "name": self.name,
            "in": "query",
            "required": False,
            "description": self.description,
            "schema": self.schema,
            **shown,
        }


def byte_string(name: str, description: str, example: str | None = None) -> Parameter:
    """A parameter whose value is any bytes."""
    text = f"{description} ({PERCENT_ENCODED})."
    return Parameter(name, text, bytes, {"type": "string"}, example)


def text(name: str, description: str, example: str | None = None) -> Parameter:
    """A parameter whose value is text, and not empty."""

    def read(value: bytes) -> str:
        if not value:
            raise ValueError("must not be empty; leave it out")
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise ValueError("must be UTF-8") from error

    return Parameter(name, f"{description}.", read, {"type": "string", "minLength": 1}, example)


def boolean(name: str, description: str, *, default: bool = False) -> Parameter:
    """A parameter that is ``true`` or ``false``."""

    def read(value: bytes) -> bool:
        if value not in (b"true", b"false"):
            raise ValueError("must be true or false")
        return value == b"true"

    return Parameter(name, description, read, {"type": "boolean", "default": default})


def whole_number(name: str, description: str, maximum: int, *, minimum: int = 1) -> Parameter:
    """A parameter that is a whole number from ``minimum``; the route enforces ``maximum``."""

    def read(value: bytes) -> int:
        if not value.isdigit() or len(value) > len(str(1 << 63)) or int(value) < minimum:
            raise ValueError(f"must be a whole number of at least {minimum}")
        return int(value)

    schema = {"type": "integer", "minimum": minimum, "maximum": maximum}
    return Parameter(name, description, read, schema)


def seconds(name: str, description: str, maximum: int) -> Parameter:
    """A parameter that is a number above 0 and at most ``maximum``."""

    def read(value: bytes) -> float:
        if not re.fullmatch(rb"[0-9]{1,20}(\.[0-9]{1,20})?", value):
            raise ValueError("must be a number of seconds")
        if not 0 < float(value) <= maximum:
            raise ValueError(f"must be more than 0 and at most {maximum:,}")
        return float(value)

    schema = {"type": "number", "exclusiveMinimum": 0, "maximum": maximum}
    return Parameter(name, description, read, schema)


def choice(name: str, description: str, values: tuple[str, ...]) -> Parameter:
    """A parameter that is one of ``values``."""

    def read(value: bytes) -> str:
        text = value.decode(errors="replace")
        if text not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return text

    return Parameter(name, description, read, {"type": "string", "enum": list(values)})


def instant(name: str, description: str) -> Parameter:
    """A parameter that is a seq or a time with a zone."""

    def read(value: bytes) -> int | datetime:
        if re.fullmatch(rb"[0-9]{1,18}", value):
            return int(value)
        try:
            time = datetime.fromisoformat(value.decode("ascii"))
        except ValueError as error:
            raise ValueError("must be a seq, or a time as in RFC 3339") from error
        if time.tzinfo is None:
            raise ValueError("must say its time zone, for example Z")
        return time

    return Parameter(name, description, read, {"type": "string"}, "2026-11-20T18:00:00Z")


DURABILITY = choice(
    "durability",
    "What the acknowledged write must survive; by default what the database is set to.",
    DURABILITY_LEVELS,
)


FILL_CACHE = boolean(
    "fill_cache",
    "`false`: what has to be loaded for this read is kept neither in memory nor on disk.",
    default=True,
)


AS_OF = instant(
    "as_of",
    "What the database was at an instant within `history_retention`: after the commit of a seq, or "
    "at a time as in RFC 3339.",
)


TTL = seconds("ttl", "Seconds after which the value is gone; by default it stays.", MAX_TTL)


def parse_query(raw: bytes, parameters: tuple[Parameter, ...]) -> dict[str, Any]:
    """The values given in the query string ``raw``, by name; absent ones are absent.

    Raises: ``InvalidRequestError`` for an unknown, repeated or malformed parameter.
    """
    known = {parameter.name: parameter for parameter in parameters}
    values: dict[str, Any] = {}
    for part in filter(None, raw.split(b"&")):
        encoded, _, value = part.partition(b"=")
        name = decoded(encoded).decode(errors="replace")
        if name not in known:
            expected = f"known are {', '.join(known)}" if known else "this request takes none"
            raise InvalidRequestError(f"unknown query parameter {name[:SHOWN_BYTES]!r}; {expected}")
        if name in values:
            raise InvalidRequestError(f"query parameter {name} is given twice")
        given = decoded(value)
        try:
            values[name] = known[name].read(given)
        except ValueError as error:
            shown = given[:SHOWN_BYTES].decode(errors="replace")
            raise InvalidRequestError(f"query parameter {name} {error}, not {shown!r}") from error
    return values
