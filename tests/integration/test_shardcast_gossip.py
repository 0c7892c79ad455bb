"""Gossip, signed requests and pushes between real servers: news spreads, forgeries do not, and quotas hold."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from hypothesis import given
from hypothesis import strategies as st

from commonweight.core import codec, merkle
from commonweight.core.errors import EncodingError
from commonweight.shardcast.access import Buckets, Denied, Doorkeeper
from commonweight.shardcast.fetch import Library, fetch
from commonweight.shardcast.gossip import PATH, Gossip, Rumours, degree
from commonweight.shardcast.limits import LIMITS
from commonweight.shardcast.peer import Fault, Peer, PeerFault
from commonweight.shardcast.pushing import push
from commonweight.shardcast.server import ArtifactServer
from commonweight.shardcast.signing import (
    HALF_ORDER,
    Bundle,
    Domain,
    SignedAnnouncement,
    address,
    is_signed,
    read_authorization,
    sign_announcement,
    sign_request,
)
from commonweight.shardcast.store import Store
from commonweight.shardcast.writing import Inbox

from ..shardcast_peers import LOCAL, blob, quick

DOMAIN = Domain(31337, bytes(range(20)))
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def account(number: int) -> LocalAccount:
    found: LocalAccount = Account.from_key(number.to_bytes(32, "big"))
    return found


@dataclass
class World:
    """Nodes on one chain. ``endpoints`` is what the chain says."""

    endpoints: dict[bytes, str]
    nodes: list[Member]


class Member:
    """One node of the gossip."""

    def __init__(self, world: World, number: int, folder: Path, reachable: bool = True) -> None:
        self.key = account(number)
        self.me = address(self.key)
        self.store = Store(folder / str(number))
        self.versions: list[bytes] = []
        self.rumours = Rumours(DOMAIN, lambda who: who in world.endpoints)
        keeper = Doorkeeper(DOMAIN, self.me, lambda who: who in world.endpoints, LIMITS)
        self.gossip = Gossip(
            self.key,
            self.rumours,
            lambda: world.endpoints,
            lambda: (self.versions, self.store.roots()),
            LOCAL,
            quick(),
            random.Random(number),
        )
        inbox = Inbox(self.store, keeper, self.rumours, self.gossip.announcement)
        self.server = ArtifactServer(self.store, "127.0.0.1", 0, inbox=inbox).start()
        world.endpoints[self.me] = self.server.url if reachable else ""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World({}, [])
    made.nodes = [Member(made, i + 1, tmp_path) for i in range(6)]
    yield made
    for node in made.nodes:
        node.server.stop()


# -- gossip ---------------------------------------------------------------------------------------------------


def test_news_reaches_everybody_in_a_few_rounds(world: World) -> None:
    root = world.nodes[0].store.put(blob(2000))
    world.nodes[0].versions = [root]
    rounds = 0
    while not all(n.rumours.holders(root) == [world.nodes[0].me] for n in world.nodes[1:]):
        rounds += 1
        assert rounds <= 12
        for node in world.nodes:
            node.gossip.tick()
    assert all(node.rumours.versions()[0] == (root, 1) for node in world.nodes[1:])
    assert world.nodes[3].gossip.sources(root)[0] == world.nodes[0].server.url


def test_a_joiner_learns_the_newest_version_from_one_live_node(world: World, tmp_path: Path) -> None:
    root = world.nodes[0].store.put(blob(2000))
    world.nodes[0].versions = [root]
    world.nodes[1].gossip.exchange(world.nodes[0].me, world.nodes[0].server.url)
    for node in world.nodes[2:]:
        node.server.stop()
    joiner = Member(world, 99, tmp_path)
    try:
        joiner.gossip.exchange(world.nodes[1].me, world.nodes[1].server.url)
        assert joiner.rumours.versions() == [(root, 1)]
        library = Library(joiner.store, lambda: joiner.gossip.sources(root), quick(), allow_private=True)
        assert library.get(root) == blob(2000)
    finally:
        joiner.server.stop()


def test_dead_neighbours_are_replaced_first(world: World) -> None:
    for node in world.nodes[2:]:
        node.server.stop()
    one = world.nodes[0]
    for _ in range(12):
        one.gossip.tick()
    assert one.rumours.current()[0].body.sender == world.nodes[1].me


def test_views_are_partial_and_change(world: World) -> None:
    world.endpoints.update({bytes([i]) * 20: f"http://127.0.0.1:{5000 + i}" for i in range(1, 101)})
    one = world.nodes[0].gossip
    seen = [frozenset(one.view()) for _ in range(40)]
    assert {len(view) for view in seen} == {degree(106)}
    assert len(frozenset().union(*seen)) > 30
    assert one.me not in frozenset().union(*seen)


def say(number: int, now: float, domain: Domain = DOMAIN) -> SignedAnnouncement:
    return sign_announcement(account(number), domain, (), (bytes(32),), now)


def test_only_fresh_signed_registered_and_newer_announcements_are_believed() -> None:
    now = [1_000_000.0]
    me = address(account(1))
    rumours = Rumours(DOMAIN, lambda who: who == me, clock=lambda: now[0])
    good = say(1, now[0])
    body = good.body
    for item in (
        say(2, now[0]),  # not registered
        say(1, now[0], Domain(1, DOMAIN.contract)),  # another chain
        say(1, now[0], Domain(31337, bytes(20))),  # another contract
        say(1, now[0] - 700),  # expired
        say(1, now[0] + 100),  # from the future
        replace(good, body=replace(body, holds=())),  # altered
        replace(good, body=replace(body, expiry=body.expiry + 1)),  # kept longer
        replace(good, signature=bytes(65)),
        replace(good, signature=_high_s(good.signature)),
    ):
        assert not rumours.hear(item)
    assert rumours.hear(good)
    assert not rumours.hear(good)
    assert not rumours.hear(say(1, now[0] - 5))
    assert rumours.hear(say(1, now[0] + 5))
    now[0] += 1000
    assert rumours.current() == []


def _high_s(signature: bytes) -> bytes:
    s = ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


def test_the_other_form_of_a_signature_is_none() -> None:
    item = say(1, 5.0)
    assert is_signed(DOMAIN, item)
    assert int.from_bytes(item.signature[32:64], "big") <= HALF_ORDER
    assert not is_signed(DOMAIN, replace(item, signature=_high_s(item.signature)))


@given(st.binary(max_size=300))
def test_taking_in_is_total(data: bytes) -> None:
    rumours = Rumours(DOMAIN, lambda who: True)
    with contextlib.suppress(EncodingError):
        assert rumours.take_in(data) == 0


def test_bundles_are_bounded() -> None:
    rumours = Rumours(DOMAIN, lambda who: True)
    item = say(1, 5.0)
    with pytest.raises(EncodingError):
        rumours.take_in(codec.encode(Bundle((item,) * (LIMITS.bundle + 1))))
    with pytest.raises(EncodingError):
        rumours.take_in(bytes(LIMITS.gossip_bytes + 1))


# -- signed requests ------------------------------------------------------------------------------------------


def admit(keeper: Doorkeeper, auth: str, *, method: str = "PUT", path: str = "/x", host: str = "h") -> bytes:
    return keeper.admit(auth, host, method, path, 3).sender


def test_a_captured_request_is_good_for_nothing_else() -> None:
    """Faults R10 to R12: replays over time, path, recipient, chain and contract."""
    now = [1_000_000.0]
    one, me, other = account(1), address(account(7)), address(account(8))
    keeper = Doorkeeper(DOMAIN, me, lambda who: who == address(one), LIMITS, lambda: now[0])

    def signed(**changes: object) -> str:
        values: dict[str, object] = {
            "key": one, "domain": DOMAIN, "recipient": me, "method": "PUT", "path": "/x", "body": b"abc", "now": now[0],
        }  # fmt: skip
        return sign_request(**{**values, **changes})  # type: ignore[arg-type]

    auth = signed()
    assert admit(keeper, auth) == address(one)
    for again, where in (
        (auth, {}),  # the same once more
        (signed(), {"path": "/y"}),
        (signed(), {"method": "POST"}),
        (signed(recipient=other), {}),
        (signed(domain=Domain(1, DOMAIN.contract)), {}),
        (signed(domain=Domain(31337, bytes(20))), {}),
        (signed(key=account(2)), {}),
        (signed(now=now[0] - 200), {}),
        (signed(now=now[0] + 200), {}),
        (auth.upper(), {}),
        (auth + "00", {}),
        ("Commonweight zz", {}),
        ("Bearer x", {}),
        ("", {}),
    ):
        with pytest.raises(Denied) as caught:
            admit(keeper, again, **where)
        assert caught.value.status == 401
    now[0] += 61
    with pytest.raises(Denied):
        admit(keeper, auth)
    with pytest.raises(Denied):
        keeper.admit(signed(), "h", "PUT", "/x", 3).require(b"other body")


def test_requests_and_bytes_are_metered_per_identity() -> None:
    limits = replace(LIMITS, requests_per_second=0.0, requests_burst=3.0, push_rate=0.0, push_burst=1000.0)
    me = address(account(7))
    keeper = Doorkeeper(DOMAIN, me, lambda who: True, limits)

    def ask(number: int, length: int) -> int:
        auth = sign_request(account(number), DOMAIN, me, "PUT", "/x", b"", time.time())
        try:
            keeper.admit(auth, "h", "PUT", "/x", length)
        except Denied as denied:
            return denied.status
        return 200

    assert [ask(1, 1) for _ in range(4)] == [200, 200, 200, 429]
    assert [ask(2, 600), ask(2, 600), ask(3, 600)] == [200, 429, 200]


def test_a_stranger_cannot_make_a_node_check_signatures_without_end() -> None:
    limits = replace(LIMITS, checks_per_second=0.0, checks_burst=2.0)
    me, one = address(account(7)), account(1)
    keeper = Doorkeeper(DOMAIN, me, lambda who: True, limits)
    auth = sign_request(one, Domain(5, bytes(20)), me, "PUT", "/x", b"", time.time())
    statuses = []
    for _ in range(4):
        with pytest.raises(Denied) as caught:
            admit(keeper, auth)
        statuses.append(caught.value.status)
    assert statuses == [401, 401, 429, 429]
    good = sign_request(one, DOMAIN, me, "PUT", "/x", b"", time.time())
    assert admit(keeper, good, host="another") == address(one)


def test_buckets_fill_again() -> None:
    now = [0.0]
    buckets = Buckets(2.0, 4.0, many=2, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(5)] == [True] * 4 + [False]
    now[0] = 1.0
    assert [buckets.take("a") for _ in range(3)] == [True, True, False]
    for name in "bcd":
        assert buckets.take(name, 4.0)


def test_the_header_is_strict() -> None:
    auth = sign_request(account(1), DOMAIN, bytes(20), "PUT", "/x", b"", 5.0)
    assert read_authorization(auth).body.path == "/x"
    for bad in (auth[:-2], auth + " ", auth.replace("Common", "common"), "Commonweight " + "a" * 5000):
        with pytest.raises(EncodingError):
            read_authorization(bad)


# -- pushes ---------------------------------------------------------------------------------------------------


def send(node: Member, relay: Member, root: bytes, domain: Domain = DOMAIN) -> object:
    return push(
        root, node.store, relay.server.url, relay.me, node.key, domain, LOCAL, quick(shard_seconds=20)
    )


def test_a_node_that_nobody_reaches_pushes_and_others_fetch(world: World, tmp_path: Path) -> None:
    hidden = Member(world, 50, tmp_path, reachable=False)
    hidden.server.stop()
    relay, reader = world.nodes[:2]
    data = blob(merkle.SHARD + 10)
    root = hidden.store.put(data)
    done = send(hidden, relay, root)
    assert (done.shards, done.skipped, done.sent) == (2, 0, len(data))  # type: ignore[attr-defined]
    assert fetch(root, [relay.server.url], reader.store, quick(), LOCAL).data == data
    assert send(hidden, relay, root).sent == 0  # type: ignore[attr-defined]


def test_an_interrupted_push_resumes(world: World) -> None:
    one, relay = world.nodes[:2]
    data = blob(2 * merkle.SHARD)
    root = one.store.put(data)
    peer = Peer(relay.server.url, LOCAL, quick(shard_seconds=20))
    path = f"/v1/artifacts/{root.hex()}"
    for where, body in (
        (path, one.store.manifest(root).encode()),
        (f"{path}/shards/1", one.store.shard(root, 1)),
    ):
        auth = sign_request(one.key, DOMAIN, relay.me, "PUT", where, body, time.time())
        peer.request("PUT", where, range(2), 20, headers=[("Authorization", auth)], data=body)
    peer.close()
    assert not relay.store.has(root)
    done = send(one, relay, root)
    assert (done.skipped, done.sent) == (1, merkle.SHARD)  # type: ignore[attr-defined]
    assert relay.store.get(root) == data


def attempt(
    relay: Member, key: LocalAccount, path: str, body: bytes, signed: bytes | None = None
) -> Fault | None:
    auth = sign_request(key, DOMAIN, relay.me, "PUT", path, body if signed is None else signed, time.time())
    peer = Peer(relay.server.url, LOCAL, quick())
    try:
        peer.request("PUT", path, range(64), 5, headers=[("Authorization", auth)], data=body)
    except PeerFault as fault:
        return fault.kind
    finally:
        peer.close()
    return None


def test_pushes_that_are_refused(world: World) -> None:
    one, relay = world.nodes[:2]
    data = blob(5000)
    root = one.store.put(data)
    manifest, path = one.store.manifest(root).encode(), f"/v1/artifacts/{root.hex()}"
    assert attempt(relay, account(77), path, manifest) is Fault.UNREACHABLE  # unknown to the chain
    assert attempt(relay, one.key, path, manifest, signed=b"other") is Fault.UNREACHABLE
    assert attempt(relay, one.key, path, bytes(40)) is Fault.UNREACHABLE  # not its manifest
    assert attempt(relay, one.key, f"{path}/shards/0", data) is Fault.ABSENT  # nothing begun
    assert attempt(relay, one.key, path, manifest) is None
    assert attempt(relay, one.key, f"{path}/shards/0", bytes(5000)) is Fault.UNREACHABLE
    assert attempt(relay, one.key, f"{path}/shards/1", data) is Fault.ABSENT
    assert not relay.store.has(root)
    with pytest.raises(PeerFault):
        send(one, relay, root, Domain(1, DOMAIN.contract))
    assert attempt(relay, one.key, f"{path}/shards/0", data) is None
    assert relay.store.get(root) == data


def test_a_full_relay_says_so(world: World) -> None:
    one, relay = world.nodes[:2]
    relay.store.quota = 100
    root = one.store.put(blob(5000))
    with pytest.raises(PeerFault, match="507"):
        send(one, relay, root)


def test_gossip_without_a_signature_is_refused(world: World) -> None:
    relay = world.nodes[0]
    peer = Peer(relay.server.url, LOCAL, quick())
    with pytest.raises(PeerFault, match="401"):
        peer.request("POST", PATH, range(100_000), 5, data=b"x")
    peer.close()
