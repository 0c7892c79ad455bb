"""Deploy from a key over an RPC: what `commonweight contracts deploy` and the demo do, and what it would cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import encode as abi_encode
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from ..core.errors import CommonweightError
from . import deployment, networks
from .deployment import MODULES, Creation, DeployConfig, Ledger, Record
from .genuine import require_genuine
from .keys import refuse_dev_key
from .rpc import Rpc, RpcError, data, hexed

GAS_MARGIN = 1.2
TRANSACTION_GAS = 1 << 24
"""Most gas of one transaction on chains since Osaka (EIP-7825)."""

DATA_FEE_MARGIN = 2
ETHER = 10**18
RECEIPT_SECONDS = 300.0
RECEIPT_PAUSE = 0.1

Ask = Callable[..., Any]
"""JSON-RPC: method and parameters to the result, E1206 for an error."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a deployment would do and cost at most. Fees in wei per gas, the rest in wei."""

    chain_id: int
    deployer: bytes
    steps: tuple[tuple[Creation, int], ...]
    """Each transaction and its gas limit."""
    fee: int
    """Most paid per gas."""
    base: int
    tip: int
    data_fee: int
    """For the data on the chain below, where a chain has one; a forecast with a margin, as nobody can bound it."""
    balance: int
    """What the deployer has."""

    @property
    def gas(self) -> int:
        """Sum of the gas limits."""
        return sum(gas for _, gas in self.steps)

    @property
    def cost(self) -> int:
        """Most it can cost."""
        return self.gas * self.fee + self.data_fee


def asker(rpc: Rpc) -> Ask:
    """Requests whose errors are E1206."""

    def ask(method: str, *params: Any) -> Any:
        try:
            return rpc.call(method, *params)
        except RpcError as error:
            raise CommonweightError(
                "E1206", f"the chain answered: {error}", "check the key, the token and the network"
            ) from error

    return ask


def estimate(ask: Ask, deployer: bytes, config: DeployConfig, test_token: bool = False) -> Estimate:
    """Simulate the creations; sends nothing.

    Raises E1209 without a token on a public chain, E1210 for an address without a token, E1304 for a well-known key.
    """
    chain_id = int(ask("eth_chainId"), 16)
    refuse_dev_key(deployer, chain_id)
    deployment.require_allowed(config, chain_id, test_token)
    if config.token is not None and not data(ask("eth_getCode", hexed(config.token), "latest")):
        raise CommonweightError(
            "E1210", f"there is no token contract at 0x{config.token.hex()}", "check the address"
        )
    base, tip = _fees(ask)
    steps = deployment.plan(
        config, deployer, int(ask("eth_getTransactionCount", hexed(deployer), "pending"), 16)
    )
    return Estimate(
        chain_id=chain_id,
        deployer=deployer,
        steps=tuple((step, _gas(ask, deployer, step)) for step in steps),
        fee=2 * base + tip,
        base=base,
        tip=tip,
        data_fee=_data_fee(ask, chain_id, steps),
        balance=int(ask("eth_getBalance", hexed(deployer), "latest"), 16),
    )


def _gas(ask: Ask, deployer: bytes, step: Creation) -> int:
    need = int(ask("eth_estimateGas", {"from": hexed(deployer), "data": hexed(step.code)}), 16)
    return max(need, min(int(need * GAS_MARGIN), TRANSACTION_GAS))


def _fees(ask: Ask) -> tuple[int, int]:
    """Base fee and tip per gas; a chain without base fees has a price instead."""
    base = int(ask("eth_getBlockByNumber", "latest", False).get("baseFeePerGas") or "0x0", 16)
    try:
        return base, int(ask("eth_maxPriorityFeePerGas"), 16)
    except CommonweightError as error:
        if error.code != "E1206":
            raise
        return base, max(0, int(ask("eth_gasPrice"), 16) - base)


def _data_fee(ask: Ask, chain_id: int, steps: list[Creation]) -> int:
    """What a rollup takes for keeping the transactions on the chain below, by its own oracle; 0 elsewhere."""
    oracle = networks.data_fee_oracle(chain_id)
    if oracle is None:
        return 0
    selector = keccak(text="getL1Fee(bytes)")[:4]
    total = 0
    for step in steps:
        call = {"to": hexed(oracle), "data": hexed(selector + abi_encode(["bytes"], [step.code]))}
        total += int.from_bytes(data(ask("eth_call", call, "latest")), "big")
    return DATA_FEE_MARGIN * total


def describe(e: Estimate) -> Iterator[str]:
    """The plan and its maximum cost as lines that fit 80 columns."""
    yield f"{len(e.steps)} transactions on chain {e.chain_id} by {to_checksum_address(e.deployer)};"
    yield "nothing is sent. In this order, while the key sends nothing else:"
    for number, (step, gas) in enumerate(e.steps, 1):
        yield f"{number:>3}  {step.name:<10} {to_checksum_address(step.address)}  gas at most {gas:>10,}"
        for name, value in step.arguments:
            yield f"       {name:<12} {value}"
    protocol = e.steps[-1][0].address
    for nonce, name in enumerate(MODULES, 1):
        yield f"     {name:<10} {to_checksum_address(deployment.created(protocol, nonce))}  made by Protocol"
    yield f"at most {gwei(e.fee)} gwei per gas: twice the base fee of {gwei(e.base)} and a tip of {gwei(e.tip)}"
    if e.data_fee:
        yield f"and about {ether(e.data_fee)} ether for data on the chain below, twice what its oracle says now"
    yield f"maximum cost: {e.cost} wei = {ether(e.cost)} ether for {e.gas:,} gas"
    if e.balance >= e.cost:
        yield f"the key has {ether(e.balance)} ether, which is enough"
    else:
        yield f"the key has {ether(e.balance)} ether: send it {ether(e.cost - e.balance)} before you deploy"


def ether(wei: int) -> str:
    """Exact, without trailing zeros."""
    whole, part = divmod(wei, ETHER)
    return f"{whole}.{part:018d}".rstrip("0").rstrip(".")


def gwei(wei: int) -> str:
    """Exact, without trailing zeros."""
    whole, part = divmod(wei, 10**9)
    return f"{whole}.{part:09d}".rstrip("0").rstrip(".")


def deploy(
    rpc_url: str,
    account: LocalAccount,
    config: DeployConfig,
    *,
    test_token: bool = False,
    chain_id: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Record:
    """Deploy and return the deployment record, checked against the package; ``chain_id``: the chain that is meant.

    Raises before anything is sent: E1201 another chain, E1203 no chain, E1209 no token named, E1210 no token there,
    E1304 a well-known key, E1305 too little ether. No transaction costs more than the estimate says.
    """
    rpc = Rpc(rpc_url)
    ask = asker(rpc)
    require_chain(ask, chain_id, rpc.place)
    expected = estimate(ask, data(account.address), config, test_token)
    if expected.balance < expected.cost:
        raise CommonweightError(
            "E1305",
            f"deploying costs up to {expected.cost} wei, {account.address} has {expected.balance}",
            "send it ether, or on a devnet run `commonweight devnet faucet`",
        )
    limits = iter(gas for _, gas in expected.steps)

    def create(code: bytes) -> tuple[bytes, int]:
        receipt = _send(ask, account, expected, code, next(limits))
        progress(f"created {receipt['contractAddress']} in block {int(receipt['blockNumber'], 16)}")
        return data(receipt["contractAddress"]), int(receipt["blockNumber"], 16)

    record = deployment.execute(
        Ledger(
            chain_id=expected.chain_id,
            deployer=expected.deployer,
            create=create,
            call=lambda to, call: data(ask("eth_call", {"to": hexed(to), "data": hexed(call)}, "latest")),
            code=lambda address: data(ask("eth_getCode", hexed(address), "latest")),
        ),
        config,
    )
    require_genuine(rpc, record)
    return record


def require_chain(ask: Ask, chain_id: int | None, place: str) -> None:
    """Raise E1201 when the endpoint is another chain than the one that is meant."""
    found = int(ask("eth_chainId"), 16)
    if chain_id is not None and found != chain_id:
        raise CommonweightError(
            "E1201",
            f"{place} is chain {found}, the network that was named is chain {chain_id}",
            "use an RPC address of the right network",
        )


def _send(ask: Ask, account: LocalAccount, expected: Estimate, code: bytes, gas: int) -> dict[str, Any]:
    """Create one contract and wait for it to be mined."""
    transaction: dict[str, Any] = {
        "chainId": expected.chain_id,
        "nonce": int(ask("eth_getTransactionCount", account.address, "pending"), 16),
        "gas": gas,
        "maxFeePerGas": expected.fee,
        "maxPriorityFeePerGas": expected.tip,
        "value": 0,
        "data": code,
    }
    signed = account.sign_transaction(transaction)
    tx = ask("eth_sendRawTransaction", hexed(bytes(signed.raw_transaction)))
    deadline = time.monotonic() + RECEIPT_SECONDS
    while time.monotonic() < deadline:
        receipt: dict[str, Any] | None = ask("eth_getTransactionReceipt", tx)
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
