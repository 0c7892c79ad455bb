"""A checked connection to one deployment: reads, simulations, and the few raw calls that the sender needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from web3 import Web3

from ..core.errors import CommonweightError
from ..core.events import Event
from .history import History, Transaction
from .interface import Errors, Interface, load_abi
from .rpc import Rpc, RpcError, data, hexed, quantity

SPEAKING = ("Vault", "Panel", "Tasks", "Court")  # the contracts whose events make up the state


@dataclass(frozen=True, slots=True)
class Head:
    """A block as far as anybody needs it; ``timestamp`` in seconds."""

    number: int
    hash: bytes
    timestamp: int


@dataclass(frozen=True, slots=True)
class Reverted:
    """The contract's answer to a simulation that it refuses: the error's Solidity name and its arguments."""

    error: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where and how a transaction was mined. ``fee`` is in wei."""

    hash: bytes
    block: int
    block_hash: bytes
    status: bool
    gas_used: int
    fee: int


@dataclass(frozen=True, slots=True)
class Spender:
    """The transaction that used a nonce, and its block."""

    hash: bytes
    block: int


@dataclass(frozen=True, slots=True)
class Place:
    """One deployed contract: its interface, its address, and the keccak-256 of its code when pinned."""

    interface: Interface
    address: bytes
    code_hash: bytes | None = None


class Chain:
    """One deployment seen through one RPC endpoint.

    Every method may raise E1203 (unreachable) and, for answers that are errors, E1206.
    """

    def __init__(
        self, rpc: Rpc, places: Mapping[str, Place], chain_id: int, confirmations: int, start: int = 0
    ) -> None:
        self.rpc = rpc
        self.places = dict(places)
        self.chain_id = chain_id
        self.confirmations = confirmations
        self.start = start
        self.addresses = {name: place.address for name, place in places.items()}
        self._errors = Errors([place.interface for place in places.values()])
        self._history = History(rpc, {p.address: p.interface for n, p in places.items() if n in SPEAKING})

    @classmethod
    def connect(
        cls, rpc_url: str, deployment: Mapping[str, Any], *, confirmations: int = 1, timeout_s: float = 10.0
    ) -> Chain:
        """Check that the endpoint is the chain of the deployment record and holds its contracts.

        Raises E1201 for another chain, E1202 for other code at an address, E1203 when nothing answers.
        """
        chain_id = int(deployment["chain_id"])
        places = {name: _place(name, entry) for name, entry in deployment["contracts"].items()}
        chain = cls(Rpc(rpc_url, timeout_s), places, chain_id, confirmations, int(deployment.get("block", 0)))
        chain.check()
        return chain

    def check(self) -> None:
        """Compare chain id and code with the deployment record; see `connect`."""
        found = self._number("eth_chainId")
        if found != self.chain_id:
            raise CommonweightError(
                "E1201",
                f"{self.rpc.place} is chain {found}, the deployment is on chain {self.chain_id}",
                "use an RPC address of the right network, or the deployment file of this one",
            )
        for name, place in self.places.items():
            code = data(self._ask("eth_getCode", hexed(place.address), "latest"))
            if not code or (place.code_hash is not None and bytes(Web3.keccak(code)) != place.code_hash):
                what = "other code than the deployment record says" if code else "no contract"
                raise CommonweightError(
                    "E1202",
                    f"at {hexed(place.address)}, where {name} should be, there is {what}",
                    "the deployment file is another version's, or the local chain was started anew",
                )

    @property
    def identity(self) -> bytes:
        """What tells this deployment from every other one, also from the same addresses on a restarted local
        chain.
        """
        genesis = self.block_hash(0) or b""
        return b"".join(
            [self.chain_id.to_bytes(32, "big"), genesis, *(self.addresses[n] for n in sorted(self.addresses))]
        )

    # --- blocks and reads ---

    def head(self) -> Head:
        """The newest block."""
        return self._block("latest")

    def confirmed_head(self) -> Head:
        """The newest block with `confirmations` blocks on top of it (the first one while the chain is
        shorter).
        """
        return self._block(hex(max(0, self.head().number - self.confirmations)))

    def block_hash(self, number: int) -> bytes | None:
        """Hash of a canonical block, or None when the chain is shorter."""
        body = self._ask("eth_getBlockByNumber", hex(number), False)
        return None if body is None else data(body["hash"])

    def view(self, contract: str, function: str, *args: Any) -> Any:
        """Read a view at the newest block. Raises E1206 when it reverts."""
        place = self.places[contract]
        call = {"to": hexed(place.address), "data": hexed(place.interface.encode(function, args))}
        try:
            answer = data(self.rpc.call("eth_call", call, "latest"))
            return place.interface.decode_result(function, len(args), answer)
        except RpcError as error:
            name, values = self._errors.decode(error.data, error.text)
            raise CommonweightError(
                "E1206", f"{contract}.{function} answered {name}{values or ''}"
            ) from error

    def simulate(self, sender: bytes, contract: str, function: str, args: Sequence[Any]) -> Any:
        """What the call would return if ``sender`` made it now, or `Reverted`."""
        place = self.places[contract]
        answer = self.try_call(sender, place.address, place.interface.encode(function, args))
        return (
            answer
            if isinstance(answer, Reverted)
            else place.interface.decode_result(function, len(args), answer)
        )

    def encode(self, contract: str, function: str, args: Sequence[Any]) -> bytes:
        """Call data. Raises ValueError when the arguments do not fit."""
        return self.places[contract].interface.encode(function, args)

    def balance(self, address: bytes) -> int:
        """Ether of an address, in wei."""
        return self._number("eth_getBalance", hexed(address), "latest")

    def token_balance(self, address: bytes) -> int:
        """Reward tokens that an address holds itself (not what the Vault keeps for it), in the token's
        smallest unit.
        """
        return int(self.view("Token", "balanceOf", address))

    def events(self, first: int, last: int) -> list[Event]:
        """Decoded events of Vault, Panel, Tasks and Court in blocks ``first`` to ``last``, both included."""
        return self._history.events(first, last)

    def transactions(self, first: int, last: int) -> Iterator[Transaction]:
        """Transactions to those contracts in blocks ``first`` to ``last``, both included."""
        return self._history.transactions(first, last)

    # --- what the sender needs ---

    def try_call(
        self, sender: bytes, target: bytes, call_data: bytes, block: int | None = None
    ) -> bytes | Reverted:
        """Raw simulation at ``block`` (default: the newest)."""
        call = {"from": hexed(sender), "to": hexed(target), "data": hexed(call_data)}
        try:
            return data(self.rpc.call("eth_call", call, "latest" if block is None else hex(block)))
        except RpcError as error:
            return self._reverted(error)

    def estimate(self, sender: bytes, target: bytes, call_data: bytes) -> int | Reverted:
        """Gas that the call would need now."""
        call = {"from": hexed(sender), "to": hexed(target), "data": hexed(call_data)}
        try:
            return quantity(self.rpc.call("eth_estimateGas", call))
        except RpcError as error:
            return self._reverted(error)

    def nonce(self, address: bytes, block: int | str = "latest") -> int:
        """Number of transactions of an address at a block, or with those of the pool for ``"pending"``."""
        return self._number(
            "eth_getTransactionCount", hexed(address), hex(block) if isinstance(block, int) else block
        )

    def fees(self) -> tuple[int, int]:
        """Base fee of the newest block and a customary tip, both in wei per gas."""
        body = self._ask("eth_getBlockByNumber", "latest", False)
        try:
            tip = self._number("eth_maxPriorityFeePerGas")
        except CommonweightError as error:
            if error.code != "E1206":
                raise
            tip = 10**9  # a node without that method: one gwei is the usual default
        return quantity(body["baseFeePerGas"]), tip

    def send_raw(self, raw: bytes) -> str:
        """Hand over a signed transaction; returns the node's complaint, empty when it took it."""
        try:
            self.rpc.call("eth_sendRawTransaction", hexed(raw))
        except RpcError as error:
            return error.text or "refused"
        return ""

    def receipt(self, transaction: bytes) -> Receipt | None:
        """The receipt of a mined transaction."""
        body = self._ask("eth_getTransactionReceipt", hexed(transaction))
        if body is None:
            return None
        gas_used = quantity(body["gasUsed"])
        return Receipt(
            hash=transaction,
            block=quantity(body["blockNumber"]),
            block_hash=data(body["blockHash"]),
            status=body["status"] == "0x1",
            gas_used=gas_used,
            fee=gas_used * quantity(body["effectiveGasPrice"]),
        )

    def spender(self, address: bytes, nonce: int, first: int, last: int) -> Spender | None:
        """The mined transaction of ``address`` that used ``nonce``, searched in blocks after ``first`` up to
        ``last``.

        None when it is not there, or when the node no longer keeps the state that the search needs.
        """
        try:
            if self.nonce(address, first) > nonce or self.nonce(address, last) <= nonce:
                return None
            while last - first > 1:
                middle = (first + last) // 2
                first, last = (first, middle) if self.nonce(address, middle) > nonce else (middle, last)
            body = self._ask("eth_getBlockByNumber", hex(last), True) or {"transactions": []}
        except CommonweightError as error:
            if error.code != "E1206":
                raise
            return None
        ours = (
            t for t in body["transactions"] if data(t["from"]) == address and quantity(t["nonce"]) == nonce
        )
        return next((Spender(data(t["hash"]), last) for t in ours), None)

    def knows(self, transaction: bytes) -> bool:
        """The node has this transaction, in a block or in its pool."""
        return self._ask("eth_getTransactionByHash", hexed(transaction)) is not None

    # --- plumbing ---

    def _ask(self, method: str, *params: Any) -> Any:
        try:
            return self.rpc.call(method, *params)
        except RpcError as error:
            raise CommonweightError(
                "E1206", f"the chain answered: {error}", "try again, or use another RPC"
            ) from error

    def _number(self, method: str, *params: Any) -> int:
        return quantity(self._ask(method, *params))

    def _block(self, tag: str) -> Head:
        body = self._ask("eth_getBlockByNumber", tag, False)
        if body is None:
            raise CommonweightError(
                "E1203", f"the chain at {self.rpc.place} does not have block {tag}", "try again"
            )
        return Head(quantity(body["number"]), data(body["hash"]), quantity(body["timestamp"]))

    def _reverted(self, error: RpcError) -> Reverted:
        """Only the contract's refusal is an answer; a node's own trouble is not."""
        if not error.reverted:
            raise CommonweightError(
                "E1206", f"the chain answered: {error}", "try again, or use another RPC"
            ) from error
        return Reverted(*self._errors.decode(error.data, error.text))


def _place(name: str, entry: Mapping[str, Any]) -> Place:
    abi = entry.get("abi") or load_abi(name)
    pinned = entry.get("code_hash")
    return Place(Interface(name, abi), data(entry["address"]), data(pinned) if pinned else None)
