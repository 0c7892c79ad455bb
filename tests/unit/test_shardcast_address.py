"""Where a stranger's URL may lead a node: a table, and a name that changes its mind."""

from __future__ import annotations

import ipaddress
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonweight.shardcast.address import AddressPolicy, Forbidden
from commonweight.shardcast.fetch import fetch
from commonweight.shardcast.server import ArtifactServer
from commonweight.shardcast.store import Store

PUBLIC, LOCAL = AddressPolicy(), AddressPolicy(allow_private=True)

ALWAYS_REFUSED = [
    "",
    "nonsense",
    "127.0.0.1:8000",
    "//127.0.0.1:8000",
    "ftp://127.0.0.1:8000",
    "file:///etc/passwd",
    "http://",
    "http://:8000",
    "http://127.0.0.1:8000/path",
    "http://127.0.0.1:8000/?query",
    "http://127.0.0.1:8000/#fragment",
    "http://user:word@127.0.0.1:8000",
    "http://user@127.0.0.1:8000",
    "http://127.0.0.1:22",
    "http://127.0.0.1:25",
    "http://127.0.0.1:0",
    "http://127.0.0.1:65536",
    "http://127.0.0.1:99999999",
    "http://127.0.0.1:-1",
    "http://127.0.0.1:8000\r\nX: y",
    "http://127.0.0.1:8000 /",
    "http://a\x00b:8000",
    "http://" + "a" * 300,
    "http://169.254.169.254",
    "http://[fe80::1]:8000",
    "http://0.0.0.0:8000",
    "http://[::]:8000",
    "http://224.0.0.1:8000",
    "http://[ff02::1]:8000",
    "http://[::ffff:169.254.169.254]:8000",
    "http://[64:ff9b::a9fe:a9fe]:8000",
]
PRIVATE = [
    "http://127.0.0.1:8000",
    "http://127.1:8000",
    "http://2130706433:8000",
    "http://0x7f.0.0.1:8000",
    "http://10.0.0.1:8000",
    "http://192.168.1.1:8000/",
    "http://172.16.5.5:8000",
    "http://[::1]:8000",
    "http://[::ffff:127.0.0.1]:8000",
    "http://[::127.0.0.1]:8000",
    "http://[64:ff9b::7f00:1]:8000",
    "http://[2002:7f00:1::]:8000",
    "http://[fd00::1]:8000",
]
OPEN = ["http://1.1.1.1", "https://1.1.1.1", "http://1.1.1.1:8000/", "http://[2606:4700:4700::1111]:8000"]


@pytest.mark.parametrize("url", ALWAYS_REFUSED)
@pytest.mark.parametrize("policy", [PUBLIC, LOCAL])
def test_never(url: str, policy: AddressPolicy) -> None:
    with pytest.raises(Forbidden):
        policy.resolve(url, 5)


@pytest.mark.parametrize("url", PRIVATE)
def test_private_addresses_only_on_a_local_chain(url: str) -> None:
    with pytest.raises(Forbidden):
        PUBLIC.resolve(url, 5)
    assert LOCAL.resolve(url, 5).port == 8000


@pytest.mark.parametrize("url", OPEN)
def test_public_addresses(url: str) -> None:
    endpoint = PUBLIC.resolve(url, 5)
    assert endpoint.addresses == (endpoint.host,)
    assert endpoint.port in (80, 443, 8000)


@given(st.text(max_size=40))
def test_any_text_is_refused_or_a_plain_url(text: str) -> None:
    try:
        endpoint = PUBLIC.resolve("http://1.1.1.1:80" + text, 5)
    except Forbidden:
        return
    assert endpoint.scheme == "http"
    assert ipaddress.ip_address(endpoint.addresses[0]).is_global


class RebindingResolver:
    """A name that is harmless when asked first and points into the private network from then on."""

    def __init__(self, first: str, then: str) -> None:
        self.answers = [first, then]
        self.asked = 0

    def __call__(self, host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        address = self.answers[min(self.asked, 1)]
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]


def test_a_name_is_looked_up_once_and_the_connection_goes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = Store(tmp_path / "theirs"), Store(tmp_path / "ours")
    data = bytes(9 << 20)
    root = theirs.put(data)
    with ArtifactServer(theirs, "127.0.0.1", 0) as server, socket.create_server(("127.0.0.2", 0)) as trap:
        trap.settimeout(0)
        resolver = RebindingResolver("127.0.0.1", "127.0.0.2")
        genuine = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *a, **k: (resolver if host == "relay.example" else genuine)(host, *a, **k),
        )
        found = fetch(root, [f"http://relay.example:{server.port}"], ours, policy=LOCAL)
        assert found.data == data
        assert resolver.asked == 1


def test_a_resolver_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: release.wait(30) and [])
    try:
        with pytest.raises(Forbidden, match="in time"):
            PUBLIC.resolve("http://relay.example", 0.05)
    finally:
        release.set()
