"""One adapter per server, ours first."""

from __future__ import annotations

from benchmarks.servers.bare import BareServer
from benchmarks.servers.base import Server
from benchmarks.servers.etcd import EtcdServer
from benchmarks.servers.seerdb import SeerDBServer
from benchmarks.servers.webdis import WebdisServer

SERVERS: tuple[type[Server], ...] = (SeerDBServer, BareServer, EtcdServer, WebdisServer)
SERVER_NAMES = tuple(server.name for server in SERVERS)
