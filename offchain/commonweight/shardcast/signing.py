"""What nodes sign to each other: EIP-712 over a chain and a contract, with a sender, a recipient and an expiry.

A signature of ours is good for one deployment, one kind of message, one recipient, one body and a minute or so: it
cannot be replayed elsewhere (faults R10 to R12 of the reference systems). Bytes on the wire are `core.codec` encodings.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Protocol

from eth_account import Account
from eth_account.messages import SignableMessage, encode_typed_data

from ..core import codec
from ..core.codec import B20, B32, U64, Fixed
from ..core.errors import EncodingError

B65 = Annotated[bytes, Fixed(65)]
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
REQUEST_SECONDS = 60
ANNOUNCEMENT_SECONDS = 600
SKEW_SECONDS = 30
_AUTHORIZATION = re.compile(r"Commonweight ((?:[0-9a-f]{2}){1,2048})", re.ASCII)


class Key(Protocol):
    """What signs: an `eth_account` account."""

    @property
    def address(self) -> Any:
        """0x-prefixed address."""

    def sign_message(self, signable_message: SignableMessage) -> Any:
        """Signature of an EIP-191 message."""


@dataclass(frozen=True, slots=True)
class Domain:
    """The deployment that a signature belongs to."""

    chain_id: int
    contract: bytes

    def hashed(self, kind: str, fields: list[dict[str, str]], values: dict[str, Any]) -> SignableMessage:
        """The message that is signed for a struct of that kind."""
        domain = {
            "name": "Commonweight",
            "version": "1",
            "chainId": self.chain_id,
            "verifyingContract": "0x" + self.contract.hex(),
        }
        return encode_typed_data(domain, {kind: fields}, values)


@dataclass(frozen=True, slots=True)
class Request:
    """Leave to do one thing at one node: ``method`` and ``path`` with this body, once, until ``expiry``."""

    sender: B20
    recipient: B20
    method: str
    path: str
    body: B32
    nonce: B32
    expiry: U64

    def message(self, domain: Domain) -> SignableMessage:
        """What is signed."""
        fields = [
            {"name": "sender", "type": "address"},
            {"name": "recipient", "type": "address"},
            {"name": "method", "type": "string"},
            {"name": "path", "type": "string"},
            {"name": "body", "type": "bytes32"},
            {"name": "nonce", "type": "bytes32"},
            {"name": "expiry", "type": "uint64"},
        ]
        return domain.hashed("Request", fields, _values(self))


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node says about itself: the newest versions it knows and the artifacts it has. Times in Unix seconds."""

    sender: B20
    versions: tuple[B32, ...]
    holds: tuple[B32, ...]
    issued: U64
    expiry: U64

    def message(self, domain: Domain) -> SignableMessage:
        """What is signed."""
        fields = [
            {"name": "sender", "type": "address"},
            {"name": "versions", "type": "bytes32[]"},
            {"name": "holds", "type": "bytes32[]"},
            {"name": "issued", "type": "uint64"},
            {"name": "expiry", "type": "uint64"},
        ]
        return domain.hashed("Announcement", fields, _values(self))


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A `Request` and its signature."""

    body: Request
    signature: B65


@dataclass(frozen=True, slots=True)
class SignedAnnouncement:
    """An `Announcement` and its signature."""

    body: Announcement
    signature: B65


@dataclass(frozen=True, slots=True)
class Bundle:
    """Announcements that travel together."""

    items: tuple[SignedAnnouncement, ...]


def _values(struct: Request | Announcement) -> dict[str, Any]:
    values = {name: getattr(struct, name) for name in struct.__slots__}
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
    for name in ("sender", "recipient"):
        if name in values:
            values[name] = "0x" + values[name].hex()
    return values


def address(key: Key) -> bytes:
    """The key's 20 bytes."""
    return bytes.fromhex(key.address[2:])


def sign_request(
    key: Key, domain: Domain, recipient: bytes, method: str, path: str, body: bytes | memoryview, now: float
) -> str:
    """The ``authorization`` header of one request."""
    digest = sha256(body).digest()
    expiry = int(now) + REQUEST_SECONDS
    request = Request(address(key), recipient, method, path, digest, secrets.token_bytes(32), expiry)
    signed = SignedRequest(request, _sign(key, request.message(domain)))
    return "Commonweight " + codec.encode(signed).hex()


def sign_announcement(
    key: Key, domain: Domain, versions: tuple[bytes, ...], holds: tuple[bytes, ...], now: float | None = None
) -> SignedAnnouncement:
    """An announcement of this node, good for `ANNOUNCEMENT_SECONDS`."""
    issued = int(time.time() if now is None else now)
    body = Announcement(address(key), versions, holds, issued, issued + ANNOUNCEMENT_SECONDS)
    return SignedAnnouncement(body, _sign(key, body.message(domain)))


def read_authorization(header: str) -> SignedRequest:
    """Strict inverse of the header of `sign_request`; says nothing about the signature. Raises `EncodingError`."""
    found = _AUTHORIZATION.fullmatch(header)
    if found is None:
        raise EncodingError("no authorization of ours")
    return codec.decode(SignedRequest, bytes.fromhex(found[1]))


def is_signed(domain: Domain, signed: SignedRequest | SignedAnnouncement) -> bool:
    """True when the sender made the signature, in its one canonical form. Total."""
    signature = signed.signature
    if int.from_bytes(signature[32:64], "big") > HALF_ORDER or signature[64] not in (27, 28):
        return False
    try:
        found = Account.recover_message(signed.body.message(domain), signature=signature)
    except Exception:  # a boundary: whatever the library says of a hostile signature, it is none
        return False
    return bytes.fromhex(found[2:]) == signed.body.sender


def _sign(key: Key, message: SignableMessage) -> bytes:
    return bytes(key.sign_message(message).signature)
