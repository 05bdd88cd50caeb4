"""The driver of Google's object store, as it is used here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import Any


def open_google(options: Mapping[str, Any], silence: float) -> Any:
    """A file system of gcsfs that speaks HTTP only, and sends a request once.

    What fsspec takes asks by gRPC, before each request, which kind of bucket it is, for a minute
    where nobody answers that. A request fails after ``silence`` seconds in which nothing comes.
    """
    from gcsfs.core import GCSFileSystem, aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=silence, sock_read=silence)
    filesystem = GCSFileSystem(**{"requests_timeout": timeout, **options})
    once = GCSFileSystem._request.__wrapped__  # noqa: SLF001 - without its retries
    filesystem._request = MethodType(once, filesystem)  # noqa: SLF001 - no other way
    return filesystem
