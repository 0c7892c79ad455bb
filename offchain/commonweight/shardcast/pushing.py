"""Push an artifact to a relay: for nodes behind a home router, which nobody can fetch from."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .address import AddressPolicy
from .limits import LIMITS, Limits
from .peer import Peer
from .signing import Domain, Key, sign_request
from .store import Store


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push took: shards that the relay had already, and bytes sent."""

    shards: int
    skipped: int
    sent: int


def push(
    root: bytes,
    store: Store,
    url: str,
    relay: bytes,
    key: Key,
    domain: Domain,
    policy: AddressPolicy,
    limits: Limits = LIMITS,
) -> Pushed:
    """Send an artifact of the store to the relay with address ``relay``; a repeated push sends what is missing.

    Raises `peer.PeerFault` when the relay refuses or fails, E1403 and E1408 as `Store.shard` does.
    """
    manifest = store.manifest(root)
    path, peer, sent = f"/v1/artifacts/{root.hex()}", Peer(url, policy, limits), 0

    def put(where: str, body: bytes, sizes: range) -> bytes:
        auth = sign_request(key, domain, relay, "PUT", where, body, time.time())
        headers = [("Authorization", auth)]
        seconds = limits.shard_seconds
        return bytes(peer.request("PUT", where, sizes, seconds, headers=headers, data=body).body)

    try:
        count = len(manifest.shards)
        size = -(-count // 8)
        have = int.from_bytes(put(path, manifest.encode(), range(size, size + 1)), "little")
        for index in range(count):
            if not have >> index & 1:
                body = store.shard(root, index)
                put(f"{path}/shards/{index}", body, range(1))
                sent += len(body)
    finally:
        peer.close()
    return Pushed(count, have.bit_count(), sent)
