"""Settings of the service, from four places."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from seerdb.errors import InvalidRequestError
from seerdb.options import MIB, SETTING_NAMES, Options
from seerdb_api.settings import SETTING_TYPES, ServiceSettings


def load(
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> ServiceSettings:
    return ServiceSettings.load(
        config=None if config is None else str(config),
        environment=environment or {},
        flags=flags or {},
    )


def test_defaults() -> None:
    settings = load()
    assert (settings.host, settings.port, settings.data_dir) == ("127.0.0.1", 8000, "data")
    assert (settings.body_limit, settings.log_format) == (64 * MIB, "text")
    assert settings.bucket == "data/bucket"
    assert settings.options == Options(background="process")
    assert ServiceSettings().options == settings.options


def test_every_option_of_the_database_is_a_setting() -> None:
    assert set(SETTING_NAMES) < set(SETTING_TYPES)
    assert not {"options"} & set(SETTING_TYPES)


def test_file_then_environment_then_flag(tmp_path: Path) -> None:
    file = tmp_path / "seerdb.toml"
    file.write_text(
        'port = 1\nhost = "file"\nblock_size = "32KiB"\ndata_dir = "file"\nbackground = "thread"\n'
    )
    environment = {"SEERDB_PORT": "2", "SEERDB_HOST": "environment", "PATH": "/bin", "SEERDB": "x"}
    settings = load(file, environment, {"port": 3, "data_dir": None})
    assert (settings.port, settings.host, settings.data_dir) == (3, "environment", "file")
    assert (settings.options.block_size, settings.options.background) == (32 * 1024, "thread")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("memtable_capacity", "1048576", MIB),
        ("memtable_capacity", "64MiB", 64 * MIB),
        ("memtable_capacity", "2 GiB", 2048 * MIB),
        ("memtable_capacity", "67_108_864", 64 * MIB),
        ("block_size", "4KiB", 4096),
        ("sync_interval", "0.25", 0.25),
        ("wal_direct_io", "true", True),
        ("wal_direct_io", "false", False),
        ("store", "s3://bucket/prefix", "s3://bucket/prefix"),
        ("store_options", '{"endpoint_url":"http://127.0.0.1:9000"}', None),
        ("durability", "object", "object"),
        ("wal_retention", "count:3", "count:3"),
    ],
)
def test_text_is_read_by_the_type_of_its_setting(name: str, text: str, value: object) -> None:
    settings = load(environment={f"SEERDB_{name.upper()}": text})
    expected = {"endpoint_url": "http://127.0.0.1:9000"} if value is None else value
    assert getattr(settings.options, name) == expected
    assert load(flags={name: text}) == settings


def test_tables_of_a_file_stay_tables(tmp_path: Path) -> None:
    file = tmp_path / "seerdb.toml"
    file.write_text('wal_direct_io = true\n[store_options]\nkey = "k"\n')
    options = load(file).options
    assert (options.store_options, options.wal_direct_io) == ({"key": "k"}, True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "http"),
        ("port", "1.5"),
        ("port", ""),
        ("port", "70000"),
        ("port", "-1"),
        ("body_limit", "0"),
        ("body_limit", "64MB"),
        ("host", ""),
        ("data_dir", ""),
        ("log_format", "xml"),
        ("block_size", "1"),
        ("block_size", "4K"),
        ("sync_interval", "soon"),
        ("sync_interval", "nan"),
        ("wal_direct_io", "yes"),
        ("store_options", "[]"),
        ("store_options", "key=value"),
        ("durability", "most"),
        ("advertise", "node-1:8000"),
        ("advertise", "http://"),
        ("advertise", "http://node 1"),
        ("advertise", "http://node-1\nx: y"),
        ("advertise", "http://node-1:65536"),
        ("advertise", "http://node-1:0"),
        ("advertise", "http://http://node-1:8000"),
        ("advertise", "http://node-1:8000?a=b"),
        ("advertise", "http://n\xf6de-1:8000"),
        ("advertise", "http://:8000"),
        ("advertise", "http://[::1"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(InvalidRequestError, match=name):
        load(environment={f"SEERDB_{name.upper()}": text})


@pytest.mark.parametrize("name", ["store_options", "drill_store_options"])
def test_credentials_that_cannot_be_read_are_not_repeated(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=name) as refusal:
        load(environment={f"SEERDB_{name.upper()}": '{"secret": "hunter2"'})
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("primary", ["s3://bucket", "http://node-1:73536"])
def test_a_primary_is_reached_over_http(primary: str) -> None:
    with pytest.raises(InvalidRequestError, match="primary must be an http or https URL"):
        ServiceSettings.build({"replica": True, "store": "s3://bucket", "primary": primary})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", True),
        ("port", 80.5),
        ("host", 7),
        ("max_lag", [1]),
        ("max_lag", True),
        ("standby", 1),
        ("replica", "true "),
        ("primary", 7),
        ("advertise", ["http://127.0.0.1:8000"]),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidRequestError, match=name):
        load(flags={name: value})


def test_a_replica_is_no_standby() -> None:
    flags = {"replica": True, "store": "s3://bucket/prefix"}
    assert load(flags=flags).replica
    with pytest.raises(InvalidRequestError, match="replica and standby"):
        load(environment={"SEERDB_STANDBY": "true"}, flags=flags)


def test_unknown_settings_are_refused_by_name(tmp_path: Path) -> None:
    """PB-10."""
    file = tmp_path / "seerdb.toml"
    file.write_text("blocksize = 1\n")
    with pytest.raises(InvalidRequestError, match="blocksize"):
        load(file)
    with pytest.raises(InvalidRequestError, match="SEERDB_BLOCKSIZE; known are SEERDB_"):
        load(environment={"SEERDB_BLOCKSIZE": "1"})
    with pytest.raises(InvalidRequestError, match="blocksize"):
        load(flags={"blocksize": 1})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "seerdb.toml"
    with pytest.raises(InvalidRequestError, match=r"seerdb\.toml"):
        load(file)
    for content in (b"port =", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(InvalidRequestError, match=r"seerdb\.toml"):
            load(file)


def test_the_password_of_a_server_is_not_shown() -> None:
    with pytest.raises(InvalidRequestError, match="must be ASCII, not 'http://node'") as refusal:
        load(environment={"SEERDB_ADVERTISE": "http://me:hunt\xe9r@node"})
    assert "hunt" not in str(refusal.value)
