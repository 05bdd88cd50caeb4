"""Commits as clients name them: ``seerdb-epoch`` beside ``seerdb-seq``.

A reply to a write has both. Who presents them again, as ``seerdb-epoch`` and ``seerdb-min-seq``,
relies on that commit, and hears 409 ``lost`` if a later writer took over without it.
"""

from __future__ import annotations

from collections.abc import Mapping

from seerdb.errors import InvalidRequestError
from seerdb_api.service import Service

EPOCH_HEADER = b"seerdb-epoch"
SEQ_HEADER = b"seerdb-min-seq"


async def check_commit(service: Service, headers: Mapping[bytes, bytes]) -> None:
    """Raise ``LostError`` if the request names a commit that was lost, ``InvalidRequestError`` if
    it names none rightly. Requires: it has a ``seerdb-epoch``."""
    epoch, seq = _number(EPOCH_HEADER, headers), _number(SEQ_HEADER, headers)
    await service.read(service.db.check_commit, epoch, seq)


def _number(name: bytes, headers: Mapping[bytes, bytes]) -> int:
    text = headers.get(name, b"")
    if not (text.isdigit() and len(text) <= 19):
        raise InvalidRequestError(
            f"header {name.decode()} must be a whole number beside {EPOCH_HEADER.decode()}, "
            f"not {text.decode('latin-1')!r}"
        )
    return int(text)
