"""dump and load: what comes out goes in again, and nothing is lost quietly."""

from __future__ import annotations

import http.server
import json
from pathlib import Path

import pytest

from seerdb.cli.transfer import BATCH_BYTES, BATCH_OPERATIONS
from tests.cli.conftest import Commands, fake_server, reply, reply_problem

Handler = http.server.BaseHTTPRequestHandler

ITEM = b'{"key":"a","value":"1","seq":7}\n'
LINES = b"".join(
    b'{"key":"k%05d","value":"%d"}\n' % (n, n) for n in range(2 * BATCH_OPERATIONS + 1)
)


def test_a_dump_loads_into_the_same_database(seerdb: Commands, tmp_path: Path) -> None:
    seerdb("load", stdin=LINES)
    seerdb("put", "--hex", "00ff", "-", stdin=b"\xff\x00")
    seerdb("put", "large", "-", stdin=b"\xfe" * (BATCH_BYTES + 1))
    seerdb("put", "empty", "")
    before = seerdb("scan").out
    file = str(tmp_path / "dump")
    summary = seerdb("dump", file, "--json").json
    assert summary["entries"] == 2 * BATCH_OPERATIONS + 4
    assert summary["bytes"] == Path(file).stat().st_size
    seerdb("delete", "--hex", "--start", "00", "--end", "ff")
    assert seerdb("scan").out == b""
    assert seerdb("load", file, "--json").json == summary
    assert seerdb("scan").out == before


def test_dump_and_load_are_pipes_by_default(seerdb: Commands) -> None:
    seerdb("put", "a", "1")
    seerdb("put", "b", "2")
    lines = seerdb("dump", "-", "--prefix", "a").out
    assert json.loads(lines).keys() == {"key", "value", "seq"}
    seerdb("delete", "a")
    assert seerdb("load", stdin=lines + b"\n  \n").text.startswith("loaded 1 entries")
    assert seerdb("dump").out.count(b"\n") == 2


def test_many_lines_go_in_few_batches() -> None:
    with fake_server(lambda handler: reply(handler, 200, b"{}")) as server:
        server.commands("load", "--durability", "memory", stdin=LINES)
    assert [request for request, _ in server.requests] == ["POST /v1/batch"] * 3
    bodies = [json.loads(body) for _, body in server.requests]
    assert [len(body["ops"]) for body in bodies] == [BATCH_OPERATIONS, BATCH_OPERATIONS, 1]
    assert bodies[2] == {
        "ops": [{"op": "put", "key": "k02000", "value": "2000"}],
        "durability": "memory",
    }


def test_a_batch_has_a_size_and_a_larger_value_travels_alone() -> None:
    wide = b'{"key":"k","value":"%s"}\n' % (b"v" * (BATCH_BYTES // 2))
    wider = b'{"key":"l","value":"%s"}\n' % (b"v" * BATCH_BYTES)
    with fake_server(lambda handler: reply(handler, 200, b"{}")) as server:
        server.commands("load", stdin=wide * 3 + wider)
    requests = [request for request, _ in server.requests]
    assert requests == ["POST /v1/batch", "POST /v1/batch", "PUT /v1/kv/l"]
    assert server.requests[2][1] == b"v" * BATCH_BYTES


@pytest.mark.parametrize(
    "line",
    [
        b"no json",
        b"[]",
        b'{"key":"a"}',
        b'{"value":"a"}',
        b'{"key":"a","key_base64":"YQ==","value":"1"}',
        b'{"key":"a","value":"1","other":"2"}',
        b'{"key":"a","value_base64":"?"}',
        b'{"key":"a","value":"\xff"}',
        b'{"key":"a","value":null}',
    ],
)
def test_a_bad_line_is_named_and_what_was_loaded_is_told(seerdb: Commands, line: bytes) -> None:
    error = seerdb("load", stdin=LINES + line + b"\n", expect=2).err
    assert f"line {2 * BATCH_OPERATIONS + 2:,} " in error
    assert f"{2 * BATCH_OPERATIONS:,} entries were loaded before that" in error
    assert error.count("\n") == 1
    assert seerdb("scan", "--keys-only").out.count(b"\n") == 2 * BATCH_OPERATIONS


def test_a_busy_server_is_asked_again() -> None:
    waits = iter("000")

    def answer(handler: Handler) -> None:
        wait = next(waits, None)
        if wait is None:
            reply(handler, 200, b"{}")
        else:
            reply_problem(handler, 429, "busy", retry_after=wait)

    with fake_server(answer) as server:
        assert server.commands("load", "--json", stdin=ITEM * 3).json["entries"] == 3
    assert len(server.requests) == 4
    assert len(set(server.requests)) == 1, "the same batch each time"


def test_a_file_that_is_not_there_is_not_found(seerdb: Commands) -> None:
    assert "no-such-file" in seerdb("load", "no-such-file", expect=3).err


PROBLEM = b'{"type":"urn:seerdb:checksum","title":"Stored data is damaged","status":500}\n'


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (ITEM + PROBLEM, 6, "Stored data is damaged"),
        (PROBLEM, 6, "Stored data is damaged"),
        (ITEM + ITEM[:20], 5, "cut off within a line"),
        (ITEM + b"nonsense\n", 1, "not SeerDB's"),
    ],
)
def test_a_stream_that_fails_on_the_way_is_no_dump(
    tmp_path: Path, body: bytes, code: int, message: str
) -> None:
    file = tmp_path / "dump"
    file.write_bytes(b"of yesterday")
    with fake_server(lambda handler: reply(handler, 200, body)) as server:
        assert message in server.commands("dump", str(file), expect=code).err
        shown = server.commands("scan", "--json", expect=code)
        assert message in shown.err
        assert shown.out == ITEM * body.startswith(ITEM)
    assert file.read_bytes() == b"of yesterday"
    assert [found.name for found in tmp_path.iterdir()] == ["dump"]


def test_a_connection_that_breaks_between_lines_is_noticed() -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        handler.wfile.write(ITEM)
        handler.close_connection = True

    with fake_server(answer) as server:
        assert "no answer from" in server.commands("dump", expect=5).err


def test_lines_are_found_wherever_the_network_cuts_them() -> None:
    body = ITEM * 3

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(body), 7):
            piece = body[start : start + 7]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.flush()
        handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    with fake_server(answer) as server:
        assert server.commands("dump").out == body
        assert server.commands("scan").text == "a\t1\n" * 3
