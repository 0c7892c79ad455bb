"""Hostile and poor links between real processes: strangers, changed bytes, slowness, silence, floods."""

from __future__ import annotations

import os
import socket
import threading
import time

import numpy as np
import pytest

from commonweight.collectives import messages, recovery
from commonweight.collectives.messages import Join, Member
from commonweight.collectives.recovery import Snapshots
from commonweight.collectives.wire import Credentials, Link, LinkError, answer, dial
from commonweight.core import merkle
from commonweight.core.errors import CommonweightError, EncodingError
from tests.integration.collectives_swarm import Proxy, Swarm, free_port

TOKEN = b"t" * 32


def test_a_byte_changed_on_the_way_is_never_used() -> None:
    """The tile is refused, the reduction runs again over new connections, all agree, and nobody is dropped."""
    with Swarm() as swarm:
        port = free_port()
        proxy = Proxy(port, flip=60_000)
        swarm.spawn("ada", "--expect", "3", "--rounds", "3")
        swarm.spawn(
            "bob", "--expect", "3", "--rounds", "3", "--port", str(port), "--advertise", str(proxy.port)
        )
        swarm.spawn("cyd", "--expect", "3", "--rounds", "3")
        for worker in swarm.workers.values():
            worker.finish()
        proxy.close()
        assert proxy.flipped == 1
        broken = [e for w in swarm.workers.values() for e in w.events("ring_broken")]
        assert any("changed on its way" in e["reason"] for e in broken)
        for number in (1, 2, 3):
            assert len({w.round(number)["root"] for w in swarm.workers.values()}) == 1
            assert swarm.workers["ada"].round(number)["members"] == ["ada", "bob", "cyd"]


def test_a_member_behind_a_link_that_always_changes_bytes_loses_the_place() -> None:
    """Whoever sends to it, its tiles arrive changed; the others go on without it and agree."""
    with Swarm() as swarm:
        port = free_port()
        proxy = Proxy(port, flip=60_000, times=1000)
        swarm.spawn("ada", "--expect", "3", "--rounds", "2")
        bad = swarm.spawn(
            "bob", "--expect", "3", "--rounds", "2", "--port", str(port), "--advertise", str(proxy.port)
        )
        swarm.spawn("cyd", "--expect", "3", "--rounds", "2")
        good = swarm.all("ada", "cyd")
        for worker in good:
            worker.finish()
        bad.wait(lambda e: e["event"] == "rejoining")
        proxy.close()
        assert [e["name"] for e in swarm.workers["ada"].events("dropped")][:1] == ["bob"]
        for number in (1, 2):
            assert len({w.round(number)["root"] for w in good}) == 1
        assert good[0].round(1)["members"] == ["ada", "cyd"]


def test_a_slow_link_slows_the_round_but_costs_nobody_the_place() -> None:
    with Swarm() as swarm:
        port = free_port()
        proxy = Proxy(port, rate=600_000)
        many = ("--expect", "3", "--rounds", "2", "--stall", "5")
        swarm.spawn("ada", *many)
        swarm.spawn("bob", *many, "--port", str(port), "--advertise", str(proxy.port))
        swarm.spawn("cyd", *many)
        for worker in swarm.workers.values():
            worker.finish()
        proxy.close()
        assert {len(e["members"]) for w in swarm.workers.values() for e in w.events("round")} == {3}
        assert swarm.workers["ada"].events("reduced")[0]["seconds"] > 0.4  # 275 kB over 600 kB/s
        # who has done its rounds leaves; put out would be something else
        assert not [e for e in swarm.workers["ada"].events("dropped") if e["reason"] != "left"]


def test_a_stranger_without_the_token_gets_nowhere() -> None:
    with Swarm() as swarm:
        swarm.spawn("ada", "--rounds", "40", "--pause", "0.2")
        swarm.workers["ada"].round(1)
        stranger = swarm.spawn("eve", "--rounds", "1", token="wrong" * 8)
        refused = stranger.wait(lambda e: e["event"] == "contact_failed" and "token" in e["reason"])
        assert refused
        assert swarm.workers["ada"].wait(lambda e: e["event"] == "rejected")
        assert all(e["members"] == ["ada"] for e in swarm.workers["ada"].events("round"))


def test_floods_of_half_open_and_garbage_connections_do_not_stop_the_swarm() -> None:
    with Swarm() as swarm:
        pair = [swarm.spawn(n, "--expect", "2", "--rounds", "15", "--pause", "0.2") for n in ("ada", "bob")]
        pair[0].round(1)
        held = []
        for i in range(200):
            sock = socket.create_connection(("127.0.0.1", swarm.port))
            if i % 2:
                sock.sendall(os.urandom(200))
            held.append(sock)
        for worker in pair:
            worker.finish()
        for sock in held:
            sock.close()
        assert {len(e["members"]) for w in pair for e in w.events("round")} == {2}


@pytest.fixture
def listener() -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0))
    yield server
    server.close()


def test_a_member_cannot_pose_as_another(listener: socket.socket) -> None:
    class Named:
        """A stand-in for signatures: each name has its own secret."""

        def __init__(self, secrets: dict[str, bytes], own: str) -> None:
            self.secrets, self.own = secrets, own

        def sign(self, digest: bytes) -> bytes:
            return digest[:8] + self.secrets[self.own]

        def verify(self, name: str, digest: bytes, signature: bytes) -> bool:
            return signature == digest[:8] + self.secrets.get(name, b"?")

    secrets = {"ada": b"1", "eve": b"2"}
    host = Credentials("ada", TOKEN, Named(secrets, "ada"))
    errors: list[CommonweightError] = []

    def welcome() -> None:
        sock, _ = listener.accept()
        try:
            answer(host, sock)
        except CommonweightError as error:
            errors.append(error)

    thread = threading.Thread(target=welcome)
    thread.start()
    liar = Credentials("bob", TOKEN, Named({**secrets, "bob": b"3"}, "eve"))
    link = dial(liar, *listener.getsockname()[:2], "control", "ada")
    thread.join(timeout=10)
    link.close()
    assert "could not prove" in errors[0].message


def test_the_dialler_checks_whom_it_reached(listener: socket.socket) -> None:
    def welcome() -> None:
        sock, _ = listener.accept()
        with pytest.raises(CommonweightError):
            answer(Credentials("eve", TOKEN), sock)

    thread = threading.Thread(target=welcome)
    thread.start()
    with pytest.raises(LinkError):
        dial(Credentials("bob", TOKEN), *listener.getsockname()[:2], "control", "ada")
    thread.join(timeout=10)


def test_a_frame_may_not_be_changed_replayed_or_longer_than_agreed(listener: socket.socket) -> None:
    host, guest = Credentials("ada", TOKEN), Credentials("bob", TOKEN)
    links = []
    thread = threading.Thread(target=lambda: links.append(answer(host, listener.accept()[0])))
    thread.start()
    link = dial(guest, *listener.getsockname()[:2], "control", "ada")
    thread.join(timeout=10)
    link.send(b"x" * 100, 1)
    assert links[0].receive(100, 1) == b"x" * 100
    link.send(b"x" * 101, 1)
    with pytest.raises(EncodingError):
        links[0].receive(100, 1)
    link.close()
    links[0].close()


def test_a_handshake_that_stalls_ends_at_its_deadline(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()) as slow:
        slow.sendall(b"commonweight/1")
        sock, _ = listener.accept()
        began = time.monotonic()
        with pytest.raises(LinkError):
            answer(Credentials("ada", TOKEN), sock, seconds=0.2)
    assert time.monotonic() - began < 5


class Provider:
    """Serves a state as a member would; ``spoil`` changes what it says."""

    def __init__(self, name: str, data: bytes, spoil: str = "") -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.member = Member(name, "127.0.0.1", self.server.getsockname()[1])
        self.data, self.spoil, self.served = data, spoil, 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self.server:
            sock, _ = self.server.accept()
        link = answer(Credentials(self.member.name, TOKEN), sock)
        try:
            self._answer(link)
        except (LinkError, EncodingError):
            pass  # the joiner went away
        finally:
            link.close()

    def _answer(self, link: Link) -> None:
        snapshots = Snapshots()
        snapshots.publish(merkle.root(self.data), self.data)
        if not self.spoil:
            recovery.serve(link, snapshots, 5)
            return
        link.receive(32, 5)
        shards = [self.data[i : i + merkle.SHARD] for i in range(0, len(self.data), merkle.SHARD)]
        hashes = [merkle.shard_hash(s) for s in shards]
        if self.spoil == "head":
            hashes[0] = bytes(32)
        link.send(len(self.data).to_bytes(8, "big") + b"".join(hashes), 5)
        for _ in shards:
            number = int.from_bytes(link.receive(4, 5), "big")
            self.served += 1
            if self.spoil == "shard" and number == 1:
                link.send(bytes(len(shards[number])), 5)
                return
            if self.spoil == "silence" and number == 1:
                link.receive(4, 5)
                return
            link.send(shards[number], 5)


@pytest.mark.parametrize("spoil", ["head", "shard", "silence"])
def test_a_joiner_names_a_lying_neighbour_and_continues_with_the_next(spoil: str) -> None:
    data = np.random.default_rng(7).bytes(2 * merkle.SHARD + 1000)
    bad, good = Provider("eve", data, spoil), Provider("ada", data)
    events: list[tuple[str, dict[str, object]]] = []
    got = recovery.fetch(
        Credentials("bob", TOKEN),
        merkle.root(data),
        (bad.member, good.member),
        20,
        0.5,
        lambda event, **fields: events.append((event, fields)),
    )
    assert got == data
    failed = [f for e, f in events if e == "provider_failed"]
    assert [f["name"] for f in failed] == ["eve"]
    assert failed[0]["shards"] == (0 if spoil == "head" else 1)


def test_a_state_nobody_has_is_an_error_and_not_a_guess() -> None:
    data = b"state" * 100
    provider = Provider("ada", data, "head")
    with pytest.raises(CommonweightError) as caught:
        recovery.fetch(
            Credentials("bob", TOKEN), merkle.root(data), (provider.member,), 5, 0.5, lambda *_, **__: None
        )
    assert caught.value.code == "E1513"


def test_a_join_under_another_members_name_is_not_taken() -> None:
    """The name in a message must be the one that the connection proved."""
    with Swarm() as swarm:
        swarm.spawn("ada", "--rounds", "20", "--pause", "0.2")
        swarm.workers["ada"].round(1)
        link = dial(Credentials("eve", b"t" * 32), "127.0.0.1", swarm.port, "control", "ada")
        link.send(messages.encode(Join(Member("bob", "127.0.0.1", 1), bytes(32))), 2)
        with pytest.raises(LinkError):
            link.receive(1 << 16, 5)
        link.close()
        assert not swarm.workers["ada"].events("joining")
