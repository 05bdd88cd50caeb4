"""dump and load: what comes out goes in again, and nothing is lost quietly."""

from __future__ import annotations

import http.server
import io
import json
import os
import stat
import threading
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from seerdb import DB, InvalidRequestError, UnavailableError
from seerdb.cli import formats, transfer
from seerdb.cli.directory import open_directory
from seerdb.cli.transfer import BATCH_BYTES, BATCH_OPERATIONS
from seerdb.options import Options
from seerdb.storage.ingest.dump import DumpDecoder, DumpEncoder
from seerdb.storage.ingest.run import IngestReport
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.stores import Stores
from seerdb.testing.objects import MemoryObjectStore, StallingObjectStore
from tests.cli.conftest import Commands, fake_server, reply, reply_problem

Handler = http.server.BaseHTTPRequestHandler

SOON_SECONDS = 30.0

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


def test_a_dump_replaces_neither_a_pipe_nor_a_link(seerdb: Commands, tmp_path: Path) -> None:
    seerdb("put", "a", "1")
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    link.symlink_to(target)
    seerdb("dump", str(pipe))
    seerdb("dump", str(link))
    assert pipe.is_fifo()
    assert os.read(reader, 1000) == target.read_bytes() == seerdb("dump").out
    assert link.is_symlink()
    os.close(reader)


def test_a_dump_leaves_other_files_alone(seerdb: Commands, tmp_path: Path) -> None:
    seerdb("put", "a", "1")
    mine = tmp_path / "dump.partial"
    mine.write_text("mine")
    seerdb("dump", str(tmp_path / "dump"))
    assert mine.read_text() == "mine"
    assert {each.name for each in tmp_path.iterdir()} == {"dump", "dump.partial"}


def test_a_dump_has_its_name_once_it_is_on_the_disk(
    seerdb: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seerdb("put", "a", "1")
    synced: list[tuple[int, bool]] = []
    file = tmp_path / "dump"

    def sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((0 if stat.S_ISDIR(status.st_mode) else status.st_size, file.exists()))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", sync)
        seerdb("dump", str(file))
    assert synced == [(file.stat().st_size, False), (0, True)]


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


def test_a_large_value_whose_key_no_path_holds_is_loaded_too(seerdb: Commands) -> None:
    key, value = "\x01" * 60_000, "v" * (BATCH_BYTES + 1)
    line = json.dumps({"key": key, "value": value}).encode()
    assert seerdb("load", "--json", stdin=line + b"\n" + ITEM).json["entries"] == 2
    [large, small] = map(json.loads, seerdb("dump").out.splitlines())
    assert (large["key"], large["value"]) == (key, value)
    assert small["key"] == "a"


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
        (ITEM + b'{"type":"","title":"\xe9"}\n', 1, "not SeerDB's"),
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
        handler.send_header("seerdb-seq", "1")
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
        handler.send_header("seerdb-seq", "1")
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


AWKWARD = {
    **{bytes([byte]): bytes([255 - byte, byte]) for byte in range(256)},
    bytes(range(256)): bytes(range(256)) * 40,
    b"empty": b"",
    b"k" * 65_535: b"longest key",
    b"large": bytes(3 << 20),
}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with awkward rows, and no server."""
    monkeypatch.setenv("SEERDB_MIN_FREE_DISK", "0")
    monkeypatch.setenv("SEERDB_BACKGROUND", "thread")
    path = tmp_path / "data"
    with DB.open(str(path), min_free_disk=0) as db:
        for key, value in AWKWARD.items():
            db.put(key, value, durability="memory")
    return path


def contents(path: Path) -> dict[bytes, bytes]:
    with DB.open(str(path), min_free_disk=0) as db:
        return dict(db.scan())


@pytest.mark.parametrize("form", ["json", "binary"])
def test_every_byte_survives_a_dump_and_a_load_between_directories(
    directory: Path, tmp_path: Path, form: str
) -> None:
    commands, file, other = Commands(), str(tmp_path / "dump"), tmp_path / "other"
    dumped = commands("dump", file, "--format", form, "--data-dir", str(directory), "--json").json
    assert dumped == {"entries": len(AWKWARD), "bytes": Path(file).stat().st_size}
    loaded = commands("load", file, "--data-dir", str(other), "--json").json
    assert (loaded["entries"], loaded["bytes"]) == (len(AWKWARD), dumped["bytes"])
    assert (loaded["seq"], len(loaded["tables"])) == (1, 1)
    assert contents(other) == AWKWARD
    piped = commands("dump", "--format", form, "--data-dir", str(directory)).out
    assert piped == Path(file).read_bytes()
    third = tmp_path / "third"
    assert commands("load", "-", "--data-dir", str(third), stdin=piped).text.startswith(
        "loaded 260"
    )
    assert contents(third) == AWKWARD


@pytest.mark.parametrize("form", ["json", "binary"])
def test_a_dump_of_a_directory_loads_through_a_server_and_comes_back(
    seerdb: Commands, directory: Path, form: str
) -> None:
    out = seerdb("dump", "--format", form, "--data-dir", str(directory)).out
    summary = seerdb("load", "--json", stdin=out).json
    assert summary == {"entries": len(AWKWARD), "bytes": len(out)}
    served = seerdb("dump", "--format", "binary").out
    local = seerdb("dump", "--format", "binary", "--data-dir", str(directory)).out
    assert pairs(served) == pairs(local) == sorted(AWKWARD.items())


def pairs(data: bytes) -> list[tuple[bytes, bytes]]:
    decoder = DumpDecoder(io.BytesIO(data).read, "it")
    return [pair for chunk in decoder for pair in zip(*chunk, strict=True)]


def test_a_range_of_a_directory_is_dumped(directory: Path) -> None:
    out = Commands()("dump", "--data-dir", str(directory), "--prefix", "e").out
    assert [json.loads(line)["key"] for line in out.splitlines()] == ["e", "empty"]


def test_what_is_loaded_may_come_in_any_order_and_more_than_once(tmp_path: Path) -> None:
    lines = b"".join(b'{"key":"%d","value":"%d"}\n' % (n * 7 % 10, n) for n in range(25))
    commands, path = Commands(), tmp_path / "data"
    loaded = commands("load", "--data-dir", str(path), "--json", stdin=lines).json
    assert (loaded["entries"], loaded["bytes"]) == (10, len(lines))
    assert contents(path) == {b"%d" % (n * 7 % 10): b"%d" % n for n in range(25)}


def test_a_bar_does_not_stand_at_its_end_while_tables_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar, ingest = Progress(disable=True), DB.ingest
    shown: list[tuple[str, bool]] = []

    def ingest_all(database: DB, pairs: Iterable[tuple[bytes, bytes]]) -> IngestReport:
        gathered = list(pairs)
        shown.extend((task.description, task.finished) for task in bar.tasks)
        return ingest(database, gathered)

    monkeypatch.setattr(transfer, "progress_bar", lambda _: nullcontext(bar))
    monkeypatch.setattr(DB, "ingest", ingest_all)
    file = tmp_path / "lines"
    file.write_bytes(ITEM)
    Commands()("load", str(file), "--data-dir", str(tmp_path / "data"))
    assert shown == [("making tables", False)]


def test_an_empty_input_loads_nothing(tmp_path: Path) -> None:
    for number, nothing in enumerate((b"", b"\n \n")):
        path = str(tmp_path / str(number))
        loaded = Commands()("load", "--data-dir", path, "--json", stdin=nothing).json
        assert (loaded["entries"], loaded["seq"], loaded["tables"]) == (0, 0, [])


@pytest.mark.parametrize(
    "line",
    [
        b"no json",
        b'{"key":"","value":"1"}',
        b'{"key":"%s","value":"1"}' % (b"k" * 65_536),
        b'{"key":"a"}',
    ],
)
def test_a_bad_line_is_named_and_a_directory_is_not_changed(directory: Path, line: bytes) -> None:
    error = Commands()("load", "--data-dir", str(directory), stdin=LINES + line, expect=2).err
    assert f"line {2 * BATCH_OPERATIONS + 2:,} cannot be loaded" in error
    assert error.endswith("; nothing was changed\n")
    assert contents(directory) == AWKWARD


def test_a_blank_first_line_counts(tmp_path: Path) -> None:
    error = Commands()("load", "--data-dir", str(tmp_path / "d"), stdin=b"\nno\n", expect=2).err
    assert "line 2 " in error


class Endless(io.RawIOBase):
    """``head``, then the same byte for ever, of which a test reads no more than some."""

    def __init__(self, head: bytes, byte: bytes) -> None:
        self._head = head
        self._byte = byte
        self._most = 64 << 20

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head or self._byte * len(buffer)
        self._head = b""
        self._most -= len(data)
        assert self._most >= 0
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize(
    ("head", "byte"), [(b"", b"\0"), (b"\n", b"x"), (b'{"key":"a","value":"', b"x")]
)
def test_a_line_without_an_end_is_not_read_for_ever(
    head: bytes, byte: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_LINE", 4 << 20)
    source = formats.Source(io.BufferedReader(Endless(head, byte)), "device")
    with pytest.raises(InvalidRequestError, match=r"line \d cannot be loaded"):
        list(source)


@pytest.mark.parametrize("size", [formats.LOOK, formats.LOOK - 1, 3 * formats.LOOK])
def test_a_line_may_be_long(size: int) -> None:
    lines = b"".join(b'  {"key":"%d","value":"%s"}\r\n' % (n, b"v" * size) for n in range(3))
    source = formats.Source(io.BytesIO(lines), "file")
    assert list(source) == [(b"%d" % n, b"v" * size) for n in range(3)]
    assert source.size == len(lines)


def test_a_binary_dump_that_is_cut_or_damaged_changes_nothing(directory: Path) -> None:
    encoder = DumpEncoder(compress=True)
    chunks = b"".join(encoder.chunks([b"a", b"b"], [b"1" * 50, b"2"]))
    whole = encoder.start() + chunks + encoder.end()
    commands, before = Commands(), contents(directory)
    for size in range(1, len(whole), 9):
        error = commands("load", "--data-dir", str(directory), stdin=whole[:size], expect=6).err
        assert f"standard input at byte {size}: the dump is cut off" in error
        assert "nothing was changed" in error
    flipped = whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]
    error = commands("load", "--data-dir", str(directory), stdin=flipped, expect=6).err
    assert "standard input at byte 16: the dump is damaged" in error
    assert contents(directory) == before
    file = directory.parent / "dump"
    file.write_bytes(whole[:-1])
    assert str(file) in commands("load", str(file), "--data-dir", str(directory), expect=6).err


def test_a_directory_that_a_server_has_open_is_locked(seerdb: Commands, server_data: Path) -> None:
    for command in ("load", "dump"):
        assert "locked" in seerdb(command, "--data-dir", str(server_data), expect=4).err


def test_arguments_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    commands, path = Commands(), str(tmp_path / "data")
    assert "--data-dir" in commands("load", "--store", path, expect=2).err
    assert "--data-dir" in commands("dump", "--store", path, expect=2).err
    assert (
        "--durability"
        in commands("load", "--data-dir", path, "--durability", "local", expect=2).err
    )


def test_the_bucket_of_a_directory_may_be_elsewhere(directory: Path, tmp_path: Path) -> None:
    commands, bucket = Commands(), str(tmp_path / "bucket")
    path = str(tmp_path / "other")
    out = commands("dump", "--data-dir", str(directory), "--format", "binary").out
    commands("load", "--data-dir", path, "--store", bucket, stdin=out)
    assert Path(bucket, "tables").is_dir()
    assert commands("dump", "--data-dir", path, "--store", bucket, "--format", "binary").out == out


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, UnavailableError])
def test_what_does_not_end_well_does_not_wait_for_a_silent_bucket(
    kind: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The close waited until five attempts had timed out, for a minute and a quarter."""
    bucket = StallingObjectStore(MemoryObjectStore())
    monkeypatch.setattr(StoreLocation, "open", lambda *_: bucket)
    monkeypatch.setattr(Stores, "answers", lambda _: False)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with open_directory(str(tmp_path), Options(min_free_disk=0)) as database:
                database.put(b"k", b"v")
                bucket.stalls = True
                raise kind
        except BaseException as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SOON_SECONDS)
    ended = not thread.is_alive()
    bucket.close()
    assert ended
    assert [type(error) for error in errors] == [kind]
