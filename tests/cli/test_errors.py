"""What goes wrong is one line on standard error and a number that scripts can tell apart."""

from __future__ import annotations

import errno
import http.server
import inspect
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import msgspec
import pytest

from seerdb import DB, errors
from seerdb import __main__ as entry
from seerdb.cli.client import PROBLEMS
from seerdb.cli.main import BROKEN_PIPE, EXIT_CODES, exit_code
from seerdb_api.errors import OF_HTTP
from seerdb_api.errors import PROBLEMS as SERVED
from tests.architecture.source import ROOT
from tests.cli.conftest import SEERDB, Commands, Process, fake_server, reply, reply_problem

OF_ERRORS = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, errors.SeerDBError)
]
CODES = {
    "AlreadyExistsError": 4,
    "BusyError": 7,
    "ChecksumError": 6,
    "ConflictError": 4,
    "CorruptionError": 6,
    "DiskFullError": 7,
    "FencedError": 4,
    "HistoryError": 3,
    "LostError": 4,
    "InvalidRequestError": 2,
    "LockedError": 4,
    "NotFoundError": 3,
    "TruncatedError": 6,
    "UnavailableError": 5,
    "UnsupportedFormatError": 6,
    "WorkerError": 5,
}
"""All others: 1."""


def instance(kind: type[errors.SeerDBError]) -> errors.SeerDBError:
    if issubclass(kind, errors.BusyError):
        return kind("message", retry_after_seconds=1.0)
    return kind("message")


@pytest.mark.parametrize("kind", OF_ERRORS)
def test_each_error_has_its_exit_code(kind: type[errors.SeerDBError]) -> None:
    assert exit_code(instance(kind)) == CODES.get(kind.__name__, 1)


def test_errors_of_the_system_have_exit_codes_too() -> None:
    assert exit_code(PermissionError()) == 1
    assert exit_code(FileNotFoundError()) == 3
    assert exit_code(OSError(errno.ENOSPC, "full")) == 7


@pytest.mark.parametrize("kind", SERVED)
def test_each_error_comes_through_a_server_as_itself(kind: type[errors.SeerDBError]) -> None:
    problem = SERVED[kind]
    assert issubclass(PROBLEMS[problem.type], kind), problem
    with fake_server(
        lambda handler: reply_problem(handler, problem.status, problem.name)
    ) as server:
        outcome = server.commands("stats", expect=CODES.get(kind.__name__, 1))
    assert (outcome.out, outcome.err) == (b"", "seerdb: A title: the detail\n")


@pytest.mark.parametrize("problem", OF_HTTP)
def test_each_problem_of_http_is_known(problem: object) -> None:
    known = {
        "no-such-key": 3,
        "no-such-path": 3,
        "method-not-allowed": 2,
        "precondition-failed": 4,
        "too-slow": 5,
        "too-large": 2,
        "target-too-long": 2,
        "head-too-large": 2,
        "unknown-coding": 2,
        "range-not-satisfiable": 2,
        "not-ready": 5,
        "behind": 5,
    }
    name = getattr(problem, "name")  # noqa: B009 - the parameter is of a private kind
    assert exit_code(PROBLEMS[f"urn:seerdb:{name}"]("message")) == known[name]


def test_the_codes_are_documented_and_in_the_help() -> None:
    told = Commands()("--help").text
    for page in ("docs/cli.md", "docs/operations.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        table = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
        assert {0, *EXIT_CODES.values()} <= table, page
    text = " ".join(told.split())
    for code in (0, *EXIT_CODES.values(), 130, BROKEN_PIPE):
        assert re.search(rf"[:;] {code} \w", text), code


def test_a_server_that_is_not_there_is_unavailable() -> None:
    outcome = Commands("http://127.0.0.1:1")("get", "k", expect=5)
    assert re.fullmatch(r"seerdb: no answer from http://127\.0\.0\.1:1: .*\n", outcome.err)


@pytest.mark.parametrize(("port", "code"), [("1", 5), ("65537", 2)])
def test_the_password_of_a_server_is_not_shown(port: str, code: int) -> None:
    outcome = Commands(f"http://me:hunter2@127.0.0.1:{port}")("get", "k", expect=code)
    assert f"http://127.0.0.1:{port}" in outcome.err
    assert "hunter2" not in outcome.err


@pytest.mark.parametrize("user", ["me:hunter2/x", "me:x/hunter2", "hunter2@x/y"])
def test_the_password_in_what_is_no_url_of_a_server_is_not_shown(user: str) -> None:
    """As one with a slash is none."""
    outcome = Commands(f"http://{user}@127.0.0.1:1?")("get", "k", expect=2)
    assert "not 'http://127.0.0.1:1?'" in outcome.err
    assert "hunter2" not in outcome.err


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://x",
        "http://",
        "http://[::1",
        "http://127.0.0.1:65537",
        "",
        f"http://{'a' * 64}.example",
        "http://http://127.0.0.1:8000",
        "http://127.0.0.1:",
        "http://127.0.0.1:8000?a",
        "http://127.0.0.1:8000/#a",
        "http://a b",
    ],
)
def test_what_is_no_url_is_a_usage_error(url: str) -> None:
    Commands(url)("get", "k", "--url", url, expect=2)


@pytest.mark.parametrize(("status", "body"), [(502, b"<html>"), (404, b"not here")])
def test_a_server_of_something_else_is_told_as_such(status: int, body: bytes) -> None:
    with fake_server(lambda handler: reply(handler, status, body)) as server:
        assert "is the URL right?" in server.commands("get", "k", expect=1).err


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "k"),
        ("get", "k", "--json"),
        ("put", "k", "v"),
        ("delete", "k"),
        ("scan",),
        ("load",),
        ("dump",),
        ("stats",),
        ("flush",),
        ("history", "k"),
        ("checkpoint", "drop", "x"),
        ("backup", "--to", "/x"),
    ],
)
def test_a_success_of_something_else_is_none(arguments: tuple[str, ...]) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "7")
        handler.end_headers()
        handler.wfile.write(b"<html>\n")

    with fake_server(answer) as server:
        outcome = server.commands(*arguments, stdin=b'{"key":"a","value":"1"}', expect=1)
    assert outcome.out == b""
    assert "is the URL right?" in outcome.err


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "nonsense://x"])
def test_a_proxy_that_cannot_be_used_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    outcome = Commands("http://127.0.0.1:1")("get", "k", expect=2)
    assert re.fullmatch("seerdb: the proxy that the environment names .*\n", outcome.err)


@pytest.mark.parametrize(
    "arguments",
    [("no-such-command",), ("get",), ("get", "a", "b"), ("scan", "--limit", "x"), ("inspect", "x")],
)
def test_a_wrong_command_line_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    outcome = Commands()(*arguments, expect=2)
    assert outcome.out == b""
    assert "Usage: " in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "a", "--as-of"),
        ("put", "a", "1", "--durability"),
        ("checkpoint", "create"),
        ("backup", "--to", "/repository", "--label"),
    ],
)
def test_an_argument_that_is_no_text_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    outcome = Commands()(*arguments, os.fsdecode(b"a\xff"), expect=2)
    assert outcome.err == ("seerdb: what is no key or value must be UTF-8, unlike 'a\\udcff'\n")


def test_a_table_is_printed_in_each_locale(server_url: str) -> None:
    settings = {"PYTHONIOENCODING": "ascii", "SEERDB_URL": server_url}
    outcome = Process("stats", environment=settings).end()
    assert (outcome.code, outcome.err) == (0, "")


def test_every_command_explains_itself() -> None:
    commands = Commands()
    listed = re.findall(r"^│ ([a-z-]+) {2,}\w", commands("--help").text, re.MULTILINE)
    assert len(listed) == 24
    for name in listed:
        assert "Usage: " in commands(name, "--help").text
    for name in ("manifest", "table", "wal"):
        assert "Usage: " in commands("inspect", name, "--help").text
    for name in ("list", "verify", "prune"):
        assert "Usage: " in commands("backup", name, "--help").text


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"seerdb \d+\.\d+\.\d+\n", Commands()("--version").text)


def test_a_bug_is_not_hidden() -> None:
    with (
        fake_server(lambda handler: reply(handler, 200, b"{")) as server,
        pytest.raises(msgspec.DecodeError),
    ):
        server.commands("stats")


def test_a_locked_directory_is_a_conflict(tmp_path: Path) -> None:
    with DB.open(str(tmp_path / "data"), min_free_disk=0):
        outcome = Process("serve", str(tmp_path / "data"), "--port", "0").end()
    assert outcome.code == 4
    assert re.fullmatch(rf"seerdb: .*LOCK is locked by process {os.getpid()}; .*\n", outcome.err)


def test_an_interrupt_is_quiet() -> None:
    asked, done = threading.Event(), threading.Event()

    def keep_waiting(_: object) -> None:
        asked.set()
        done.wait()

    with fake_server(keep_waiting) as server:
        process = Process("get", "k", environment={"SEERDB_URL": server.commands.url})
        assert asked.wait(60)
        process.popen.send_signal(signal.SIGINT)
        outcome = process.end()
        done.set()
    assert (outcome.code, outcome.out, outcome.err) == (130, b"", "")


class Interrupted(ModuleType):
    """Ctrl-C comes while it is loaded."""

    def __getattr__(self, _: str) -> NoReturn:
        raise KeyboardInterrupt


def test_an_interrupt_while_the_commands_are_loaded_is_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setitem(sys.modules, "seerdb.cli.main", Interrupted("main"))
    with pytest.raises(SystemExit, match=r"^130$"):
        entry.main()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_lets_go_of_what_it_holds(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Of the lock of a repository, without which a prune is refused for ten minutes."""
    with DB.open(tmp_path / "db", background="inline", min_free_disk=0) as db:
        db.put(b"k", b"v" * 10_000)
    places = "--from", str(tmp_path / "db"), "--to", str(tmp_path / "copies")
    Commands()("backup", *places)
    with DB.open(tmp_path / "db", background="inline", min_free_disk=0) as db:
        for key in range(3):
            db.put(b"k%d" % key, random.randbytes(10_000))
            db.flush()
    process = Process("backup", *places, "--rate", "1")  # would take hours
    locks = tmp_path / "copies" / "locks"
    while not (locks.exists() and list(locks.iterdir())):
        assert process.popen.poll() is None
    process.popen.send_signal(number)
    outcome = process.end()
    assert (outcome.code, outcome.out, outcome.err) == (128 + number, b"", "")
    Commands()("backup", "prune", str(tmp_path / "copies"), "--keep-last", "1", "--yes")


def close_output(process: Process) -> None:
    assert process.popen.stdout is not None
    process.popen.stdout.close()
    process.popen.stdout = None


def test_a_reader_that_goes_away_is_no_error(seerdb: Commands) -> None:
    lines = b"".join(b'{"key":"k%05d","value":"%s"}\n' % (n, b"v" * 1000) for n in range(1000))
    seerdb("load", stdin=lines)
    for arguments in (["scan"], ["dump"]):
        process = Process(*arguments, environment={"SEERDB_URL": seerdb.url})
        assert process.popen.stdout is not None
        assert process.popen.stdout.read(10)
        close_output(process)
        outcome = process.end()
        assert (outcome.code, outcome.err) == (141, ""), arguments


@pytest.mark.parametrize("command", ["get k", "flush", "stats"])
def test_a_reader_that_was_never_there_is_no_error(seerdb: Commands, command: str) -> None:
    seerdb("put", "k", "v")
    reading, writing = os.pipe()
    os.close(reading)
    process = Process(*command.split(), environment={"SEERDB_URL": seerdb.url}, stdout=writing)
    os.close(writing)
    outcome = process.end()
    assert (outcome.code, outcome.err) == (141, "")


@pytest.mark.parametrize("command", ["--help", "--version", "get --help"])
def test_help_that_cannot_be_printed_is_told_as_all_else(command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = Process(*command.split(), stdout=writing)
    os.close(writing)
    outcome = process.end()
    assert (outcome.code, outcome.err) == (141, "")
    with Path("/dev/full").open("wb") as full:
        outcome = Process(*command.split(), stdout=full.fileno()).end()
    assert (outcome.code, outcome.err.count("\n")) == (7, 1)


def test_nothing_heavy_is_loaded_to_print_the_help() -> None:
    code = "import sys; from seerdb.cli import main; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"httpx", "rich", "seerdb_api", "fastapi", "uvicorn", "s3fs"} & set(loaded)
    assert SEERDB[-1] in loaded
