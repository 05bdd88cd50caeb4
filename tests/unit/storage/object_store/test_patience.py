"""A store that does not answer is given up as soon as its user says."""

from __future__ import annotations

import socket

import pytest

from seerdb.errors import UnavailableError
from seerdb.storage.object_store.location import StoreLocation


@pytest.mark.timeout(50)  # the driver itself would wait for a minute, each time
def test_a_server_that_takes_connections_and_says_nothing_is_not_waited_for() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        options = {
            "endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "key": "k",
            "secret": "s",
        }
        store = StoreLocation("s3://bucket/prefix", options).open(patience=0.2)
        try:
            for request in (lambda: store.get("lease"), lambda: store.put("lease", b"x")):
                with pytest.raises(UnavailableError):
                    request()
        finally:
            store.close()
