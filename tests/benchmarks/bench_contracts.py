"""Gas of every call on a local Anvil, each its own transaction with cold storage, against the targets.

    python tests/benchmarks/bench_contracts.py                print the table, write build/bench/contracts.json
    python tests/benchmarks/bench_contracts.py --peer OUT     and beside the peer's contracts, compiled in OUT

Beside it how many lines of Solidity there are.
One round of 8 leases and 5 seats, a dispute, and merge proofs over synthetic deep trees (a path of random siblings
is a path: the root follows from it). Receipts are the measure; wall-clock is none.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from commonweight.core import seeds  # noqa: E402
from commonweight.core.hashing import abi_sha256  # noqa: E402
from commonweight.core.works import Header  # noqa: E402
from commonweight.nodes.exhibits import fields, packed  # noqa: E402
from tests.benchmarks import contracts_peer, contracts_size  # noqa: E402
from tests.reference.anvil import TOKEN, Chain  # noqa: E402

SEED = 20_261_124
TARGETS = {
    "deposit": 75_000,
    "withdraw": 75_000,
    "publish": 240_000,
    "claim": 125_000,
    "touch": 55_000,
    "submit": 65_000,
    "seed": 50_000,
    "sealVotes (8 votes)": 70_000,
    "reveal (8 votes)": 30_000 + 18_000 * 8,
    "openSeal": 110_000,
    "settle (8 votes)": 45_000 + 22_000 * 8,
    "propose": 130_000,
    "advance": 85_000,
    "reveal with a reject": 230_000,
    "answer": 180_000,
    "rule": 125_000,
    "lease end to end": 650_000,
    "deposit (the first of all)": 75_000,
    "proveMerge, 16 updates, 2^27 lanes each": 900_000,
    "proveMerge, 16 updates, 2^27 lanes of 14 bits": 900_000,
    "proveMerge, 16 updates, 2^27 lanes of 15 bits": 900_000,
    "proveMerge, 16 updates, 2^27 lanes of 16 bits": 900_000,
}


def person(kind: int, i: int) -> bytes:
    """An address."""
    return bytes([kind]) * 19 + bytes([i + 1])


@dataclass(slots=True)
class Bench:
    """A chain, and the gas of every call by name."""

    chain: Chain
    gas: dict[str, list[int]] = field(default_factory=dict)
    total: int = 0

    def send(self, name: str, sender: bytes, contract: str, function: str, *args: Any) -> None:
        """Send, and note the gas under ``name``."""
        used = int(self.chain.send(sender, contract, function, *args)["gasUsed"], 16)
        self.gas.setdefault(name, []).append(used)
        self.total += used

    def fund(self, who: bytes) -> None:
        """Tokens in the Vault."""
        amount = 100_000 * TOKEN
        self.chain.send(who, "Token", "mint", who, amount)
        self.chain.send(who, "Token", "approve", self.chain.addresses["Vault"], amount)
        first = "" if "deposit (the first of all)" in self.gas else " (the first of all)"
        self.send("deposit" + first, who, "Vault", "deposit", amount)


def node(left: bytes, right: bytes) -> bytes:
    """Inner node of the one tree."""
    return sha256(b"\x01" + left + right).digest()


def deep(data: bytes, index: int, leaves: int, rng: Random) -> tuple[bytes, tuple[bytes, list[bytes]]]:
    """Root of a tree of ``leaves`` leaves in which ``data`` is leaf ``index``, and that leaf's opening."""
    top, path, width = sha256(b"\x00" + data).digest(), [], leaves
    at = index
    while width > 1:
        if at & 1 or at + 1 < width:
            sibling = rng.randbytes(32)
            path.append(sibling)
            top = node(sibling, top) if at & 1 else node(top, sibling)
        at, width = at >> 1, (width + 1) >> 1
    root = sha256(b"\x02" + (1024 * leaves).to_bytes(8, "big") + top).digest()
    return root, (data, path)


def lanes(rng: Random, span: int) -> bytes:
    """One leaf of random int32 lanes."""
    return b"".join(rng.randint(-span, span).to_bytes(4, "little", signed=True) for _ in range(256))


PARAMS: dict[str, int] = {
    "reward": 10 * TOKEN,
    "bond": 10 * TOKEN,
    "aggReward": 2 * TOKEN,
    "aggBond": 10 * TOKEN,
    "slots": 8,
    "rounds": 2,
    "feeBps": 1000,
    "want": 5,
    "quorum": 2,
    "lag": 1,
    "decoyOneIn": 0,
    "claimT": 600,
    "trainT": 600,
    "sealT": 600,
    "revealT": 600,
    "openT": 600,
    "aggT": 600,
}
RULE = {"length": 4096, "shift": 8, "trim": 0, "lrNum": 7, "lrDen": 10, "momentumNum": 9, "momentumDen": 10}


class Task:
    """A task whose works are made of given headers."""

    def __init__(self, bench: Bench, params: dict[str, int], rule: dict[str, int], model: bytes) -> None:
        self.bench, self.params = bench, params
        publisher = person(0xA0, 0)
        bench.send(
            "publish", publisher, "Tasks", "publish", params | rule, b"s" * 32, model, "http://127.0.0.1:8700"
        )
        self.id = bench.chain.view("Tasks", "tasks")
        self.headers: dict[int, Header] = {}

    def train(self, headers: list[Header]) -> int:
        """Claim and submit every slot; the poll's number."""
        bench, chain = self.bench, self.bench.chain
        for slot, _ in enumerate(headers):
            who = person(0xB0, slot % 8)
            seal = seeds.seal_of(self.secret(slot), who)
            bench.send(
                "claim" if slot else "claim (begins the round)", who, "Tasks", "claim", self.id, 0, seal
            )
        chain.mine(2)
        bench.send("touch", person(0xE0, 0), "Tasks", "touch", self.id, 0)
        for slot, header in enumerate(headers):
            self.headers[slot] = header
            name = "submit" if slot + 1 < len(headers) else "submit (opens the poll)"
            bench.send(name, person(0xB0, slot % 8), "Tasks", "submit", self.id, 0, slot, header.root)
        chain.mine(2)
        return int(chain.view("Tasks", "round", self.id, 0)["poll"])

    def secret(self, slot: int) -> bytes:
        """The lease's secret."""
        return abi_sha256(self.id, slot)

    def vote(self, poll: int, batches: dict[int, list[int]], jury: bool = False) -> None:
        """Seal and reveal one batch per seat."""
        bench, chain = self.bench, self.bench.chain
        panel = chain.addresses["Panel"]
        salt = b"\x05" * 32
        if not jury:
            bench.send("seed", person(0xE0, 0), "Panel", "seed", poll)
        for seat, votes in batches.items():
            hash_ = seeds.votes_hash(31337, panel, poll, seat, votes, salt)
            name = f"sealVotes ({len(votes)} votes)"
            bench.send(name, person(0xC0, seat - 1), "Panel", "sealVotes", poll, seat, hash_, len(votes))
        if chain.now() < chain.view("Panel", "ends", poll)[0]:
            chain.mine(1, 601)
        for seat, votes in batches.items():
            bad = any(v & 0xFFFFFFFF for v in votes) and not jury
            name = "reveal with a reject" if bad else f"reveal ({len(votes)} votes)"
            bench.send(name, person(0xE0, 0), "Panel", "reveal", poll, seat, votes, salt)
        if chain.now() < chain.view("Panel", "ends", poll)[1]:
            chain.mine(1, 601)

    def open(self) -> None:
        """Open every seal."""
        for slot, header in self.headers.items():
            args = (self.id, 0, slot, self.secret(slot), fields(header))
            self.bench.send("openSeal", person(0xE0, 0), "Tasks", "openSeal", *args)


def plain_header(slot: int, rng: Random) -> tuple[Header, tuple[bytes, list[bytes]]]:
    """A header whose first step leaf can be opened."""
    root, opening = deep(rng.randbytes(1024), 0, 8, rng)
    update, _ = deep(lanes(rng, 300), 0, 4, rng)
    return Header(update, 4096, root, 8, root, 8, abi_sha256(slot)), opening


def one_round(bench: Bench, rng: Random) -> None:
    """Eight leases, five seats, honest from end to end."""
    before = bench.total
    task = Task(bench, PARAMS, RULE, b"m" * 32)
    made = [plain_header(i, rng)[0] for i in range(8)]
    poll = task.train(made)
    accepts = [i << 40 for i in range(8)]
    task.vote(poll, dict.fromkeys(range(1, 6), accepts))
    task.open()
    aggregator = person(0xF0, 0)
    bench.send("propose", aggregator, "Tasks", "propose", task.id, 0, b"n" * 32)
    bench.chain.mine(1, 601)
    bench.send("advance", person(0xE0, 0), "Tasks", "advance", task.id, 0)
    for seat in range(1, 6):
        bench.send("settle (8 votes)", person(0xE0, 0), "Panel", "settle", poll, seat, accepts, b"\x05" * 32)
    bench.gas["lease end to end"] = [(bench.total - before) // 8]


def one_dispute(bench: Bench, rng: Random) -> None:
    """A reject of one step, an answer, a jury, a ruling."""
    task = Task(bench, PARAMS | {"slots": 1, "quorum": 1}, RULE, b"m" * 32)
    header, opening = plain_header(99, rng)
    poll = task.train([header])
    task.vote(poll, {1: [3 << 32 | 1], 2: [0]})
    bench.send("answer", person(0xE0, 0), "Court", "answer", 1, fields(header), opening)
    task.open()
    jury = bench.chain.view("Court", "dispute", 1)["poll"]
    bench.chain.mine(2)
    task.vote(jury, {seat: [0] for seat in range(1, 6)}, jury=True)
    bench.send("rule", person(0xE0, 0), "Court", "rule", 1)


def one_proof(bench: Bench, rng: Random, works: int, leaves: int, name: str, span: int = 300) -> None:
    """Refute a wrong merge of ``works`` updates of a model of ``leaves`` leaves, at a leaf in the middle."""
    at = leaves // 3
    weights, w = deep_pair(rng, leaves, at)
    rule = RULE | {"length": 1024 * leaves}
    made, updates = [], []
    for i in range(works):
        root, opening = deep(lanes(rng, span), at, leaves, rng)
        made.append(Header(root, 1024 * leaves, b"t" * 32, 8, b"s" * 32, 8, abi_sha256(i)))
        updates.append(opening)
    task = Task(bench, PARAMS | {"slots": works, "quorum": 1}, rule, weights)
    poll = task.train(made)
    task.vote(poll, {1: [i << 40 for i in range(works)]})
    task.open()
    proposed, shown = deep(lanes(rng, 2**24), at, 2 * leaves, rng)
    bench.send("propose", person(0xF0, 0), "Tasks", "propose", task.id, 0, proposed)
    proof = b"".join(packed(opening) for opening in (shown, w[1], w[0]))
    proof += b"".join(packed(update) for update in updates)
    bench.send(name, person(0xE0, 0), "Tasks", "proveMerge", task.id, 0, at, 7, proof)


def deep_pair(rng: Random, leaves: int, at: int) -> tuple[bytes, list[tuple[bytes, list[bytes]]]]:
    """Root of a version with openings of a weights leaf and of its momentum leaf (``leaves`` a power of two)."""
    left_top, left = half(lanes(rng, 2**24), at, leaves, rng)
    right_top, right = half(lanes(rng, 2**24), at, leaves, rng)
    top = node(left_top, right_top)
    root = sha256(b"\x02" + (2048 * leaves).to_bytes(8, "big") + top).digest()
    return root, [(left[0], [*left[1], right_top]), (right[0], [*right[1], left_top])]


def half(data: bytes, index: int, leaves: int, rng: Random) -> tuple[bytes, tuple[bytes, list[bytes]]]:
    """Top of a perfect subtree, not yet bound to a length, and an opening within it."""
    top, path = sha256(b"\x00" + data).digest(), []
    for level in range(leaves.bit_length() - 1):
        path.append(rng.randbytes(32))
        top = node(path[-1], top) if index >> level & 1 else node(top, path[-1])
    return top, (data, path)


def report(bench: Bench) -> dict[str, dict[str, float | int | None]]:
    """Worst gas per call, its target, and the ratio."""
    rows: dict[str, dict[str, float | int | None]] = {}
    print(f"{'call':44} {'times':>5} {'worst gas':>10} {'target':>9} {'ratio':>6}")
    for name, used in bench.gas.items():
        worst, target = max(used), TARGETS.get(name)
        ratio = round(worst / target, 3) if target else None
        rows[name] = {"gas": worst, "least": min(used), "times": len(used), "target": target, "ratio": ratio}
        print(f"{name:44} {len(used):5} {worst:10,} {target or 0:9,} {ratio or '':>6}")
    return rows


def beside(ours: dict[str, Any], peer: dict[str, int]) -> dict[str, Any]:
    """What joining and one paid work cost a worker, there and here."""
    gas = {name: row["gas"] for name, row in ours.items()}
    join = ("registerProvider", "whitelistProvider", "addComputeNode", "validateNode", "joinComputePool")
    rows = {
        "join": (gas["deposit"], sum(peer[name] for name in join)),
        "submit": (gas["submit"], peer["submitWork"]),
        "be paid": (gas["openSeal"], peer["claimRewards"]),
        "a paid work, all the worker's calls": (
            gas["claim"] + gas["submit"] + gas["openSeal"],
            peer["submitWork"] + peer["claimRewards"],
        ),
        "take a work back": (gas["reveal with a reject"], peer["invalidateWork (slashes)"]),
    }
    print(f"\n{'the peer, call by call':44} {'gas':>10}")
    for name, used in peer.items():
        print(f"{name:44} {used:10,}")
    print(f"\n{'what a worker pays':44} {'ours':>10} {'peer':>10} {'ratio':>6}")
    found = {}
    for name, (mine, theirs) in rows.items():
        found[name] = {"gas": mine, "peer": theirs, "ratio": round(mine / theirs, 3)}
        print(f"{name:44} {mine:10,} {theirs:10,} {mine / theirs:6.2f}")
    return {"rows": found, "calls": peer}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--peer", type=Path, help="folder of the peer's compiled artifacts (contracts_peer.py)"
    )
    args = parser.parse_args()
    rng = Random(SEED)
    result: dict[str, Any] = {"seed": SEED, "seats": 5, "leases": 8}
    for fork in ("prague", "cancun"):
        print(f"\n{fork}: calldata costs {'at least 40' if fork == 'prague' else '16'} gas a byte")
        with Chain(hardfork=fork) as chain:
            bench = Bench(chain)
            for who in [person(0xA0, 0), person(0xF0, 0)] + [person(0xB0, i) for i in range(8)]:
                bench.fund(who)
            bench.send("withdraw", person(0xF0, 0), "Vault", "withdraw", TOKEN)
            for i in range(5):
                bench.fund(person(0xC0, i))
                bench.send("sit", person(0xC0, i), "Panel", "sit")
            one_round(bench, rng)
            one_dispute(bench, rng)
            for works, bits in ((4, 10), (16, 10), (16, 19), (16, 22)):
                name = f"proveMerge, {works} updates, 2^{bits + 8} lanes each"
                one_proof(bench, rng, works, 1 << bits, name)
            for wide in (14, 15, 16):
                name = f"proveMerge, 16 updates, 2^27 lanes of {wide} bits"
                one_proof(bench, rng, 16, 1 << 19, name, (1 << wide - 1) - 1)
            result[fork] = report(bench)
            if args.peer:
                result[fork + " beside the peer"] = beside(
                    result[fork], contracts_peer.measure(chain, args.peer)
                )
    result["lines"] = contracts_size.report()
    target = ROOT / "build" / "bench" / "contracts.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwrote {target.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
