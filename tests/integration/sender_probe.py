"""A tiny contract on a chain of its own, for tests of sender and follower: it counts what really happened.

The byte code is this source, compiled by solc 0.8.37 for paris with ``runs = 1`` and without metadata:

    pragma solidity 0.8.37;
    contract Probe {
        error Shut(uint256 since);
        struct Pair { uint96 amount; address who; }
        event Did(address indexed who, bytes32 indexed id, Pair pair, string note);
        mapping(bytes32 => uint256) public times;
        uint256 public total;
        uint256 public shutAt;
        function act(bytes32 id, Pair calldata pair, string calldata note) external {
            if (shutAt != 0) revert Shut(shutAt);
            times[id]++; total++;
            emit Did(msg.sender, id, pair, note);
        }
        function shut() external { shutAt = block.number; }
    }
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from web3 import Web3

from commonweight.chain.client import Chain
from commonweight.chain.effects import Effect, Refused
from commonweight.chain.journal import Journal
from commonweight.chain.keys import dev_account
from commonweight.chain.rpc import Rpc, data, hexed
from commonweight.chain.sender import Sender
from commonweight.chain.wallet import Policy

T = TypeVar("T")
PROBE = "Vault"  # a name that the follower listens to


def _entry(
    kind: str, name: str, inputs: Sequence[tuple[str, ...]], outputs: Sequence[str] = ()
) -> dict[str, Any]:
    ins = [{"type": t, "name": n, "indexed": bool(more)} for t, n, *more in inputs]
    pair = [{"type": "uint96", "name": "amount"}, {"type": "address", "name": "who"}]
    for item in ins:
        item.update({"components": pair} if item["type"] == "tuple" else {})
    return {"type": kind, "name": name, "inputs": ins, "outputs": [{"type": t, "name": ""} for t in outputs]}


ABI = [
    _entry("error", "Shut", [("uint256", "since")]),
    _entry(
        "event",
        "Did",
        [("address", "who", "indexed"), ("bytes32", "id", "indexed"), ("tuple", "pair"), ("string", "note")],
    ),
    _entry("function", "act", [("bytes32", "id"), ("tuple", "pair"), ("string", "note")]),
    _entry("function", "shut", []),
    _entry("function", "times", [("bytes32", "id")], ["uint256"]),
    _entry("function", "total", [], ["uint256"]),
    _entry("function", "shutAt", [], ["uint256"]),
]
CODE = bytes.fromhex(
    "6080604052348015600f57600080fd5b506102b68061001f6000396000f3fe608060405234801561001057600080fd5b5060"
    "0436106100575760003560e01c80632ddbd13a1461005c57806342036674146100775780636ce800c5146100805780638676"
    "3a321461008b578063ca5d76101461009e575b600080fd5b61006560015481565b60405190815260200160405180910390f3"
    "5b61006560025481565b61008943600255565b005b61008961009936600461016e565b6100be565b6100656100ac36600461"
    "0202565b60006020819052908152604090205481565b600254156100ee5760025460405163388d770f60e01b815260040161"
    "00e591815260200190565b60405180910390fd5b60008481526020819052604081208054916101088361021b565b90915550"
    "506001805490600061011d8361021b565b919050555083336001600160a01b03167f79e6eb0e529218fed8390cbcdf2bab2c"
    "ad35127ebbc1a80513bf5ecb133dade185858560405161016093929190610242565b60405180910390a350505050565b6000"
    "80600080848603608081121561018557600080fd5b853594506040601f198201121561019b57600080fd5b50602085019250"
    "60608501356001600160401b038111156101bb57600080fd5b8501601f810187136101cc57600080fd5b8035600160016040"
    "1b038111156101e257600080fd5b8760208284010111156101f457600080fd5b949793965060200194505050565b60006020"
    "828403121561021457600080fd5b5035919050565b60006001820161023b57634e487b7160e01b6000526011600452602460"
    "00fd5b5060010190565b600084356001600160601b03811680821461025c57600080fd5b83525060208501356001600160a0"
    "1b03811680821461027a57600080fd5b80602085015250506060604083015282606083015282846080840137600060808484"
    "0101526080601f19601f850116830101905094935050505056"
)


def until(condition: Callable[[], T], deadline_s: float = 30.0) -> T:
    """Ask until the answer is true."""
    end = time.monotonic() + deadline_s
    while not (answer := condition()):
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)
    return answer


def deploy(url: str) -> dict[str, Any]:
    """Deploy a probe by the first development account and return its deployment record."""
    rpc, owner = Rpc(url), hexed(data(dev_account(0).address))
    sent = rpc.call("eth_sendTransaction", {"from": owner, "data": hexed(CODE), "gas": hex(2_000_000)})
    receipt = until(lambda: rpc.call("eth_getTransactionReceipt", sent))
    code = data(rpc.call("eth_getCode", receipt["contractAddress"], "latest"))
    place = {"address": receipt["contractAddress"], "abi": ABI, "code_hash": "0x" + Web3.keccak(code).hex()}
    return {"chain_id": 31337, "block": int(receipt["blockNumber"], 16), "contracts": {PROBE: place}}


def name(effect_id: str) -> bytes:
    """The id under which the probe counts an effect."""
    return hashlib.sha256(effect_id.encode()).digest()


class Bench:
    """A sender with its journal against one probe; ``account`` is the index of a development account."""

    def __init__(
        self,
        url: str,
        record: dict[str, Any],
        journal: Path,
        *,
        account: int = 1,
        confirmations: int = 0,
        policy: Policy | None = None,
    ) -> None:
        self.chain = Chain.connect(url, record, confirmations=confirmations)
        self.rpc = self.chain.rpc
        self.journal = Journal(journal)
        try:
            self.sender = Sender(self.chain, dev_account(account), self.journal, policy)
        except BaseException:
            self.journal.close()
            raise

    def act(self, effect_id: str) -> Effect | Refused:
        """Request one countable effect."""
        pair = {"amount": 7, "who": self.sender.address}
        return self.sender.request(effect_id, PROBE, "act", [name(effect_id), pair, effect_id])

    def times(self, effect_id: str) -> int:
        """How often it happened on chain."""
        return int(self.chain.view(PROBE, "times", name(effect_id)))

    def mine(self, blocks: int = 1) -> None:
        """Mine, with or without waiting transactions."""
        for _ in range(blocks):
            self.rpc.call("evm_mine")

    def close(self) -> None:
        """Let go of the journal."""
        self.journal.close()
