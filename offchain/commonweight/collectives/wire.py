"""Connections between members: who is on the other side, and sealed frames of bounded length with deadlines.

A handshake proves both ways that the other side knows the session's token (HMAC over both nonces, both names and the
purpose), so nobody without it can join, inject, replay or redirect; with an `Identity` each side also signs the
transcript with its own key, so members cannot pose as each other. Nothing is encrypted, and a member with the token
can still send wrong numbers: see docs/collectives.md for what that means.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Protocol

from ..core.errors import CommonweightError, EncodingError
from .seals import HEADER, Seal

MAGIC = b"commonweight/1"
CONTROL_LIMIT = 1 << 18
NAME_LIMIT, PURPOSE_LIMIT, SIGNATURE_LIMIT = 64, 64, 512
HANDSHAKE_S = 5.0


class LinkError(CommonweightError):
    """A connection to a member failed: E1510."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("E1510", message, hint)


class Identity(Protocol):
    """Proves a member's name with its own key, e.g. an address with an Ethereum signature."""

    def sign(self, digest: bytes) -> bytes:
        """Signature of a 32-byte digest, at most 512 bytes."""

    def verify(self, name: str, digest: bytes, signature: bytes) -> bool:
        """Whether ``name`` made the signature. Total."""


class TokenOnly:
    """No signatures: whoever knows the token is believed its name."""

    def sign(self, digest: bytes) -> bytes:
        return b""

    def verify(self, name: str, digest: bytes, signature: bytes) -> bool:
        return signature == b""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a member shows in a handshake. ``token``: 32 secret bytes that the session's members share."""

    name: str
    token: bytes = field(repr=False)
    identity: Identity = field(default_factory=TokenOnly, repr=False)
    seal: str = "hmac"

    def __post_init__(self) -> None:
        if len(self.token) < 16 or not 0 < len(self.name.encode()) <= NAME_LIMIT:
            raise CommonweightError(
                "E1519",
                "a session token has at least 16 bytes and a member's name 1 to 64",
                "make one with `python -c 'import secrets; print(secrets.token_hex(32))'`",
            )


class Link:
    """An authenticated connection. ``peer`` is the other side's name, ``purpose`` what it was opened for."""

    def __init__(
        self, sock: socket.socket, peer: str, purpose: str, seal: str, keys: tuple[bytes, bytes]
    ) -> None:
        self.sock, self.peer, self.purpose, self.seal_kind = sock, peer, purpose, seal
        self._keys = keys
        self._frames = Seal("hmac", *keys, operation=0)
        self._sent = self._received = 0

    def seal(self, operation: int, left: Link | None = None) -> Seal:
        """Seals for the tiles of operation 1, 2, ...: sent here, received here or over ``left``."""
        return Seal(self.seal_kind, self._keys[0], (left or self)._keys[1], operation)

    def send(self, payload: bytes | memoryview, seconds: float) -> None:
        """Send one frame within ``seconds``. Raises `LinkError`."""
        header = self._frames.close(self._sent, memoryview(payload))
        self._sent += 1
        _send_all(self.sock, header, payload, seconds)

    def receive(self, limit: int, seconds: float) -> bytes:
        """Receive one frame of at most ``limit`` bytes within ``seconds``. Raises `LinkError`, `EncodingError`."""
        deadline = time.monotonic() + seconds
        header = read_exactly(self.sock, HEADER, deadline)
        length = struct.unpack(">I", header[12:16])[0]
        if length > limit:
            raise EncodingError(f"a frame of {length} bytes from {self.peer} exceeds {limit}")
        payload = read_exactly(self.sock, length, deadline)
        self._frames.open(self._received, header, memoryview(payload))
        self._received += 1
        return bytes(payload)

    def for_bulk(self) -> None:
        """Make ready for a ring: non-blocking, and paced by BBR across a network where the system has it.

        Cubic fills a slow uplink's queue at the start of every reduction and then stands still for a retransmission
        timeout, a fifth of a second out of one or two.
        """
        self.sock.setblocking(False)
        far = self.sock.getpeername()[0]
        if not far.startswith("127.") and far != "::1" and hasattr(socket, "TCP_CONGESTION"):
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")

    def close(self) -> None:
        """Close at once; whoever reads or writes it gets an error."""
        with contextlib.suppress(OSError):  # it may not be connected any more
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def _send_all(sock: socket.socket, header: bytes, payload: bytes | memoryview, seconds: float) -> None:
    try:
        sock.settimeout(max(seconds, 0.001))
        if len(payload) <= 1 << 14:
            sock.sendall(header + bytes(payload))
        else:
            sock.sendall(header)
            sock.sendall(payload)
    except OSError as error:
        raise LinkError(f"sending failed: {error or 'timed out'}") from error


def read_exactly(sock: socket.socket, length: int, deadline: float) -> bytearray:
    """Read ``length`` bytes before ``deadline`` (monotonic seconds). Raises `LinkError`."""
    out = bytearray(length)
    view, at = memoryview(out), 0
    while at < length:
        left = deadline - time.monotonic()
        if left <= 0:
            raise LinkError("the other side sent nothing before the deadline")
        try:
            sock.settimeout(left)
            got = sock.recv_into(view[at:])
        except TimeoutError:
            continue  # a sending thread may have set a shorter one on the same socket
        except OSError as error:
            raise LinkError(f"receiving failed: {error}") from error
        if not got:
            raise LinkError("the other side closed the connection")
        at += got
    return out


def _text(value: str) -> bytes:
    raw = value.encode()
    return len(raw).to_bytes(2, "big") + raw


def _read_blob(sock: socket.socket, limit: int, deadline: float) -> bytes:
    length = int.from_bytes(read_exactly(sock, 2, deadline), "big")
    if length > limit:
        raise EncodingError(f"a handshake field of {length} bytes is too long")
    return bytes(read_exactly(sock, length, deadline))


def _read_text(sock: socket.socket, limit: int, deadline: float) -> str:
    try:
        return _read_blob(sock, limit, deadline).decode()
    except UnicodeDecodeError as error:
        raise EncodingError("a name is not UTF-8") from error


@dataclass(frozen=True, slots=True)
class _Transcript:
    """Everything both sides have said, bound to one role each."""

    token: bytes
    digest: bytes

    @staticmethod
    def of(me: Credentials, *parts: bytes) -> _Transcript:
        h = hashlib.sha256(MAGIC + me.seal.encode())
        for part in parts:
            h.update(len(part).to_bytes(2, "big") + part)
        return _Transcript(me.token, h.digest())

    def mac(self, role: bytes) -> bytes:
        return hmac.digest(self.token, role + self.digest, "sha256")

    def prove(self, me: Credentials, role: bytes) -> bytes:
        signature = me.identity.sign(hashlib.sha256(role + self.digest).digest())
        return self.mac(role) + len(signature).to_bytes(2, "big") + signature

    def check(self, me: Credentials, sock: socket.socket, name: str, role: bytes, deadline: float) -> None:
        proof = bytes(read_exactly(sock, 32, deadline))
        signature = _read_blob(sock, SIGNATURE_LIMIT, deadline)
        if not hmac.compare_digest(proof, self.mac(role)):
            raise LinkError(f"{name!r} does not know this session's token, or uses another seal")
        if not me.identity.verify(name, hashlib.sha256(role + self.digest).digest(), signature):
            raise LinkError(f"the other side could not prove that it is {name!r}")


def dial(
    me: Credentials, host: str, port: int, purpose: str, peer: str, seconds: float = HANDSHAKE_S
) -> Link:
    """Connect to a member. ``peer``: the name it must prove, or '' for any. Raises `LinkError`, `EncodingError`."""
    deadline = time.monotonic() + seconds
    try:
        sock = socket.create_connection((host, port), timeout=seconds)
    except OSError as error:
        raise LinkError(f"cannot reach {host}:{port}: {error}", "is the member running there?") from error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        nonce = os.urandom(32)
        sock.sendall(MAGIC + nonce + _text(me.name) + _text(purpose))
        theirs = bytes(read_exactly(sock, 32, deadline))
        name = _read_text(sock, NAME_LIMIT, deadline)
        said = _Transcript.of(me, nonce, theirs, me.name.encode(), name.encode(), purpose.encode())
        said.check(me, sock, name, b"listener", deadline)
        if peer and name != peer:
            raise LinkError(f"{host}:{port} is {name!r}, not {peer!r}")
        sock.sendall(said.prove(me, b"dialler"))
        return Link(sock, name, purpose, me.seal, (said.mac(b"out"), said.mac(b"in")))
    except OSError as error:
        sock.close()
        raise LinkError(f"{host}:{port} broke the handshake off: {error}") from error
    except CommonweightError:
        sock.close()
        raise


def answer(me: Credentials, sock: socket.socket, seconds: float = HANDSHAKE_S) -> Link:
    """The listener's half of `dial`. Closes the socket when it fails. Raises `LinkError`, `EncodingError`."""
    deadline = time.monotonic() + seconds
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if bytes(read_exactly(sock, len(MAGIC), deadline)) != MAGIC:
            raise LinkError("somebody who speaks another protocol connected")
        theirs = bytes(read_exactly(sock, 32, deadline))
        name = _read_text(sock, NAME_LIMIT, deadline)
        purpose = _read_text(sock, PURPOSE_LIMIT, deadline)
        nonce = os.urandom(32)
        said = _Transcript.of(me, theirs, nonce, name.encode(), me.name.encode(), purpose.encode())
        sock.sendall(nonce + _text(me.name) + said.prove(me, b"listener"))
        said.check(me, sock, name, b"dialler", deadline)
        return Link(sock, name, purpose, me.seal, (said.mac(b"in"), said.mac(b"out")))
    except OSError as error:
        sock.close()
        raise LinkError(f"the handshake was broken off: {error}") from error
    except CommonweightError:
        sock.close()
        raise
