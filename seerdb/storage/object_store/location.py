"""Where a bucket is: what a job carries to another process instead of an open store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from seerdb.errors import InvalidRequestError
from seerdb.options import store_complaint, without_password
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.lender import NO_DEBT, Debt
from seerdb.storage.object_store.local_store import LocalObjectStore

_SECRET = re.compile(r"key|secret|token|password|credential|sas|connection|auth", re.IGNORECASE)
_FILE = re.compile(r"file://(localhost(?=/))?")


@dataclass(frozen=True)
class StoreLocation:
    """A directory or an fsspec URL, and the options of its driver. Picklable.

    A relative directory is made absolute at once, as another process may run elsewhere. Raises
    ``InvalidRequestError`` for a name that no store can have.
    ``repr`` and ``str`` mask secrets. ``debt``: what the database there borrows from others.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)
    debt: Debt = NO_DEBT

    def __post_init__(self) -> None:
        complaint = store_complaint(self.url)
        if complaint:
            raise InvalidRequestError(f"a store {complaint}")
        scheme, is_url, path = self.url.partition("://")
        if is_url:
            object.__setattr__(self, "url", f"{scheme.lower()}://{path}")
        directory = self.directory
        if directory is not None:
            object.__setattr__(self, "url", directory)

    @property
    def directory(self) -> str | None:
        """The absolute path of the directory; ``None`` for a remote store."""
        is_file = _FILE.match(self.url)
        path = unquote(self.url[is_file.end() :]) if is_file else self.url
        if "://" in path:
            return None
        try:
            return str(Path(path).expanduser().absolute())
        except RuntimeError as error:
            raise InvalidRequestError(f"there is no such home directory: {path!r}") from error

    def other(self, url: str) -> StoreLocation:
        """Another place, that the same options reach."""
        return replace(self, url=url, debt=NO_DEBT)

    def open(self, patience: float | None = None) -> ObjectStore:
        """A store for this process. Makes no request and creates no directory.

        ``patience``: seconds without an answer after which a request has failed, where the driver
        can be told; ``None``: what the driver thinks.

        Raises: ``InvalidRequestError`` for a protocol or options that cannot be used;
        ``UnavailableError`` where credentials cannot be had.
        """
        directory = self.directory
        if directory is None:
            # Imports for half a second, which a database in a directory does not need.
            from seerdb.storage.object_store.fsspec_store import FsspecObjectStore

            return FsspecObjectStore.open(self.url, self.options, patience)
        if self.options:
            raise InvalidRequestError(
                f"a directory takes no store_options, but has {', '.join(self.options)}"
            )
        return LocalObjectStore(directory)

    def __str__(self) -> str:
        return without_password(self.url)

    def __repr__(self) -> str:
        return f"StoreLocation({str(self)!r}, {_masked(self.options)!r})"


def _masked(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _masked(value)
        if isinstance(value, Mapping)
        else ("***" if _SECRET.search(name) else value)
        for name, value in options.items()
    }
