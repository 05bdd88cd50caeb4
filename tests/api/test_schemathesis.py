"""Requests made up from the OpenAPI document: what it promises is what the server does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis.checks import positive_data_acceptance

from seerdb import DB, Options
from seerdb.clock import SystemClock
from seerdb_api.app import create_app
from seerdb_api.fast import FastPath
from seerdb_api.settings import ServiceSettings

EXAMPLES = 20
"""Requests made up for each operation."""


RELATIONS = [positive_data_acceptance]
"""OpenAPI cannot say that a start is before its end, or that a cursor was handed out."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A served database, in a thread of the test."""
    options = Options(min_free_disk=0, wal_segment_size=1 << 20)
    service = ServiceSettings(options=options, body_limit=1 << 20)
    with DB.open(str(tmp_path_factory.mktemp("db")), options) as db:
        app = FastPath(create_app(service, db), SystemClock())
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
        listening = threading.Event()
        startup = server.startup

        async def startup_and_tell(sockets: object = None) -> None:
            await startup()
            listening.set()

        server.startup = startup_and_tell  # type: ignore[method-assign]
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
        thread.start()
        assert listening.wait(60)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        thread.join()


EXCLUDED = ["/v1/replication/log", "/v1/admin/backups", "/v1/admin/recovery-points"]
"""The first never ends; the others write to, or read from, whatever place they are told."""

MADE_UP_SEQ = "min_seq", "seerdb-min-seq"
"""Reads that wait for a commit which never comes end in 503, as they should."""

schema = schemathesis.openapi.from_dict(create_app(ServiceSettings()).openapi()).exclude(
    path=EXCLUDED
)


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_the_server_keeps_what_its_document_promises(
    case: schemathesis.Case[Any], address: str
) -> None:
    for given in (case.query, case.headers):
        for name in MADE_UP_SEQ:
            (given or {}).pop(name, None)
    case.call_and_validate(base_url=address, timeout=60.0, excluded_checks=RELATIONS)
