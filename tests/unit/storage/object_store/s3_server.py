"""A server that answers as a test says, and all that a store can be asked."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable

from seerdb.storage.object_store.fsspec_store import FsspecObjectStore

KEYS = {"key": "k", "secret": "s"}


class ScriptedServer:
    """Answers one request per connection with the next of ``replies``, byte for byte."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def reply(self, status: str, body: bytes = b"", headers: str = "") -> None:
        length = "" if "Content-Length" in headers else f"Content-Length: {len(body)}\r\n"
        head = f"HTTP/1.1 {status}\r\n{length}{headers}Connection: close\r\n\r\n"
        self.replies.append(head.encode() + body)

    def reply_error(self, status: str, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>by plan</Message></Error>".encode()
        self.reply(status, body, "Content-Type: application/xml\r\n")

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                lines = list(iter(stream.readline, b"\r\n"))
                headers = b"".join(lines).decode("latin-1")
                length = re.search(r"^content-length: (\d+)", headers, re.IGNORECASE | re.MULTILINE)
                stream.read(int(length[1]) if length else 0)
                self.requests.append(headers)
                if self.replies:
                    connection.sendall(self.replies.pop(0))


Call = Callable[[FsspecObjectStore], object]
CALLS: dict[str, Call] = {
    "get": lambda store: store.get("a"),
    "checksum": lambda store: store.checksum("a"),
    "get_range": lambda store: store.get_range("a", 4, 4),
    "put": lambda store: store.put("a", b"data"),
    "put_if_absent": lambda store: store.put_if_absent("a", b"data"),
    "list": lambda store: store.list("tables/"),
    "delete": lambda store: store.delete(["a", "b"]),
}
