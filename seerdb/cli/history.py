"""``seerdb history``: what a key held since the retention begins."""

from __future__ import annotations

from typing import Any

import msgspec

from seerdb.cli.arguments import DEFAULT_URL, Hex, Json, Url, escaped, key_bytes
from seerdb.cli.client import Client, key_target
from seerdb.cli.keys import Key
from seerdb.cli.output import print_json, print_table


class Version(msgspec.Struct):
    """One version of a key."""

    seq: int
    time: str | None = None
    value: str = ""
    value_base64: bytes = b""
    deleted: bool = False

    @property
    def shown(self) -> str:
        """What people see of it."""
        return "(deleted)" if self.deleted else escaped(self.value.encode() or self.value_base64)


class History(msgspec.Struct):
    """The reply of a server."""

    versions: list[Version]


def history(
    key: Key, *, as_hex: Hex = False, as_json: Json = False, url: Url = DEFAULT_URL
) -> None:
    """Show every version of a key within the retention, oldest first."""
    target = key_target(key_bytes(key, as_hex=as_hex)).replace("/v1/kv/", "/v1/history/", 1)
    with Client(url) as client:
        reply = client.request("GET", target, reply_seconds=None)
    if as_json:
        versions: list[Any] = msgspec.json.decode(reply.content)["versions"]
        print_json(versions)
        return
    found = msgspec.json.decode(reply.content, type=History).versions
    rows = [(f"{each.seq:,}", each.time or "", each.shown) for each in found]
    print_table(("seq", "time", "value"), rows)
