"""Every setting, its default and its bounds, each written once.

:class:`Options` is the checked, immutable value the engine works with.
:class:`DBOptions` is the chained builder users may prefer. Both take the same names.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload
from urllib.parse import unquote, urlsplit

from seerdb.errors import InvalidRequestError

if TYPE_CHECKING:
    from seerdb.db import DB

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

MAX_KEY_SIZE = 65_535
MAX_VALUE_SIZE = GIB
MAX_PORT = 65_535
MAX_TTL = 100 * 365 * 24 * 3600
"""Seconds: 100 years."""

MAX_LAG = 30.0
"""Seconds that a replica may be behind before it says that it is not ready, unless it is told."""

Directory = str | os.PathLike[str]
"""How a directory is named."""

T = TypeVar("T")


class Durability(StrEnum):
    """What an acknowledged write survives, weakest first."""

    MEMORY = "memory"
    INTERVAL = "interval"
    LOCAL = "local"
    OBJECT = "object"


DURABILITY_LEVELS = tuple(level.value for level in Durability)

_RETENTION = re.compile(r"flushed|count:[0-9]{1,6}|duration:[0-9]{1,9}")
_COMPACTION = ("lazy_leveled", "leveled", "tiered", "adaptive")
_BACKGROUND = ("inline", "thread", "process")
MIN_LEASE = 1.0
"""Seconds: a renewal takes two round trips to the bucket, and is tried again when it fails."""
MIN_DRILL_INTERVAL = 60.0
PRICE_NAMES = ("put_or_list", "get", "delete", "gigabyte_month")
DASK_SCHEME = "dask://"
_PASSWORD = re.compile(r"\A([^/:]*://)(?!arn:)[^/@:]*:[^@]*@")
"""Secrets may have a slash. From the start only: a look for the end may go through all."""
_USER = re.compile(r"//[^/]*@")
_UP_TO_HOST = re.compile(r"\A(\w+://)?.*@", re.DOTALL)
_SERVER = re.compile(r"https?://[^/?#\s]*[^/?#\s:](/[^?#\s]*)?")
_DASK = re.compile(r"dask://([\w.-]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})", re.ASCII)


def _number(low: float, high: float) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"must be a number, not {type(value).__name__}"
        if math.isnan(value) or not low <= value <= high:
            return f"must be between {low} and {high}, not {value}"
        return None

    return check


def _integer(low: int, high: int) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return f"must be a whole number, not {type(value).__name__}"
        if not low <= value <= high:
            return f"must be between {low:,} and {high:,}, not {value:,}"
        return None

    return check


def _choice(*names: str) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        return None if value in names else f"must be one of {', '.join(names)}, not {value!r}"

    return check


def _boolean(value: object) -> str | None:
    return None if isinstance(value, bool) else f"must be true or false, not {value!r}"


def _retention(value: object) -> str | None:
    if isinstance(value, str) and _RETENTION.fullmatch(value):
        return None
    return f"must be 'flushed', 'count:N' or 'duration:SECONDS', not {value!r}"


def _background(value: object) -> str | None:
    if value in _BACKGROUND:
        return None
    if isinstance(value, str) and (dask := _DASK.fullmatch(value)):
        port = int(dask[2])
        return (
            None
            if 0 < port <= MAX_PORT
            else f"must have a port between 1 and {MAX_PORT:,}, not {port:,}"
        )
    return f"must be one of {', '.join(_BACKGROUND)}, 'dask://HOST:PORT', not {value!r}"


def store_complaint(value: object) -> str | None:
    """What is wrong with the name of a store, if anything."""
    if isinstance(value, str) and value and (not value.endswith("://") or value == "memory://"):
        if _is_encodable(unquote(value) if value.startswith("file://") else value):
            return None
        return f"must not have NUL or lone surrogates in it, unlike {value!r}"
    return f"must be a URL or a directory, not {value!r}"


def without_password(url: str) -> str:
    """``url`` as it may be shown: without the user and password in it."""
    return _PASSWORD.sub(r"\1***@", url)


def without_user(url: str) -> str:
    """``url`` of a server as anybody may be told it: without the user and password in it."""
    return _USER.sub("//", url, count=1)


def _store(value: object) -> str | None:
    return None if value is None else store_complaint(value)


def _lease(value: object) -> str | None:
    if value == 0 and not isinstance(value, bool):
        return None
    complaint = _number(MIN_LEASE, 3600)(value)
    return complaint and f"{complaint}; or 0 for none"


def _drill_interval(value: object) -> str | None:
    if value == 0 and not isinstance(value, bool):
        return None
    complaint = _number(MIN_DRILL_INTERVAL, 366 * 24 * 3600)(value)
    return complaint and f"{complaint}; or 0 for none"


def _operator(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return None
    return f"must be the name of a merge operator, not {value!r}"


def _mapping(value: object) -> str | None:
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return None
    return f"must be a table of names and values, not {value!r}"


def _prices(value: object) -> str | None:
    names = ", ".join(PRICE_NAMES)
    if not isinstance(value, Mapping) or not set(value) <= set(PRICE_NAMES):
        return f"must be a table of dollars under {names}, not {value!r}"
    for name, price in value.items():
        complaint = _number(0, 1000)(price)
        if complaint:
            return f"must be dollars, of which {name} {complaint}"
    return None


def _setting(default: Any, check: Callable[[object], str | None]) -> Any:
    if isinstance(default, dict):  # options of a store: there may be credentials in them
        return field(default_factory=dict, repr=False, metadata={"check": check})
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of one database; sizes in bytes, times in seconds.

    Raises ``InvalidRequestError`` for a value out of bounds.
    """

    store: str | None = _setting(None, _store)
    """Where the bucket is: any fsspec URL or a directory. ``None``: ``bucket/`` in the data
    directory."""
    store_options: dict[str, Any] = _setting({}, _mapping)
    """Passed to the fsspec file system (``endpoint_url``, ``key``, ``secret`` …)."""
    durability: str = _setting("local", _choice(*DURABILITY_LEVELS))
    """What an acknowledged write survives unless the write says otherwise."""
    sync: str = _setting("data", _choice("data", "full"))
    """``data``: fdatasync; ``full``: fsync."""
    sync_interval: float = _setting(0.01, _number(0.0005, 60))
    """Longest time between a write at level ``interval`` and its sync."""
    memtable_capacity: int = _setting(64 * MIB, _integer(KIB, 16 * GIB))
    """Memory of the active memtable, overheads counted, before it is sealed and flushed."""
    wal_segment_size: int = _setting(64 * MIB, _integer(16 * KIB, 4 * GIB))
    """Preallocated size of a WAL segment; a single larger batch gets a segment of its own."""
    wal_compression: str = _setting("none", _choice("none", "zstd"))
    """``zstd`` trades CPU for WAL bytes; worth it for large compressible batches."""
    wal_direct_io: bool = _setting(default=False, check=_boolean)
    """Write the WAL past the page cache (O_DIRECT)."""
    wal_retention: str = _setting("flushed", _retention)
    """What to keep of flushed segments: nothing, the last N, or those of the last seconds."""
    wal_budget: int = _setting(4 * GIB, _integer(64 * KIB, 1 << 50))
    """WAL bytes on local disk at which writes are held back, for example in an outage; at least
    twice ``wal_segment_size``."""
    ship_interval: float = _setting(1.0, _number(0, 3600))
    """How long, in seconds, a write may be on the local disk only: the log is put into the bucket
    so often while something is written. 0: only for writes of level ``object``."""
    recovery: str = _setting("strict", _choice("strict", "point_in_time", "salvage"))
    """On WAL corruption: refuse to open, stop before it, or skip it."""
    block_size: int = _setting(16 * KIB, _integer(256, 4 * MIB))
    """Target bytes of a table block before compression: larger compresses better, smaller
    reads less per miss."""
    compression: str = _setting("zstd", _choice("zstd", "none"))
    """Of table blocks."""
    blob_threshold: int = _setting(64 * KIB, _integer(0, GIB))
    """Bytes from which on a value lies in a blob, beside the tables, which compactions then need
    not rewrite; a read of it costs a request more. 0 turns that off."""
    filter_bits_per_key: int = _setting(10, _integer(0, 64))
    """Memory per key for filters that spare requests for missing keys; 0 turns them off."""
    filter_prefix: int = _setting(0, _integer(0, 255))
    """Bytes: filters know the beginnings of keys, too, so that a scan of keys that all begin with
    the same so many bytes or more passes over tables that have none; 0 turns it off."""
    index: str = _setting("bisect", _choice("bisect", "learned"))
    """Of new tables: ``bisect`` finds a block sooner; ``learned`` takes a third of the memory,
    which counts with terabytes."""
    block_cache_capacity: int = _setting(256 * MIB, _integer(0, 1 << 44))
    """Memory for blocks and single rows of tables, overheads counted."""
    disk_cache_capacity: int = _setting(10 * GIB, _integer(0, 1 << 50))
    """Local disk for parts of tables in a remote bucket, as far as it leaves twice
    ``min_free_disk`` free; 0 turns it off."""
    pin_levels: int = _setting(0, _integer(0, 8))
    """How many of the upper levels have their tables kept whole in the disk cache, newest first as
    far as they fit; nothing else takes their place."""
    merge_operator: str | None = _setting(None, _operator)
    """What folds the operands of merges: ``int64_add``, ``append``, ``max``, ``min``,
    ``set_union`` or a registered name. Kept by the database: once set, only that."""
    background: str = _setting("thread", _background)
    """Where flush and compaction run: in the writer's call, a thread, or worker processes. With
    ``dask://HOST:PORT``: compaction on the workers of the Dask scheduler there, flush in worker
    processes."""
    compaction: str = _setting("lazy_leveled", _choice(*_COMPACTION))
    """How tables are merged: ``lazy_leveled`` keeps the space near what is live with few
    rewrites; ``leveled`` has the fewest runs to read and the most rewrites, in small merges;
    ``tiered`` the fewest rewrites, for up to four times the space; ``adaptive`` chooses among them
    by the reads and writes of the last minutes."""
    compaction_rate: int = _setting(0, _integer(0, 1 << 40))
    """Bytes a second that all compactions of the database together may read from the bucket and
    write to it; 0: as many as they can. Too few, and writes have to wait for them."""
    history_retention: float = _setting(600.0, _number(0, 10 * 365 * 24 * 3600))
    """How far back, in seconds, time travel and restoring to an instant reach. What flushes and
    merges replace is kept in the bucket for so long, and five minutes more."""
    drill_interval: float = _setting(0.0, _drill_interval)
    """Seconds between two restore drills, which restore the newest backup and compare it with what
    the database was then. 0: none."""
    drill_repository: str | None = _setting(None, _store)
    """Where those backups are: a URL or a directory."""
    drill_scratch: str | None = _setting(None, _store)
    """Where drills restore, in a folder that is deleted afterwards: a URL or a directory. ``None``:
    in the repository."""
    drill_store_options: dict[str, Any] = _setting({}, _mapping)
    """Passed to the fsspec file system of both."""
    drill_rate: int = _setting(0, _integer(0, 1 << 40))
    """Bytes a second that a drill may read and write; 0: as many as it can."""
    min_free_disk: int = _setting(GIB, _integer(0, 1 << 50))
    """Writes are refused once they need another log segment and the local disk has less than this
    free."""
    lease: float = _setting(0.0, _lease)
    """Seconds that a lease in the bucket runs, without which this writer acknowledges nothing; it
    is renewed three times as often. A standby takes over when it has run out. 0: no lease, and
    nobody takes over by itself."""
    prices: dict[str, Any] = _setting({}, _prices)
    """What the bucket costs, for the statistics: dollars for 1,000 requests (``put_or_list``,
    ``get``, ``delete``) and for a GiB kept a month (``gigabyte_month``). Those not given are Amazon
    S3 Standard's."""

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            complaint = setting.metadata["check"](value)
            if complaint:
                raise InvalidRequestError(f"setting {setting.name} {complaint}")
            if isinstance(value, str):
                object.__setattr__(self, setting.name, plain_str(value))

    def check_together(self) -> None:
        """Raise ``InvalidRequestError`` for settings that need others. They may be given one after
        the other, so this is for whoever opens with them."""
        if self.drill_interval and self.drill_repository is None:
            raise InvalidRequestError("setting drill_interval needs the setting drill_repository")
        least = 2 * self.wal_segment_size
        if self.wal_budget < least:  # one segment that is full, and the next
            raise InvalidRequestError(
                f"setting wal_budget must be at least twice wal_segment_size, {least:,}, "
                f"not {self.wal_budget:,}"
            )

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Options:
        """Options from names and values. Raises: ``InvalidRequestError`` for unknown names."""
        unknown = sorted(set(values) - set(SETTING_NAMES))
        if unknown:
            raise InvalidRequestError(
                f"unknown setting {', '.join(unknown)}; known are {', '.join(SETTING_NAMES)}"
            )
        return cls(**values)

    def with_values(self, values: Mapping[str, Any]) -> Options:
        """A copy with some settings replaced."""
        Options.build(values)
        return replace(self, **values)


SETTING_NAMES = tuple(setting.name for setting in fields(Options))


def directory_name(path: object) -> str:
    """The name of a directory that is given as a ``str`` or an ``os.PathLike`` of one.

    Raises ``InvalidRequestError`` for anything else, and for what no file system takes as a name.
    """
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if isinstance(name, str) and name and _is_encodable(name):
        return name
    raise InvalidRequestError(
        "the path must be a directory's name, a str without NUL or an os.PathLike of one, "
        f"not {path!r}"
    )


def plain_str(text: str) -> str:
    """``text`` as a ``str`` and no subclass, as members of enumerations and strings of numpy are,
    which nothing encodes."""
    return str.__str__(text)


def _is_encodable(name: str) -> bool:
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def check_server_url(what: str, url: object) -> None:
    """Raise ``InvalidRequestError`` unless ``url`` may be that of a server. ``what`` it is."""
    if not isinstance(url, str) or not _names_server(url):
        # Where a user ends in what is no URL nobody knows: his password may be why it is none.
        shown = _UP_TO_HOST.sub(r"\1", url) if isinstance(url, str) else url
        raise InvalidRequestError(
            f"{what} must be an http or https URL with a host, a port from 1 to {MAX_PORT:,} if "
            f"any, and neither ? nor #, not {shown!r}"
        )


def _names_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # The system would take a higher port modulo 65,536.
        has_port = parts.port is None or 0 < parts.port <= MAX_PORT
    except ValueError:
        return False
    return _SERVER.fullmatch(url) is not None and bool(parts.hostname) and has_port


def check_max_lag(seconds: object) -> None:
    """Raise ``InvalidRequestError`` unless a replica may be ``seconds`` behind: more than 0."""
    complaint = _number(0, math.inf)(seconds)
    if complaint or seconds in (0, math.inf):
        raise InvalidRequestError(f"max_lag must be seconds above 0, not {seconds!r}")


def chosen(options: object, settings: Mapping[str, Any]) -> Options:
    """``options``, which are ``Options``, ``DBOptions`` or ``None``, overridden by ``settings``.

    Raises ``InvalidRequestError`` for any other options, and for settings that are unknown or bad.
    """
    if isinstance(options, DBOptions):
        options = Options.build(options.values)
    elif options is None:
        options = Options()
    elif not isinstance(options, Options):
        raise InvalidRequestError(
            f"options must be DBOptions, Options or None, not {type(options).__name__}; "
            "settings are given by their names"
        )
    return options.with_values(settings)


class _Setter(Generic[T]):
    """A chained method named like the setting it replaces."""

    def __set_name__(self, owner: type[DBOptions], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, builder: None, owner: type[DBOptions]) -> _Setter[T]: ...
    @overload
    def __get__(self, builder: DBOptions, owner: type[DBOptions]) -> Callable[[T], DBOptions]: ...
    def __get__(
        self, builder: DBOptions | None, owner: type[DBOptions]
    ) -> _Setter[T] | Callable[[T], DBOptions]:
        if builder is None:
            return self
        name = self._name
        return lambda value: DBOptions(**{**builder.values, name: value})


class DBOptions:
    """Settings gathered step by step; every method returns a new value.

    ::

        db = DBOptions().memtable_capacity(64 << 20).store("s3://bucket/prefix").open("./my_db")

    Raises ``InvalidRequestError`` at once for an unknown name or a value out of bounds.
    Immutable, so one may open several databases.
    """

    store = _Setter[str | None]()
    store_options = _Setter[dict[str, Any]]()
    durability = _Setter[str]()
    sync = _Setter[str]()
    sync_interval = _Setter[float]()
    memtable_capacity = _Setter[int]()
    wal_segment_size = _Setter[int]()
    wal_compression = _Setter[str]()
    wal_direct_io = _Setter[bool]()
    wal_retention = _Setter[str]()
    wal_budget = _Setter[int]()
    ship_interval = _Setter[float]()
    recovery = _Setter[str]()
    block_size = _Setter[int]()
    compression = _Setter[str]()
    blob_threshold = _Setter[int]()
    filter_bits_per_key = _Setter[int]()
    filter_prefix = _Setter[int]()
    index = _Setter[str]()
    block_cache_capacity = _Setter[int]()
    disk_cache_capacity = _Setter[int]()
    pin_levels = _Setter[int]()
    merge_operator = _Setter[str | None]()
    background = _Setter[str]()
    compaction = _Setter[str]()
    compaction_rate = _Setter[int]()
    history_retention = _Setter[float]()
    drill_interval = _Setter[float]()
    drill_repository = _Setter[str | None]()
    drill_scratch = _Setter[str | None]()
    drill_store_options = _Setter[dict[str, Any]]()
    drill_rate = _Setter[int]()
    min_free_disk = _Setter[int]()
    lease = _Setter[float]()
    prices = _Setter[dict[str, Any]]()

    def __init__(self, **values: Any) -> None:
        self.values: Mapping[str, Any] = values
        Options.build(values)

    def __repr__(self) -> str:
        shown = {n: "…" if n.endswith("store_options") else v for n, v in self.values.items()}
        return f"DBOptions({', '.join(f'{n}={v!r}' for n, v in shown.items())})"

    def open(self, path: Directory) -> DB:
        """Open the database in directory ``path`` with these settings; see ``DB.open``."""
        from seerdb.db import DB

        return DB.open(path, **self.values)
