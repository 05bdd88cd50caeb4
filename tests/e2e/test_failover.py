"""A primary and its standby as real processes: who takes over, when, and what is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from seerdb.storage.lease.record import LeaseRecord, decode_lease
from seerdb.storage.local.os_files import OsFileSystem
from seerdb.storage.manifest.store import load
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.object_store.location import StoreLocation
from seerdb.storage.object_store.names import LEASE_NAME
from seerdb.storage.opening.overtaken import find_overtaken
from tests.e2e.conftest import Server, http, wait_for
from tests.fixtures.stores import S3Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@dataclass
class Pair:
    """Two servers on one bucket, started alike; the first one is the primary."""

    primary: Server
    standby: Server
    bucket: ObjectStore

    def lease(self) -> LeaseRecord:
        """What the primary said when it last renewed its lease."""
        record = decode_lease(self.bucket.get(LEASE_NAME))
        assert record is not None
        return record

    def start(self) -> None:
        self.primary.start()
        self.standby.start(until="/livez")


@pytest.fixture
def pair(s3: S3Server, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    settings = getattr(request, "param", {})
    url = f"{s3.create_bucket()}/db"
    servers = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        data = tmp_path / name / "data"
        servers.append(Server(data, s3, url, standby="true", min_free_disk="0", **settings))
    bucket = StoreLocation(url, s3.options).open()
    primary, standby = servers
    pair = Pair(primary, standby, bucket)
    yield pair
    bucket.close()
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.resume()
            server.kill()


@dataclass
class Writer:
    """Writes to one server until it dies, at levels ``object`` and ``local`` in turn."""

    url: str
    safe: dict[str, int] = field(default_factory=dict)
    weak: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        number = 0
        with httpx.Client(base_url=self.url, timeout=60.0) as client:
            while True:
                number += 1
                level, promised = (
                    ("object", self.safe) if number % 10 == 0 else ("local", self.weak)
                )
                key = f"{level}-{number:06}"
                try:
                    reply = client.put(f"/v1/kv/{key}", params={"durability": level}, content=b"v")
                except httpx.TransportError:
                    return
                if reply.is_success:
                    promised[key] = int(reply.headers["seerdb-seq"])


@dataclass
class Reader:
    """Reads a key from one server until it is told to end."""

    url: str
    statuses: set[int] = field(default_factory=set)
    seqs: list[int] = field(default_factory=list)
    ends: bool = False

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60.0) as client:
            while not self.ends:
                reply = client.get("/v1/kv/anchor")
                self.statuses.add(reply.status_code)
                self.seqs.append(int(reply.headers["seerdb-seq"]))
                time.sleep(0.01)


def accepts_writes(server: Server) -> bool:
    try:
        return http.put(f"{server.url}/v1/kv/probe", content=b"v", timeout=60.0).is_success
    except httpx.TransportError:
        return False


def reads(server: Server, key: str) -> bytes:
    """The value that it shows; empty while it shows none."""
    reply = http.get(f"{server.url}/v1/kv/{key}", timeout=60.0)
    return reply.content if reply.is_success else b""


def is_ready(server: Server) -> bool:
    return http.get(f"{server.url}/readyz", timeout=60.0).is_success


def waits_for(standby: Server) -> str:
    """What a standby says that it waits for."""
    return str(http.get(f"{standby.url}/readyz").json()["checks"][0]["detail"])


def test_kill_nine_of_the_primary(pair: Pair) -> None:
    pair.start()
    assert not accepts_writes(pair.standby)
    anchor = f"{pair.primary.url}/v1/kv/anchor"
    http.put(anchor, params={"durability": "object"}, content=b"1").raise_for_status()
    wait_for(lambda: reads(pair.standby, "anchor") == b"1", "the standby to show it")
    writer, reader = Writer(pair.primary.url), Reader(pair.standby.url)
    thread, reading = (threading.Thread(target=each.run) for each in (writer, reader))
    thread.start()
    reading.start()
    wait_for(lambda: len(writer.safe) > 20, "writes")
    first = pair.lease().number
    wait_for(lambda: pair.lease().number >= first + 5, "more renewals than a lease lasts")
    assert not is_ready(pair.standby)
    pair.primary.kill()
    wait_for(lambda: accepts_writes(pair.standby), "the standby to take over")
    reader.ends = True
    for each in (thread, reading):
        each.join()
    assert reader.statuses == {200}
    assert reader.seqs == sorted(reader.seqs)
    report = http.post(f"{pair.standby.url}/v1/admin/promote", timeout=60.0).json()
    with httpx.Client(base_url=pair.standby.url, timeout=60.0) as client:
        for key in writer.safe:
            assert client.get(f"/v1/kv/{key}").is_success, f"{key} was acknowledged as object"
        kept = [key for key in writer.weak if client.get(f"/v1/kv/{key}").is_success]
    assert report["seq"] >= max(writer.safe.values())
    assert kept == [key for key, seq in writer.weak.items() if seq <= report["seq"]]
    if report["lost"] is not None:
        assert report["lost"]["from"] == report["seq"] + 1
        assert report["lost"]["to"] <= max([*writer.weak.values(), *writer.safe.values()])
    wal = f"{pair.primary.data}/wal"
    own_log = find_overtaken(OsFileSystem(), wal, pair.bucket, load(pair.bucket))
    assert own_log is not None
    assert own_log.whole
    told = {seq for each in own_log.lost for seq in range(each.first, each.last + 1)}
    acknowledged = set(writer.weak.values())
    assert told & acknowledged == {seq for seq in acknowledged if seq > report["seq"]}
    print(f"lost, exactly: {own_log.lost}")


@pytest.mark.parametrize("pair", [{"ship_interval": 0}], indirect=True)
def test_lost_local_writes_are_told_by_their_numbers(pair: Pair) -> None:
    pair.start()
    with httpx.Client(base_url=pair.primary.url, timeout=60.0) as client:
        safe = client.put("/v1/kv/safe", params={"durability": "object"}, content=b"1")
        pair.primary.run("stats")
        for number in range(5):
            last = client.put(f"/v1/kv/weak{number}", content=b"1")
    wait_for(lambda: pair.lease().seq == int(last.headers["seerdb-seq"]), "a renewal to tell of it")
    pair.primary.kill()
    wait_for(lambda: is_ready(pair.standby), "the standby to take over")
    report = http.post(f"{pair.standby.url}/v1/admin/promote", timeout=60.0).json()
    assert report["seq"] >= int(safe.headers["seerdb-seq"])
    assert report["lost"]["to"] == int(last.headers["seerdb-seq"])
    token = {
        "seerdb-epoch": last.headers["seerdb-epoch"],
        "seerdb-min-seq": last.headers["seerdb-seq"],
    }
    reply = http.get(f"{pair.standby.url}/v1/kv/weak4", headers=token)
    assert (reply.status_code, reply.json()["type"]) == (409, "urn:seerdb:lost")
    assert report["previous"]["address"] == pair.primary.url
    lost = f"are lost: seq {report['seq'] + 1} to {last.headers['seerdb-seq']} of epoch 1"
    assert lost in pair.primary.run("verify", str(pair.primary.data)).stdout
    pair.primary.start(until="/livez")
    wait_for(lambda: "has overtaken the log here" in pair.primary.log(), "it to say what was lost")


def test_a_primary_that_was_stopped_and_goes_on_acknowledges_nothing(pair: Pair) -> None:
    """PB-08."""
    pair.start()
    assert accepts_writes(pair.primary)
    pair.primary.pause()
    answers: list[httpx.Response] = []

    def write(level: str) -> None:
        answers.append(zombie_write(pair.primary, level))

    levels = ["memory", "interval", "local", "object"] * 3
    threads = [threading.Thread(target=write, args=(level,)) for level in levels]
    for thread in threads:
        thread.start()  # the kernel takes their connections and bytes
    wait_for(lambda: accepts_writes(pair.standby), "the standby to take over")
    pair.primary.resume()
    for thread in threads:
        thread.join()
    refused = sorted(answer.json()["type"] for answer in answers)
    print(f"the zombie answered {refused}")
    assert len(refused) == len(levels)
    assert set(refused) <= {"urn:seerdb:fenced", "urn:seerdb:unavailable"}
    process = pair.primary.process
    assert process is not None
    assert process.wait(timeout=60) == 4, "it stops when it learns of its successor"
    assert http.get(f"{pair.standby.url}/v1/kv/zombie").status_code == 404
    pair.primary.start(until="/livez")
    assert not accepts_writes(pair.primary)


def zombie_write(server: Server, level: str) -> httpx.Response:
    return http.put(
        f"{server.url}/v1/kv/zombie", params={"durability": level}, content=b"z", timeout=240.0
    )


def test_there_and_back_again(pair: Pair) -> None:
    """The old primary comes back as the standby, and takes over from a clean stop at once."""
    pair.start()
    http.put(
        f"{pair.primary.url}/v1/kv/a", params={"durability": "object"}, content=b"1"
    ).raise_for_status()
    pair.primary.kill()
    wait_for(lambda: accepts_writes(pair.standby), "the standby to take over")
    pair.primary.start(until="/livez")
    http.put(f"{pair.standby.url}/v1/kv/b", content=b"2").raise_for_status()
    wait_for(lambda: "lease of epoch 2 is held" in waits_for(pair.primary), "a look at the lease")
    assert not accepts_writes(pair.primary)
    assert pair.standby.stop() == 0
    wait_for(lambda: accepts_writes(pair.primary), "the standby to take over")
    for key, value in (("a", b"1"), ("b", b"2")):
        assert http.get(f"{pair.primary.url}/v1/kv/{key}").content == value
    assert pair.primary.stop() == 0
    verified = pair.primary.run("verify", str(pair.primary.data))
    assert verified.returncode == 0, verified.stdout + verified.stderr
