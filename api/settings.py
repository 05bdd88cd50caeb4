"""The settings of the service: default < TOML file < environment < flag.

All four use the names of ``seerdb.Options`` and of :class:`ServiceSettings`: as top-level keys of
the file, as ``SEERDB_<NAME>`` in the environment. Text is read by the type of its setting: whole
numbers may end in ``KiB``, ``MiB`` or ``GiB``, and mappings are JSON.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from seerdb.errors import InvalidRequestError
from seerdb.options import (
    GIB,
    KIB,
    MAX_LAG,
    MIB,
    Options,
    check_max_lag,
    check_server_url,
    without_user,
)

ENVIRONMENT_PREFIX = "SEERDB_"
LOG_FORMATS = ("text", "json")
SERVED_OPTIONS: Mapping[str, Any] = {"background": "process"}
"""Where the service's defaults differ from the library's: nothing CPU-bound may share the process
that serves requests."""

_SUFFIXES = {"": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
_FITS_HEADER = re.compile("[!-~]*")
_INTEGER = re.compile(r"(-?[0-9][0-9_]*) ?(KiB|MiB|GiB|)")


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """Settings of one served database. Raises ``InvalidRequestError`` for a value out of bounds."""

    data_dir: str = "data"
    """The directory of the database; made when it is not there."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = 8000
    """The port to listen on; 0: any free one."""
    body_limit: int = 64 * MIB
    """Bytes of a request body; a larger one gets 413 without being read whole."""
    replica: bool = False
    """Follow the database in the bucket that ``store`` names, which another server writes, and
    serve reads of it."""
    primary: str = ""
    """URL of that other server, for a replica: the log then comes from there, within milliseconds,
    and writes are pointed to it. Without it the log comes through the bucket."""
    max_lag: float = MAX_LAG
    """Seconds that a replica or standby may be behind before a check of its readiness fails."""
    log_format: str = "text"
    """``json``: one object to a line; ``text``: for people."""
    standby: bool = False
    """Wait while another process keeps the lease of the database, and take over when it is gone;
    then, and where there is nobody to wait for, serve it with a ``lease`` of 6 s unless that is
    set. Where the last writer was elsewhere and kept no lease, it waits to be promoted by hand."""
    advertise: str = ""
    """The URL at which clients and standbys reach this server; by default ``host`` and ``port``."""
    options: Options = field(default_factory=lambda: Options.build(SERVED_OPTIONS))
    """Settings of the database itself."""

    def __post_init__(self) -> None:
        for name in ("data_dir", "host"):
            value = getattr(self, name)
            _demand(name, isinstance(value, str) and bool(value), "must not be empty", value)
        _demand_integer("port", self.port, 0, 65_535)
        _demand_integer("body_limit", self.body_limit, 1, 2 * GIB)
        for name in ("replica", "standby"):
            value = getattr(self, name)
            _demand(name, isinstance(value, bool), "must be true or false", value)
        for name in ("primary", "advertise"):
            value = getattr(self, name)
            if value != "":
                check_server_url(f"setting {name}", value)
            is_ascii = _FITS_HEADER.fullmatch(value) is not None
            _demand(name, is_ascii, "must be ASCII", without_user(value))
        check_max_lag(self.max_lag)
        is_placed = self.options.store is not None or not self.replica
        _demand("replica", is_placed, "needs the setting store", self.replica)
        if self.replica and self.standby:
            raise InvalidRequestError(
                "settings replica and standby exclude each other: a replica never takes over"
            )
        is_followed = self.replica or not self.primary
        _demand("primary", is_followed, "is for a replica", self.primary)
        choices = f"must be one of {', '.join(LOG_FORMATS)}"
        _demand("log_format", self.log_format in LOG_FORMATS, choices, self.log_format)

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> ServiceSettings:
        """Settings from names and values; text is read by the type of its setting.

        Raises: ``InvalidRequestError`` for an unknown name or a wrong value.
        """
        _check_names(values)
        read = {name: _read(name, value) for name, value in values.items()}
        own = {name: value for name, value in read.items() if name in _OWN_TYPES}
        options = {name: value for name, value in read.items() if name not in _OWN_TYPES}
        return cls(options=Options.build({**SERVED_OPTIONS, **options}), **own)

    @classmethod
    def load(
        cls,
        *,
        config: str | None = None,
        environment: Mapping[str, str],
        flags: Mapping[str, Any],
    ) -> ServiceSettings:
        """Settings from a TOML file, the environment and flags, the later ones first.

        A flag that is ``None`` was not given. Raises: ``InvalidRequestError`` naming the setting,
        or the file when it cannot be read.
        """
        from_file = {} if config is None else _read_file(Path(config))
        from_environment = {
            name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(ENVIRONMENT_PREFIX)
        }
        _check_names(from_environment, lambda name: ENVIRONMENT_PREFIX + name.upper())
        given = {name: value for name, value in flags.items() if value is not None}
        return cls.build({**from_file, **from_environment, **given})

    @property
    def address(self) -> str:
        """The URL at which others reach this server; "" where that is not known beforehand."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.advertise or (f"http://{host}:{self.port}" if self.port else "")

    @property
    def bucket(self) -> str:
        """Where the bucket is."""
        return self.options.store or f"{self.data_dir}/bucket"


_OWN_TYPES: dict[str, Any] = {
    own.name: hint
    for own in fields(ServiceSettings)
    if (hint := get_type_hints(ServiceSettings)[own.name]) is not Options
}
SETTING_TYPES: dict[str, Any] = {**_OWN_TYPES, **get_type_hints(Options)}
"""Every setting by name, and its type."""


def _integer(text: str) -> int:
    match = _INTEGER.fullmatch(text)
    if match is None:
        raise ValueError("not a whole number")
    return int(match[1]) * _SUFFIXES[match[2]]


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("neither true nor false")
    return text == "true"


_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (_integer, "a whole number, as 1048576 or 1MiB"),
    float: (float, "a number"),
    bool: (_boolean, "true or false"),
    dict[str, Any]: (msgspec.json.Decoder(dict[str, Any]).decode, "a JSON object"),
}
"""How text becomes a value, by the type of the setting; text for any other type stays text."""
_SECRET = ("store_options", "drill_store_options")
"""Settings that hold credentials, which no message repeats."""


def _read(name: str, value: Any) -> Any:
    if not isinstance(value, str) or SETTING_TYPES[name] not in _READERS:
        return value
    reader, wanted = _READERS[SETTING_TYPES[name]]
    try:
        return reader(value)
    except ValueError as error:
        shown = "" if name in _SECRET else f", not {value!r}"
        raise InvalidRequestError(f"setting {name} must be {wanted}{shown}") from error


def _check_names(names: Iterable[str], spelled: Callable[[str], str] = str) -> None:
    unknown = sorted(set(names) - set(SETTING_TYPES))
    if unknown:
        raise InvalidRequestError(
            f"unknown setting {', '.join(map(spelled, unknown))}; "
            f"known are {', '.join(map(spelled, SETTING_TYPES))}"
        )


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"the settings file {path} cannot be read: {error}") from error


def _demand(name: str, holds: bool, what: str, value: object) -> None:  # noqa: FBT001
    if not holds:
        raise InvalidRequestError(f"setting {name} {what}, not {value!r}")


def _demand_integer(name: str, value: object, low: int, high: int) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _demand(name, fits, f"must be a whole number from {low:,} to {high:,}", value)
