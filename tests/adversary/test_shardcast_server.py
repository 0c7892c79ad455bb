"""The artifact server against strangers: half-open and slow connections, malformed requests, names that are paths."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from eth_account import Account

from commonweight.core import merkle
from commonweight.shardcast.access import Doorkeeper
from commonweight.shardcast.gossip import Rumours
from commonweight.shardcast.limits import LIMITS
from commonweight.shardcast.server import ArtifactServer
from commonweight.shardcast.signing import Domain, sign_request
from commonweight.shardcast.store import Store
from commonweight.shardcast.writing import Inbox

from ..shardcast_fuzz import ROUTES, case
from ..shardcast_peers import blob

SHORT = replace(
    LIMITS, header_seconds=0.6, idle_seconds=0.6, stall_seconds=0.8, response_seconds=3.0, poll_seconds=0.3
)
DATA = blob(merkle.SHARD + 7)
ROOT = merkle.root(DATA)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ArtifactServer]:
    store = Store(tmp_path / "store")
    store.put(DATA)
    store.put(b"secret", published=False)
    with ArtifactServer(store, "127.0.0.1", 0, limits=SHORT) as running:
        yield running


def ask(
    server: ArtifactServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    line = http.client.HTTPConnection(server.host, server.port, timeout=10)
    try:
        line.request(method, path, headers=headers)
        answer = line.getresponse()
        return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
    finally:
        line.close()


def connect(server: ArtifactServer, text: bytes = b"") -> socket.socket:
    line = socket.create_connection((server.host, server.port), timeout=10)
    line.sendall(text)
    return line


def until_closed(line: socket.socket) -> bytes:
    """What the server still says before it hangs up; a timeout fails the test."""
    out = b""
    with contextlib.suppress(ConnectionResetError), line:
        while piece := line.recv(65536):
            out += piece
    return out


# -- what is served -------------------------------------------------------------------------------------------


def test_manifest_shards_and_what_is_here(server: ArtifactServer) -> None:
    base = f"/v1/artifacts/{ROOT.hex()}"
    assert ask(server, base)[0] == 200
    assert ask(server, f"{base}/shards/1")[1] == DATA[merkle.SHARD :]
    assert ask(server, f"{base}/have/0")[1] == b"\x03"
    status, body, headers = ask(server, f"{base}/any/1")
    assert (status, body, headers["shard"], headers["have"]) == (200, DATA[merkle.SHARD :], "1", "3")


def test_the_least_given_shard_goes_first(server: ArtifactServer) -> None:
    path = f"/v1/artifacts/{ROOT.hex()}/any/0,1"
    given = [ask(server, path)[2]["shard"] for _ in range(4)]
    assert sorted(given) == ["0", "0", "1", "1"]
    assert given[0] != given[1]


def test_no_news_is_said_after_a_while(server: ArtifactServer) -> None:
    started = time.monotonic()
    assert ask(server, f"/v1/artifacts/{ROOT.hex()}/have/1")[1] == b"\x03"
    assert time.monotonic() - started < 0.25


@pytest.mark.parametrize(
    "path",
    [
        "/v1/artifacts/" + merkle.root(b"secret").hex(),
        "/v1/artifacts/" + merkle.root(b"secret").hex() + "/shards/0",
        "/v1/artifacts/" + merkle.root(b"secret").hex() + "/any/0",
        "/v1/artifacts/" + ROOT.hex().upper(),
        "/v1/artifacts/" + ROOT.hex() + "/",
        "/v1/artifacts/" + ROOT.hex() + "/shards/2",
        "/v1/artifacts/" + ROOT.hex() + "/shards/01",
        "/v1/artifacts/" + ROOT.hex() + "/shards/-1",
        "/v1/artifacts/" + ROOT.hex() + "/shards/%31%00",
        "/v1/artifacts/" + ROOT.hex() + "/any/",
        "/v1/artifacts/" + ROOT.hex() + "/any/0,",
        "/v1/artifacts/" + ROOT.hex() + "/any/" + ",".join("0" * 17),
        "/v1/artifacts/" + ROOT.hex() + "/have/x",
        "/v1/artifacts/../../../etc/passwd",
        "/v1/artifacts/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/artifacts//etc/passwd",
        "/v1/artifacts/" + "١" * 64,
        "/docs",
        "/openapi.json",
        "/",
    ],
)
def test_anything_else_is_absent(server: ArtifactServer, path: str) -> None:
    assert (
        ask(server, path.encode().decode("latin-1") if path.isascii() else "/v1/artifacts/%D9%A1")[0] == 404
    )


def test_no_ranges_no_compression_no_names(server: ArtifactServer) -> None:
    base = f"/v1/artifacts/{ROOT.hex()}/shards/1"
    ranges = {"Range": "bytes=" + ",".join(f"{i}-{i}" for i in range(500)), "Accept-Encoding": "gzip, br"}
    status, body, headers = ask(server, base, **ranges)
    assert (status, body) == (200, DATA[merkle.SHARD :])
    assert not {"content-range", "content-encoding", "server", "date"} & set(headers)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_refused(server: ArtifactServer, method: str) -> None:
    assert ask(server, f"/v1/artifacts/{ROOT.hex()}", method)[0] in (401, 405)


# -- strangers who waste time ---------------------------------------------------------------------------------


def test_half_a_request_is_cut_off_in_time(server: ArtifactServer) -> None:
    started = time.monotonic()
    assert until_closed(connect(server, b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX-A: ")) == b""
    assert 0.3 < time.monotonic() - started < 3


def test_a_dripped_request_is_cut_off_in_time(server: ArtifactServer) -> None:
    started = time.monotonic()

    def drip(line: socket.socket) -> None:
        for byte in b"GET /v1/health HTTP/1.1\r\n" + b"X-A: b\r\n" * 100:
            line.sendall(bytes([byte]))
            time.sleep(0.02)

    with connect(server) as line, pytest.raises(OSError):
        drip(line)
    assert time.monotonic() - started < 3


def test_a_body_where_none_belongs_ends_the_connection(server: ArtifactServer) -> None:
    said = until_closed(connect(server, b"GET /v1/health HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"))
    assert said.startswith(b"HTTP/1.1 413")


def test_a_reader_that_takes_nothing_is_cut_off(server: ArtifactServer) -> None:
    request = f"GET /v1/artifacts/{ROOT.hex()}/shards/0 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect((server.host, server.port))
    line.sendall(request)
    deadline = time.monotonic() + 10
    while len(server.crowd) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(server.crowd) == 0
    line.close()


def test_two_hundred_half_open_connections_do_not_keep_anybody_out(server: ArtifactServer) -> None:
    """Fault of the published relay: one idle connection froze it (R20)."""
    lines = [connect(server, b"GET /v1/hea") for _ in range(200)]
    try:
        for _ in range(20):
            assert ask(server, f"/v1/artifacts/{ROOT.hex()}/shards/1")[0] == 200
        assert len(server.crowd) <= SHORT.connections_per_ip
    finally:
        for line in lines:
            line.close()


def test_slow_readers_do_not_hold_up_the_others(server: ArtifactServer) -> None:
    request = f"GET /v1/artifacts/{ROOT.hex()}/shards/0 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    lines = []
    for _ in range(40):
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect((server.host, server.port))
        line.sendall(request)
        lines.append(line)
    try:
        started = time.monotonic()
        assert ask(server, f"/v1/artifacts/{ROOT.hex()}/shards/1")[0] == 200
        assert time.monotonic() - started < 2 + SHORT.queue_seconds
    finally:
        for line in lines:
            line.close()


def test_a_slow_signed_body_is_cut_off_in_time(tmp_path: Path) -> None:
    """A body has a least rate, so a registered stranger cannot hold connections either."""
    domain = Domain(31337, bytes(20))
    limits = replace(SHORT, body_rate=1 << 20)
    keeper = Doorkeeper(domain, bytes(20), lambda who: True, limits)
    inbox = Inbox(Store(tmp_path), keeper, Rumours(domain, lambda who: True), limits=limits)
    auth = sign_request(Account.create(), domain, bytes(20), "POST", "/v1/gossip", b"x" * 1000, time.time())
    head = f"POST /v1/gossip HTTP/1.1\r\nHost: x\r\nAuthorization: {auth}\r\nContent-Length: 1000\r\n\r\nx"
    with ArtifactServer(Store(tmp_path), "127.0.0.1", 0, limits=limits, inbox=inbox) as running:
        started = time.monotonic()
        assert until_closed(connect(running, head.encode())) == b""
        assert 0.3 < time.monotonic() - started < 5
        assert until_closed(connect(running, b"POST /v1/gossip HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(
            b"HTTP/1.1 401"
        )
        huge = b"PUT /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: y\r\nContent-Length: 99999999\r\n\r\n"
        assert until_closed(connect(running, huge)).startswith(b"HTTP/1.1 413")


def _signed_heads(domain: Domain) -> dict[str, bytes]:
    """Requests whose bodies never come, in the shape of each route that takes one."""
    key, heads = Account.create(), {}
    for method, path in (
        ("POST", "/v1/gossip"),
        ("PUT", f"/v1/artifacts/{ROOT.hex()}"),
        ("PUT", f"/v1/artifacts/{ROOT.hex()}/shards/0"),
    ):
        auth = sign_request(key, domain, bytes(20), method, path, b"x" * 1000, time.time())
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {auth}\r\nContent-Length: 1000\r\n\r\nx"
        )
        heads[f"{method} {path}"] = head.encode()
    return heads


@pytest.mark.parametrize("reset", [False, True])
def test_whoever_hangs_up_leaves_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reset: bool
) -> None:
    """Peers are killed at any moment: in a body, while they wait for news, in the middle of a shard."""
    domain = Domain(31337, bytes(20))
    store = Store(tmp_path)
    store.put(DATA)
    keeper = Doorkeeper(domain, bytes(20), lambda who: True, SHORT)
    inbox = Inbox(store, keeper, Rumours(domain, lambda who: True), limits=SHORT)
    asked = {
        name: f"GET /v1/artifacts/{ROOT.hex()}{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        for name in ("", "/have/0", "/have/2", "/any/0,1", "/shards/0")
    }
    cut = {f"half of {name}": text[:-7] for name, text in asked.items()}
    with ArtifactServer(store, "127.0.0.1", 0, limits=SHORT, inbox=inbox) as running:
        for text in (*asked.values(), *cut.values(), *_signed_heads(domain).values()):
            for wait in (False, True):  # with what came of an answer, and before any
                line = connect(running, text)
                if wait:
                    line.settimeout(0.05)
                    with contextlib.suppress(TimeoutError):
                        line.recv(1)
                if reset:
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                line.close()
        end = time.monotonic() + 10
        while len(running.crowd) and time.monotonic() < end:
            time.sleep(0.02)
        assert not len(running.crowd)
        assert ask(running, "/v1/health")[0] == 200
    assert not [record.getMessage() for record in caplog.records]


MALFORMED = [
    b"\r\n\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /v1/health\r\n\r\n",
    b"GET /v1/health HTTP/9.9\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\n\r\n",
    b"GET http://127.0.0.1:8545/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\n" + b"A: b\r\n" * 5_000 + b"\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: \x00\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"GET /v1/health HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
]


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_requests_never_make_a_server_error(server: ArtifactServer, text: bytes) -> None:
    line = connect(server, text)
    line.settimeout(10)
    said = until_closed(line)
    assert b"HTTP/1.1 5" not in said
    assert ask(server, "/v1/health")[0] == 200


@pytest.mark.parametrize("route", ROUTES)
def test_fuzzed_requests_never_make_a_server_error(server: ArtifactServer, route: str) -> None:
    """300 of the 10,000 cases per route of the benchmark's hostile row; the seed is the case's number."""
    line = http.client.HTTPConnection(server.host, server.port, timeout=10)
    for seed in range(300):
        method, path, headers = case(route, random.Random(seed), ROOT)
        try:
            line.request(method, path, headers=headers)
            answer = line.getresponse()
            answer.read()
        except (http.client.HTTPException, OSError):
            line.close()
            continue
        assert answer.status < 500, (seed, method, path)
        if answer.will_close:
            line.close()
    line.close()


def test_stopping_does_not_wait_for_strangers(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    running = ArtifactServer(store, "127.0.0.1", 0).start()
    lines = [connect(running, b"GET /v1/hea") for _ in range(5)]
    started = time.monotonic()
    running.stop()
    assert time.monotonic() - started < 5
    assert not [t for t in threading.enumerate() if t.name == "artifacts"]
    for line in lines:
        line.close()


def test_one_address_that_asks_too_much_is_told_so_and_others_are_served(tmp_path: Path) -> None:
    """Reading needs no signature, so it is metered per address: three requests at once, then one in ten seconds."""
    limits = replace(SHORT, reads_per_second=0.1, reads_burst=3.0)
    store = Store(tmp_path / "store")
    store.put(DATA)

    def statuses(address: str, count: int) -> list[int]:
        found = []
        for _ in range(count):
            line = http.client.HTTPConnection(
                server.host, server.port, timeout=10, source_address=(address, 0)
            )
            line.request("GET", f"/v1/artifacts/{ROOT.hex()}")
            found.append(line.getresponse().status)
            line.close()
        return found

    with ArtifactServer(store, "127.0.0.1", 0, limits=limits) as server:
        assert statuses("127.0.0.2", 5) == [200, 200, 200, 429, 429]
        assert statuses("127.0.0.3", 3) == [200, 200, 200]
