"""What happened: decoded events and transactions of the Commonweight contracts, in bounded requests.

Endpoints limit how many blocks one log query may span, and a query behind a load balancer may be answered by
a node that has not seen the last block yet, silently without its logs. So ranges shrink on refusal, and every
log query travels in one batch with its last block, which must be there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import CommonweightError
from ..core.events import Event
from .interface import Interface
from .rpc import Rpc, RpcError, data, hexed, quantity

SPAN = 2_000  # blocks in one log query
CACHED_TIMES = 4_096


@dataclass(frozen=True, slots=True)
class Transaction:
    """One mined transaction to a Commonweight contract. ``fee`` is in wei; ``status`` is False when it
    reverted.
    """

    hash: bytes
    block: int
    sender: bytes
    contract: str
    function: str
    gas_used: int
    fee: int
    status: bool


class History:
    """Reads logs and transactions of ``contracts`` (address to interface)."""

    def __init__(self, rpc: Rpc, contracts: Mapping[bytes, Interface]) -> None:
        self._rpc = rpc
        self._contracts = contracts
        self._times: OrderedDict[bytes, int] = OrderedDict()
        self._span = SPAN

    def events(self, first: int, last: int) -> list[Event]:
        """Events of blocks ``first`` to ``last``, both included, in chain order.

        Raises E1203 when the node does not have block ``last`` (yet), E1206 when it refuses even one block.
        """
        found: list[Event] = []
        while first <= last:
            upto = min(last, first + self._span - 1)
            try:
                logs = self._logs(first, upto)
            except RpcError as error:
                if upto == first:
                    raise CommonweightError(
                        "E1206", f"the chain refuses a log query: {error}", "try another RPC"
                    ) from error
                self._span = max(1, (upto - first + 1) // 2)
                continue
            found += self._decode(logs)
            first = upto + 1
        return found

    def _logs(self, first: int, last: int) -> list[dict[str, Any]]:
        query = {
            "fromBlock": hex(first),
            "toBlock": hex(last),
            "address": [hexed(address) for address in self._contracts],
        }
        logs, block = self._rpc.batch(
            [("eth_getLogs", [query]), ("eth_getBlockByNumber", [hex(last), False])]
        )
        if block is None:
            raise CommonweightError(
                "E1203", f"the chain at {self._rpc.place} does not have block {last} yet", "try again"
            )
        return sorted(logs, key=lambda log: (quantity(log["blockNumber"]), quantity(log["logIndex"])))

    def _decode(self, logs: list[dict[str, Any]]) -> list[Event]:
        times = self._timestamps(logs)
        return [self._event(log, times[data(log["blockHash"])]) for log in logs]

    def _event(self, log: dict[str, Any], timestamp: int) -> Event:
        interface = self._contracts[data(log["address"])]
        known = interface.decode_event([data(t) for t in log["topics"]], data(log["data"]))
        if known is None:
            raise CommonweightError(
                "E1202", f"{interface.name} sent an event that its ABI does not know", "update commonweight"
            )
        name, args = known
        return Event(
            contract=interface.name,
            name=name,
            args=args,
            block=quantity(log["blockNumber"]),
            block_hash=data(log["blockHash"]),
            index=quantity(log["logIndex"]),
            timestamp=timestamp,
            tx=data(log["transactionHash"]),
        )

    def _timestamps(self, logs: list[dict[str, Any]]) -> dict[bytes, int]:
        """Block times by block hash: from the logs where the node writes them there, from the blocks
        otherwise.
        """
        times: dict[bytes, int] = {}
        for log in logs:
            block = data(log["blockHash"])
            if log.get("blockTimestamp"):
                times[block] = quantity(log["blockTimestamp"])
            elif block in self._times:
                times[block] = self._times[block]
        missing = list(dict.fromkeys(h for log in logs if (h := data(log["blockHash"])) not in times))
        bodies = self._rpc.batch([("eth_getBlockByHash", [hexed(h), False]) for h in missing])
        for block, body in zip(missing, bodies, strict=True):
            if body is None:
                raise CommonweightError(
                    "E1203", f"block {hexed(block)} vanished while it was read", "try again"
                )
            times[block] = self._times[block] = quantity(body["timestamp"])
        while len(self._times) > CACHED_TIMES:
            self._times.popitem(last=False)
        return times

    def transactions(self, first: int, last: int) -> Iterator[Transaction]:
        """Transactions to the contracts in blocks ``first`` to ``last``, both included, in chain order."""
        for start in range(first, last + 1, 50):
            numbers = range(start, min(last, start + 49) + 1)
            blocks = self._rpc.batch([("eth_getBlockByNumber", [hex(n), True]) for n in numbers])
            ours = [
                t for b in blocks if b for t in b["transactions"] if data(t["to"] or "") in self._contracts
            ]
            receipts = self._rpc.batch([("eth_getTransactionReceipt", [t["hash"]]) for t in ours])
            for body, receipt in zip(ours, receipts, strict=True):
                if receipt is not None:
                    yield self._transaction(body, receipt)

    def _transaction(self, body: dict[str, Any], receipt: dict[str, Any]) -> Transaction:
        interface = self._contracts[data(body["to"])]
        gas_used = quantity(receipt["gasUsed"])
        return Transaction(
            hash=data(body["hash"]),
            block=quantity(receipt["blockNumber"]),
            sender=data(body["from"]),
            contract=interface.name,
            function=interface.function_of(data(body["input"])),
            gas_used=gas_used,
            fee=gas_used * quantity(receipt["effectiveGasPrice"]),
            status=receipt["status"] == "0x1",
        )
