"""serve: where its settings come from, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from seerdb.cli.serve import load_settings
from seerdb.errors import InvalidRequestError
from tests.cli.conftest import SEERDB, Commands, Process, start_server, stop_server
from tests.fixtures.ports import free_port


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "seerdb.toml"
    config.write_text('port = 1\nhost = "h1"\ndurability = "memory"\nstore = "file:///b1"\n')
    monkeypatch.setenv("SEERDB_PORT", "2")
    monkeypatch.setenv("SEERDB_HOST", "h2")
    monkeypatch.setenv("SEERDB_MEMTABLE_CAPACITY", "1MiB")
    monkeypatch.setenv("SEERDB_URL", "http://is.no.setting")
    settings = load_settings(str(config), port=3, host=None, data_dir=None)
    assert (settings.port, settings.host, settings.data_dir) == (3, "h2", "data")
    assert settings.options.durability == "memory"
    assert settings.options.memtable_capacity == 1 << 20
    assert settings.bucket == "file:///b1"


def test_an_unknown_setting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEERDB_PROT", "2")
    with pytest.raises(InvalidRequestError, match="SEERDB_PROT"):
        load_settings(None)
    assert "SEERDB_PROT" in Commands()("serve", expect=2).err


@pytest.mark.parametrize(
    "flags",
    [
        ("--port", "x"),
        ("--port", "70000"),
        ("--log-format", "x"),
        ("--config", "nowhere"),
        ("--replica",),
        ("--primary", "http://127.0.0.1:1"),
    ],
)
def test_a_wrong_flag_is_a_usage_error(flags: tuple[str, ...], tmp_path: Path) -> None:
    Commands()("serve", str(tmp_path / "data"), *flags, expect=2)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid", "a..b"])
def test_who_cannot_listen_does_not_open_the_database(tmp_path: Path, host: str) -> None:
    """An opening would have fenced the server that has the port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        outcome = Commands()(
            "serve", str(tmp_path / "data"), "--host", host, "--port", port, expect=1
        )
    assert re.fullmatch(rf"seerdb: cannot listen on {host} port {port}: .+\n", outcome.err)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_well_and_everything_is_in_tables(
    tmp_path: Path, number: signal.Signals
) -> None:
    data, store = tmp_path / "data", tmp_path / "elsewhere"
    process, url = start_server(data, "--store", str(store), "--log-format", "json")
    Commands(url)("put", "k", "v")
    process.popen.send_signal(number)
    outcome = process.end()
    assert outcome.code == 0, outcome
    assert '"event":"flush completed"' in outcome.err.replace('": "', '":"')
    assert len(list((store / "tables").iterdir())) == 1
    assert not (data / "bucket").exists()
    assert "segments" in Commands()("verify", str(data), "--store", str(store)).text


def test_a_server_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process, url = start_server(tmp_path / "data")
    finally:
        signal.signal(signal.SIGHUP, before)
    process.popen.send_signal(signal.SIGHUP)
    Commands(url)("put", "k", "v")
    assert stop_server(process).code == 0


def test_a_replica_follows_its_primary_live(tmp_path: Path) -> None:
    """Both servers end at once, though a stream without end is between them."""
    store = str(tmp_path / "bucket")
    primary, url = start_server(tmp_path / "data", "--store", store)
    Commands(url)("put", "k", "v1")
    flags = "--store", store, "--replica", "--primary", url
    replica, its_url = start_server(tmp_path / "cache", *flags)
    Commands(url)("put", "k", "v2")
    with httpx.Client(base_url=its_url, timeout=120.0) as client:
        reply = client.get("/v1/kv/k", headers={"seerdb-min-seq": "2", "seerdb-deadline": "60"})
        assert (reply.status_code, reply.content) == (200, b"v2")
        while not client.get("/v1/admin/status").json()["is_live"]:
            pass  # until the stream has caught up with what came through the bucket
    assert f"{url}, live; at seq 2 of epoch 1" in Commands(its_url)("stats").text
    assert url in Commands(its_url)("put", "k", "v3", expect=1).err
    for process in (primary, replica):
        assert "timeout graceful shutdown exceeded" not in stop_server(process).err


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    process, url = start_server(tmp_path / "one")
    try:
        second = Process("serve", str(tmp_path / "two"), "--port", url.rpartition(":")[2]).end()
        assert second.code == 1
    finally:
        stop_server(process)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=60.0).is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
def test_a_server_whose_output_nobody_takes_serves(tmp_path: Path, streams: str) -> None:
    port, data = str(free_port()), str(tmp_path / "data")
    command = [*SEERDB, "serve", data, "--port", port]
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$0" "$@" {streams}', *command],
        env={**os.environ, "SEERDB_BACKGROUND": "thread", "SEERDB_MIN_FREE_DISK": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while not answers(url):
            assert process.poll() is None
        Commands(url)("put", "k", "v")
        assert Commands(url)("get", "k").text == "v"
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert "sound" in Commands()("verify", data).text


def test_a_command_without_an_output_fails_in_one_line(server_url: str) -> None:
    shell = ["sh", "-c", 'exec "$0" "$@" >&-', *SEERDB, "stats", "--url", server_url]
    failed = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert failed.returncode
    assert failed.stderr.startswith("seerdb: ")
    assert "Traceback" not in failed.stderr
