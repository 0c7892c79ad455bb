"""Where a node may connect when strangers say where: a plain http URL of a public address, looked up once."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from dataclasses import dataclass

import httpx

MAX_URL = 256
_SYSTEM_PORTS = 1024
_WEB_PORTS = (80, 443)
_WITH_IPV4 = tuple(ipaddress.IPv6Network(net) for net in ("64:ff9b::/96", "::/96"))
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Forbidden(Exception):
    """A source's URL or address that this node does not connect to; the text says why."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked URL: where to connect, and what the other side is called."""

    scheme: str
    host: str
    port: int
    addresses: tuple[str, ...]

    @property
    def url(self) -> str:
        """The URL by name; the connection itself goes to one of `addresses`."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def netloc(self) -> str:
        """Host and port as a ``Host`` header has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """``allow_private``: also loopback and private networks, for a chain that lives on this machine."""

    allow_private: bool = False

    def allows(self, address: Address) -> bool:
        """True when a node may connect there. Link-local (cloud metadata), multicast and such never."""
        address = _embedded(address)
        if address.is_multicast or address.is_unspecified or address.is_link_local:
            return False
        return address.is_global or (self.allow_private and (address.is_loopback or address.is_private))

    def resolve(self, url: str, seconds: float) -> Endpoint:
        """Check a URL and look its name up, once. Raises `Forbidden`."""
        scheme, host, port = _parse(url)
        found = [text for text in _look_up(host, port, seconds) if self.allows(ipaddress.ip_address(text))]
        if not found:
            raise Forbidden("its address is not public")
        return Endpoint(scheme, host, port, tuple(dict.fromkeys(found)))


def _parse(url: str) -> tuple[str, str, int]:
    # a parser forgives spaces and signs around a port; a URL that is not plain text is not asked what it means
    plain = len(url) <= MAX_URL and url.isascii() and url.isprintable() and " " not in url
    try:
        parts = httpx.URL(url) if plain else None
    except (httpx.InvalidURL, ValueError):
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.host:
        raise Forbidden("not an http or https URL")
    # the path is made by us alone: a stranger's URL names a host and a port
    if parts.userinfo or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise Forbidden("its URL has more than scheme, host and port")
    port = parts.port if parts.port is not None else _WEB_PORTS[parts.scheme == "https"]
    if not 0 < port < 1 << 16 or (port < _SYSTEM_PORTS and port not in _WEB_PORTS):
        raise Forbidden(f"port {port} is not one for artifacts")
    return parts.scheme, parts.raw_host.decode("ascii"), port


def _look_up(host: str, port: int, seconds: float) -> list[str]:
    """Addresses of a name. A thread does it, since getaddrinfo itself cannot be told to give up."""
    answers: queue.SimpleQueue[list[str] | str] = queue.SimpleQueue()

    def ask() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([str(info[4][0]).split("%")[0] for info in infos])
        except (OSError, UnicodeError) as error:
            answers.put(f"its name cannot be resolved: {error}")

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise Forbidden("its name was not resolved in time") from None
    if isinstance(answer, str):
        raise Forbidden(answer)
    return answer


def _embedded(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one, by whichever transition scheme; otherwise itself."""
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback:
        return address
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if inner is None and any(address in net for net in _WITH_IPV4):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner or address
