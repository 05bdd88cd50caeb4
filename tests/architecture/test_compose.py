"""The container files say what they should, checked without running a container."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from seerdb_api.settings import SETTING_TYPES
from tests.architecture.source import ROOT

COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "infra" / "docker" / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return services


def test_the_stack_is_a_store_a_bucket_and_the_database(services: dict[str, Any]) -> None:
    started = {name for name, service in services.items() if "profiles" not in service}
    assert started == {"minio", "bucket", "seerdb"}


def test_a_standby_shares_the_bucket_and_nothing_else(services: dict[str, Any]) -> None:
    primary, standby = services["seerdb"], services["standby"]
    assert standby["profiles"] == ["standby"]
    assert standby["environment"]["SEERDB_STORE"] == primary["environment"]["SEERDB_STORE"]
    assert standby["environment"]["SEERDB_STANDBY"] == "true"
    assert standby["environment"]["SEERDB_ADVERTISE"] != primary["environment"]["SEERDB_ADVERTISE"]
    assert set(standby["volumes"]).isdisjoint(primary["volumes"])
    assert set(standby["ports"]).isdisjoint(primary["ports"])


def test_every_image_is_built_here_or_pinned(services: dict[str, Any]) -> None:
    for name, service in services.items():
        pinned = re.fullmatch(r".+:(?!latest)[\w.-]+", service["image"])
        assert pinned, f"{name}: {service['image']}"
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base) for base in bases)


def test_each_service_waits_until_the_one_it_needs_is_ready(services: dict[str, Any]) -> None:
    assert services["bucket"]["depends_on"] == {"minio": {"condition": "service_healthy"}}
    assert services["seerdb"]["depends_on"] == {
        "bucket": {"condition": "service_completed_successfully"}
    }
    # After a takeover `seerdb` is the one that waits, which is no health.
    assert services["standby"]["depends_on"] == {"seerdb": {"condition": "service_started"}}
    assert services["minio"]["healthcheck"]["test"]
    assert services["seerdb"]["healthcheck"]["test"]
    assert "healthcheck.py" in str(services["seerdb"]["healthcheck"]["test"])


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert "127.0.0.1:8000:8000" in published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_database_keeps_its_log_on_a_volume_and_has_time_to_flush(
    services: dict[str, Any],
) -> None:
    seerdb = services["seerdb"]
    [mount] = seerdb["volumes"]
    assert mount.endswith(":/data")
    assert seerdb["stop_grace_period"] == "60s"
    assert "/data" in re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[0]


def test_settings_in_the_environment_are_settings(services: dict[str, Any]) -> None:
    names = [name for name in services["seerdb"]["environment"] if name.startswith("SEERDB_")]
    assert "SEERDB_STORE" in names
    assert {name.removeprefix("SEERDB_").lower() for name in names} <= set(SETTING_TYPES)


def test_the_image_runs_as_nobody_special_and_checks_its_health() -> None:
    final_stage = DOCKERFILE.rsplit("FROM ", 1)[1]
    [user] = re.findall(r"^USER (\S+)$", final_stage, re.MULTILINE)
    assert user not in {"root", "0"}
    assert re.search(r"^HEALTHCHECK ", final_stage, re.MULTILINE)


def test_compose_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], check=False).returncode:
        pytest.skip("docker compose is not installed")
    subprocess.run(
        [docker, "compose", "--file", str(COMPOSE), "config", "--quiet"], check=True, timeout=60
    )
