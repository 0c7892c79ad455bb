"""Gas of a worker's life in the Prime Intellect contracts, on the Anvil that ours are measured on.

Their code is not part of this project: the caller names a folder of compiled artifacts (`Name.sol/Name.json` with `abi`
and `bytecode`, as forge writes them) of github.com/PrimeIntellect-ai/smart-contracts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eth_abi import encode
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.crypto import keccak

from commonweight.chain.interface import Interface
from tests.reference.anvil import TOKEN, Chain

ADMIN, WORKER = b"\xad" * 20, b"\xb7" * 20
NODE = Account.from_key(b"\x07" * 32)
MANAGER = Account.from_key(b"\x08" * 32)
DAY = 86_400


class Peer:
    """Their contracts on a chain, and the gas of each call by name."""

    def __init__(self, chain: Chain, folder: Path) -> None:
        self.chain, self.folder = chain, folder
        self.gas: dict[str, list[int]] = {}
        token = self.create("AIToken", ["string", "string"], ["T", "T"])
        network = self.create("PrimeNetwork", ["address"] * 3, [ADMIN, ADMIN, token])
        registry = self.create("ComputeRegistry", ["address"], [network])
        domains = self.create("DomainRegistry", ["address"], [network])
        stakes = self.create("StakeManager", ["address", "uint256", "address"], [network, 7 * DAY, token])
        factory = self.create("RewardsDistributorWorkSubmissionFactory", [], [])
        parts = [network, domains, registry, factory, token]
        pool = self.create("ComputePool", ["address"] * 5, parts)
        checker = self.create("SyntheticDataWorkValidator", ["uint256", "address", "uint256"], [0, pool, DAY])
        self.send("", ADMIN, "RewardsDistributorWorkSubmissionFactory", "setComputePool", pool)
        self.send("", ADMIN, "PrimeNetwork", "setModuleAddresses", registry, domains, stakes, pool)
        self.send("", ADMIN, "PrimeNetwork", "setStakeMinimum", TOKEN)
        self.send("create domain", ADMIN, "PrimeNetwork", "createDomain", "d", checker, "http://127.0.0.1:1")
        manager = bytes.fromhex(MANAGER.address[2:])
        self.send(
            "create pool", ADMIN, "ComputePool", "createComputePool", 0, manager, "p", "http://127.0.0.1:1", 0
        )
        self.send("", ADMIN, "ComputePool", "startComputePool", 0)
        self.rewards = self._load("RewardsDistributorWorkSubmission")
        answer = chain.view("ComputePool", "getRewardDistributorForPool", 0)
        chain.addresses["RewardsDistributorWorkSubmission"] = answer

    def _load(self, name: str) -> str:
        found = json.loads((self.folder / f"{name}.sol" / f"{name}.json").read_text())
        self.chain.interfaces[name] = Interface(name, found["abi"])
        return str(found["bytecode"]["object"])

    def create(self, name: str, types: list[str], values: list[Any]) -> bytes:
        """Deploy one of their contracts by its admin."""
        code = bytes.fromhex(self._load(name)[2:]) + encode(types, values)
        self.chain.addresses[name] = self.chain.create(ADMIN, code)
        return self.chain.addresses[name]

    def send(self, row: str, sender: bytes, contract: str, verb: str, *args: Any) -> None:
        """One transaction, noted under ``row`` when it has a name."""
        used = int(self.chain.send(sender, contract, verb, *args)["gasUsed"], 16)
        if row:
            self.gas.setdefault(row, []).append(used)

    def worker(self) -> None:
        """Register, join, submit three works, and have them paid, taken back, or slashed."""
        node = bytes.fromhex(NODE.address[2:])
        self.send("", ADMIN, "AIToken", "mint", WORKER, 1000 * TOKEN)
        network = self.chain.addresses["PrimeNetwork"]
        self.send("", WORKER, "AIToken", "approve", network, 1000 * TOKEN)
        self.send("registerProvider", WORKER, "PrimeNetwork", "registerProvider", 100 * TOKEN)
        self.send("whitelistProvider", ADMIN, "PrimeNetwork", "whitelistProvider", WORKER)
        signed = NODE.sign_message(encode_defunct(keccak(WORKER + node))).signature
        self.send(
            "addComputeNode", WORKER, "PrimeNetwork", "addComputeNode", node, "ipfs://x", 1, bytes(signed)
        )
        self.send("validateNode", ADMIN, "PrimeNetwork", "validateNode", WORKER, node)
        until = self.chain.now() + 90 * DAY
        words = b"".join(x.to_bytes(32, "big") for x in (0, 0)) + node
        words += b"".join(x.to_bytes(32, "big") for x in (1, until))
        invite = bytes(MANAGER.sign_message(encode_defunct(keccak(words))).signature)
        # Of two functions with this name and so many arguments, the one that takes a single node.
        join = (0, WORKER, node, 1, until, invite)
        self.send("joinComputePool", WORKER, "ComputePool", "joinComputePool", *join)
        for i in range(3):
            name = "submitWork" if i else "submitWork (the node's first)"
            key = bytes([i + 1]) * 32
            self.send(name, WORKER, "ComputePool", "submitWork", 0, node, key + (5).to_bytes(32, "big"))
        self.send(
            "",
            ADMIN,
            "AIToken",
            "mint",
            self.chain.addresses["RewardsDistributorWorkSubmission"],
            1000 * TOKEN,
        )
        self.send("", ADMIN, "RewardsDistributorWorkSubmission", "setRewardRate", TOKEN)
        back = b"\x02" * 32 + (5).to_bytes(32, "big")
        self.send("softInvalidateWork", ADMIN, "PrimeNetwork", "softInvalidateWork", 0, back)
        bad = b"\x03" * 32 + (5).to_bytes(32, "big")
        self.send("invalidateWork (slashes)", ADMIN, "PrimeNetwork", "invalidateWork", 0, TOKEN, bad)
        self.chain.mine(1, 2 * DAY)
        self.send("claimRewards", WORKER, "RewardsDistributorWorkSubmission", "claimRewards", node)


def measure(chain: Chain, folder: Path) -> dict[str, int]:
    """Worst gas of each of their calls."""
    peer = Peer(chain, folder)
    peer.worker()
    return {name: max(used) for name, used in peer.gas.items()}
