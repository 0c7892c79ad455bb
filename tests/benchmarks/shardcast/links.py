"""Slow links: one network namespace per node on a bridge, uplinks shaped by tc. Needs root and the right to do so.

Shaping is by token bucket; delay and loss need the kernel's netem, and where it is missing the row says that it ran
without them. Where namespaces are not permitted at all, `proxies` gives every node a limiter on loopback through which
the others reach it; both sides of the comparison run in the same mode, and the row names it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .loopback import HERE, PATIENCE, OurNode, Outcome, PeerNode, children_cpu, free_ports

PORT = 8700
RELAYS, CLIENTS = 3, 8
NODES = 1 + RELAYS + CLIENTS
PREFIX = f"cw{os.getpid() % 100000}"


@dataclass(frozen=True, slots=True)
class Link:
    """Uplinks in Mbit/s, one per node; one-way delay in ms, loss in percent."""

    uplinks: tuple[float, ...]
    delay: float = 0.0
    loss: float = 0.0

    def bound(self, size: int) -> float:
        """Seconds below which no swarm can bring ``size`` bytes from node 0 to all others."""
        total = sum(self.uplinks) * 1e6 / 8
        return max(size / (self.uplinks[0] * 1e6 / 8), (len(self.uplinks) - 1) * size / total)

    def two_tiers(self, size: int) -> float:
        """The same when only the origin and the relays send, clients last."""
        first = RELAYS * size / (self.uplinks[0] * 1e6 / 8)
        relays = sum(self.uplinks[1 : 1 + RELAYS]) * 1e6 / 8
        return max(first, CLIENTS * size / relays)


FAST = Link((200.0,) * NODES)
ROUGH = Link((100.0,) * (NODES - 1) + (10.0,), delay=25.0, loss=1.0)


def permitted() -> str:
    """Empty when namespaces and shaping work here, otherwise why not."""
    try:
        with _hub("probe"):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces are not permitted here: {error}"


def has_netem() -> bool:
    """Whether the kernel can delay and lose packets."""
    with _hub("probe") as hub:
        run("ip", "link", "add", "x0", "type", "veth", "peer", "name", "x1", netns=hub)
        done = subprocess.run(
            ["ip", "netns", "exec", hub, "tc", "qdisc", "add", "dev", "x0", "root", "netem", "delay", "1ms"],
            capture_output=True, check=False,
        )  # fmt: skip
        return done.returncode == 0


def run(*words: str, netns: str = "") -> None:
    """One command of ip or tc."""
    prefix = ["ip", "netns", "exec", netns] if netns else []
    subprocess.run([*prefix, *words], check=True, capture_output=True)


@contextlib.contextmanager
def _hub(name: str) -> Iterator[str]:
    hub = f"{PREFIX}-{name}"
    run("ip", "netns", "add", hub)
    try:
        yield hub
    finally:
        subprocess.run(["ip", "netns", "del", hub], check=False, capture_output=True)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node runs: a command's prefix, the address that it listens on, and the one that others use."""

    prefix: tuple[str, ...]
    listen: str
    url: str

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.listen.rpartition(":")[2])


Places = Callable[[Link], contextlib.AbstractContextManager[list[Place]]]


def mode() -> tuple[str, Places, str]:
    """Name of the best way to shape links here, how to lay them out, and what it leaves out."""
    if why := permitted():
        note = (
            f"{why}; rate-limited loopback: uplinks are shaped in user space, delay and loss are not applied"
        )
        return "rate-limited loopback", proxies, note
    if has_netem():
        return "namespaces, tbf and netem", functools.partial(network, netem=True), ""
    note = "this kernel has no netem: uplinks are shaped, delay and loss are not applied"
    return "namespaces and tbf", functools.partial(network, netem=False), note


@contextlib.contextmanager
def proxies(link: Link) -> Iterator[list[Place]]:
    """Every node on loopback behind a limiter of its own (see `limiter`)."""
    ports = free_ports(2 * len(link.uplinks))
    inner, outer = ports[::2], ports[1::2]
    words = [f"{o}:{i}:{rate * 1e6 / 8:.0f}" for o, i, rate in zip(outer, inner, link.uplinks, strict=True)]
    process = subprocess.Popen(
        [sys.executable, str(HERE / "limiter.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield [
            Place((), f"127.0.0.1:{i}", f"http://127.0.0.1:{o}") for o, i in zip(outer, inner, strict=True)
        ]
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def network(link: Link, netem: bool) -> Iterator[list[Place]]:
    """One namespace per node on a bridge."""
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(_hub("hub"))
        run("ip", "link", "add", "br0", "type", "bridge", netns=hub)
        run("ip", "link", "set", "br0", "up", netns=hub)
        places = []
        for i, rate in enumerate(link.uplinks):
            space, address = stack.enter_context(_hub(str(i))), f"10.77.0.{i + 1}"
            run(
                "ip",
                "link",
                "add",
                f"v{i}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                space,
                netns=hub,
            )
            run("ip", "link", "set", f"v{i}", "master", "br0", "up", netns=hub)
            run("ip", "addr", "add", f"{address}/24", "dev", "eth0", netns=space)
            run("ip", "link", "set", "lo", "up", netns=space)
            run("ip", "link", "set", "eth0", "up", netns=space)
            _shape(space, rate, link if netem else Link(link.uplinks))
            listen = f"{address}:{PORT}"
            places.append(Place(("ip", "netns", "exec", space), listen, f"http://{listen}"))
        yield places


def _shape(space: str, rate: float, link: Link) -> None:
    burst = str(max(16_000, int(rate * 1e6 / 8 / 100)))  # ten milliseconds
    add = ("tc", "qdisc", "add", "dev", "eth0")
    run(
        *add,
        "root",
        "handle",
        "1:",
        "tbf",
        "rate",
        f"{rate}mbit",
        "burst",
        burst,
        "latency",
        "60ms",
        netns=space,
    )
    if link.delay or link.loss:
        netem = ("netem", "delay", f"{link.delay}ms", "loss", f"{link.loss}%", "limit", "20000")
        run(*add, "parent", "1:1", "handle", "10:", *netem, netns=space)


def run_ours(file: Path, folder: Path, link: Link, lay_out: Places) -> Outcome:
    """Every node asks every other one and serves what it has."""
    before, nodes = children_cpu(), []
    with lay_out(link) as places:
        try:
            for i, place in enumerate(places):
                nodes.append(
                    OurNode(folder / f"ours-{i}", place.listen, file if i == 0 else None, place.prefix)
                )
            nodes[0].tell("put")
            root = nodes[0].expect("put")["root"]
            start = time.monotonic()
            for place, node in list(zip(places, nodes, strict=True))[1:]:
                others = ",".join(other.url for other in places if other is not place)
                node.tell("fetch", root, others, PATIENCE * 3)
            done = [node.expect("done") for node in nodes[1:]]
        finally:
            for node in nodes:
                node.stop()
            for path in folder.glob("ours-*"):
                shutil.rmtree(path)
    size = file.stat().st_size
    origin = sum(d["by_source"].get(places[0].url, 0) for d in done) / size
    repeated = sum(d["repeated"] for d in done)
    finished = sorted(round(d["at"] - start, 2) for d in done)
    detail = {"origin_copies": origin, "repeated": repeated, "finished": finished}
    return Outcome(finished[-1], children_cpu() - before, max(d["rss"] for d in done), detail)


def run_peer(file: Path, folder: Path, bench_python: Path, link: Link, lay_out: Places) -> Outcome:
    """The published package in the same network: relays look for news every second, clients start after them."""
    before, nodes = children_cpu(), []
    with lay_out(link) as places:
        try:
            urls, first = [place.url for place in places], places[0]
            origin = ("origin", folder / "peer-o", first.port, file)
            nodes.append(PeerNode(bench_python, folder, "o", *origin, prefix=first.prefix))
            for i in range(1, 1 + RELAYS):
                where = folder / f"peer-r{i}"
                middle = ("middle", where, places[i].port, urls[0], 1)
                nodes.append(PeerNode(bench_python, folder, f"r{i}", *middle, prefix=places[i].prefix))
            for i in range(1 + RELAYS, NODES):
                servers, where = ",".join(urls[1 : 1 + RELAYS]), folder / f"peer-c{i}"
                client = ("client", where, servers, "staged")
                nodes.append(PeerNode(bench_python, folder, f"c{i}", *client, prefix=places[i].prefix))
            nodes[0].go()
            nodes[0].expect("begun")
            start = nodes[0].expect("broadcast")
            relays = [node.expect("done") for node in nodes[1 : 1 + RELAYS]]
            for node in nodes[1 + RELAYS :]:
                node.go()
            done = [node.expect("done") for node in nodes[1 + RELAYS :]]
        finally:
            for node in nodes:
                node.stop()
            for path in folder.glob("peer-*"):
                shutil.rmtree(path)
    detail = {"relays_ready": max(relays) - start, "finished": sorted(round(d - start, 2) for d in done)}
    return Outcome(max(done) - start, children_cpu() - before, max(node.peak for node in nodes), detail)
