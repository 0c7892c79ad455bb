"""Deploy from a key over an RPC: what `commonweight contracts deploy` and the demo do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eth_account.signers.local import LocalAccount

from ..core.errors import CommonweightError
from . import deployment
from .deployment import DeployConfig, Ledger, Record
from .keys import refuse_dev_key
from .rpc import Rpc, RpcError, data, hexed

GAS_MARGIN = 1.2
RECEIPT_SECONDS = 300.0
RECEIPT_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a deployment would do and cost at most."""

    chain_id: int
    steps: tuple[tuple[str, int], ...]
    """(contract, gas) per transaction."""
    fee: int
    """Most paid per gas, in wei."""
    balance: int
    """What the deployer has, in wei."""

    @property
    def cost(self) -> int:
        """Most it can cost, in wei."""
        return sum(gas for _, gas in self.steps) * self.fee


def estimate(rpc: Rpc, deployer: bytes, config: DeployConfig) -> Estimate:
    """Simulate the creations; sends nothing."""
    base = int(_ask(rpc, "eth_getBlockByNumber", "latest", False).get("baseFeePerGas", "0x0"), 16)
    tip = int(_ask(rpc, "eth_maxPriorityFeePerGas"), 16)
    steps = []
    for name, code in deployment.plan(config):
        gas = int(_ask(rpc, "eth_estimateGas", {"from": hexed(deployer), "data": hexed(code)}), 16)
        steps.append((name, int(gas * GAS_MARGIN)))
    return Estimate(
        chain_id=int(_ask(rpc, "eth_chainId"), 16),
        steps=tuple(steps),
        fee=2 * base + tip,
        balance=int(_ask(rpc, "eth_getBalance", hexed(deployer), "latest"), 16),
    )


def deploy(
    rpc_url: str,
    account: LocalAccount,
    config: DeployConfig,
    *,
    test_token: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Record:
    """Deploy and return the deployment record.

    Raises before anything is sent: E1203 no chain, E1209 no token named, E1304 a well-known key, E1305 too
    little ether.
    """
    rpc = Rpc(rpc_url)
    sender = data(account.address)
    chain_id = int(_ask(rpc, "eth_chainId"), 16)
    refuse_dev_key(sender, chain_id)
    deployment.require_allowed(config, chain_id, test_token)
    expected = estimate(rpc, sender, config)
    if expected.balance < expected.cost:
        raise CommonweightError(
            "E1305",
            f"deploying costs up to {expected.cost} wei, {account.address} has {expected.balance}",
            "send it ether, or on a devnet run `commonweight devnet faucet`",
        )

    def create(code: bytes) -> tuple[bytes, int]:
        receipt = _send(rpc, account, chain_id, code, expected.fee)
        address = data(receipt["contractAddress"])
        progress(f"created {receipt['contractAddress']} in block {int(receipt['blockNumber'], 16)}")
        return address, int(receipt["blockNumber"], 16)

    ledger = Ledger(
        chain_id=chain_id,
        deployer=sender,
        create=create,
        call=lambda to, call: data(_ask(rpc, "eth_call", {"to": hexed(to), "data": hexed(call)}, "latest")),
        code=lambda address: data(_ask(rpc, "eth_getCode", hexed(address), "latest")),
    )
    return deployment.execute(ledger, config)


def _send(rpc: Rpc, account: LocalAccount, chain_id: int, code: bytes, fee: int) -> dict[str, Any]:
    """Create one contract and wait for it to be mined."""
    gas = int(_ask(rpc, "eth_estimateGas", {"from": account.address, "data": hexed(code)}), 16)
    transaction: dict[str, Any] = {
        "chainId": chain_id,
        "nonce": int(_ask(rpc, "eth_getTransactionCount", account.address, "pending"), 16),
        "gas": int(gas * GAS_MARGIN),
        "maxFeePerGas": fee,
        "maxPriorityFeePerGas": min(fee, int(_ask(rpc, "eth_maxPriorityFeePerGas"), 16)),
        "value": 0,
        "data": code,
    }
    signed = account.sign_transaction(transaction)
    tx = _ask(rpc, "eth_sendRawTransaction", hexed(bytes(signed.raw_transaction)))
    deadline = time.monotonic() + RECEIPT_SECONDS
    while time.monotonic() < deadline:
        receipt: dict[str, Any] | None = _ask(rpc, "eth_getTransactionReceipt", tx)
        if receipt is not None:
            if int(receipt["status"], 16) != 1:
                raise CommonweightError(
                    "E1206", f"the creation {tx} was reverted on the chain", "check the token and the gas"
                )
            return receipt
        time.sleep(RECEIPT_PAUSE)
    raise CommonweightError(
        "E1205", f"the creation {tx} was not mined within {RECEIPT_SECONDS:.0f} s", "look at the fees"
    )


def _ask(rpc: Rpc, method: str, *params: Any) -> Any:
    try:
        return rpc.call(method, *params)
    except RpcError as error:
        raise CommonweightError(
            "E1206", f"the chain answered: {error}", "check the key, the token and the network"
        ) from error
