"""SHA-256 with domain tags, and the few ABI encodings that Python and Solidity must hash alike."""

from __future__ import annotations

from hashlib import sha256


def tagged(tag: str, *parts: bytes) -> bytes:
    """Domain-separated hash: each part is length-prefixed, so no two part lists collide."""
    named = (b"commonweight/" + tag.encode(), *parts)
    # One call: for short parts, of which there are many, calls cost more than hashing.
    return sha256(
        b"".join(piece for part in named for piece in (len(part).to_bytes(8, "big"), part))
    ).digest()


def word(value: int | bytes) -> bytes:
    """One 32-byte ABI word: an unsigned integer, or bytes of an address (20) or a bytes32 (32)."""
    if isinstance(value, int):
        return value.to_bytes(32, "big")
    return value.rjust(32, b"\x00")


def abi_sha256(*values: int | bytes) -> bytes:
    """``sha256(abi.encode(...))`` for static words."""
    return sha256(b"".join(word(v) for v in values)).digest()
