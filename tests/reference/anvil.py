"""The contracts on an Anvil of their own, driven without keys: any sender, automatic mining, time by command."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from commonweight.chain.deployment import DeployConfig, Ledger, execute
from commonweight.chain.interface import Errors, Interface, load_abi

ROOT = Path(__file__).resolve().parents[2]
TOKEN = 10**18
DEPLOYER = bytes.fromhex("d0" * 20)
GENESIS = 1_800_000_000


class Reverted(Exception):
    """A call that the contracts refused: error name and arguments."""

    def __init__(self, name: str, args: tuple[Any, ...]) -> None:
        super().__init__(f"{name}{args}")
        self.name = name
        self.values = args


class Chain:
    """A local chain with the contracts deployed; `send` returns the receipt, `view` the decoded answer."""

    def __init__(self, config: DeployConfig | None = None, hardfork: str = "prague") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        program = ROOT / "node_modules" / ".bin" / "anvil"
        command = [str(program), "--port", str(self.port), "--silent", "--hardfork", hardfork]
        command += ["--gas-limit", "200000000", "--timestamp", str(GENESIS)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._id = 0
        try:
            self._set_up(config or DeployConfig())
        except BaseException:
            self._process.kill()
            self._process.wait(10)
            raise

    def _set_up(self, config: DeployConfig) -> None:
        self._await_answer()
        self.rpc("anvil_setBlockTimestampInterval", 1)  # the clock of this machine decides nothing
        self.rpc("anvil_autoImpersonateAccount", True)
        self._rich: set[bytes] = set()
        record = execute(Ledger(31337, DEPLOYER, self._create, self._call, self._code), config)
        self.interfaces = {
            name: Interface(name, load_abi("TestToken" if name == "Token" else name))
            for name in record["contracts"]
        }
        self.addresses = {
            name: bytes.fromhex(entry["address"][2:]) for name, entry in record["contracts"].items()
        }
        libraries = [Interface(name, load_abi(name)) for name in ("Exact", "Terms", "Leases", "Merges")]
        self._errors = Errors([*self.interfaces.values(), *libraries])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)

    def rpc(self, method: str, *params: Any) -> Any:
        """One JSON-RPC call. Raises `Reverted` for a revert with data, RuntimeError for anything else."""
        self._id += 1
        found = self._post({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        if "error" in found:
            data = found["error"].get("data")
            if isinstance(data, str) and data.startswith("0x") and hasattr(self, "_errors"):
                raise Reverted(*self._errors.decode(bytes.fromhex(data[2:])))
            raise RuntimeError(f"{method}: {found['error']}")
        return found["result"]

    def _post(self, body: Any) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def send(self, sender: bytes, contract: str, function: str, *args: Any) -> dict[str, Any]:
        """Send and mine one transaction; raises `Reverted` before anything is mined when it would revert."""
        data = self.interfaces[contract].encode(function, list(args))
        return self._transact(sender, data, self.addresses[contract])

    def send_at(self, when: int, sender: bytes, contract: str, function: str, *args: Any) -> dict[str, Any]:
        """Mine one transaction in a block of its own at second ``when``, be it refused or not.

        Raises `Reverted` after it was mined when the contracts refused it.
        """
        self.rpc("evm_setNextBlockTimestamp", when)
        call = {
            "from": "0x" + sender.hex(),
            "to": "0x" + self.addresses[contract].hex(),
            "data": "0x" + self.interfaces[contract].encode(function, list(args)).hex(),
            "gas": hex(30_000_000),
            "gasPrice": hex(10**10),
        }
        self._fund(sender)
        tx = self.rpc("eth_sendTransaction", call)
        receipt = self._receipt(tx)
        if int(receipt["status"], 16) != 1:
            trace = self.rpc("debug_traceTransaction", tx, {"tracer": "callTracer"})
            raise Reverted(*self._errors.decode(bytes.fromhex(trace.get("output", "0x")[2:])))
        return receipt

    def events(self, receipt: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
        """Contract, name and arguments of every event of the four contracts."""
        names = {address: name for name, address in self.addresses.items()}
        found = []
        for log in receipt["logs"]:
            name = names[bytes.fromhex(log["address"][2:])]
            topics = [bytes.fromhex(t[2:]) for t in log["topics"]]
            event = self.interfaces[name].decode_event(topics, bytes.fromhex(log["data"][2:]))
            if name != "Token" and event:
                found.append((name, *event))
        return found

    def views(self, calls: Sequence[tuple[str, str, tuple[Any, ...]]]) -> list[Any]:
        """The decoded answers of many views at the newest block, in one request."""
        requests = []
        for i, (contract, function, args) in enumerate(calls):
            data = "0x" + self.interfaces[contract].encode(function, list(args)).hex()
            call = {"to": "0x" + self.addresses[contract].hex(), "data": data}
            requests.append({"jsonrpc": "2.0", "id": i, "method": "eth_call", "params": [call, "latest"]})
        answers = {answer["id"]: answer for answer in self._post(requests)}
        return [
            self.interfaces[contract].decode_result(
                function, len(args), bytes.fromhex(answers[i]["result"][2:])
            )
            for i, (contract, function, args) in enumerate(calls)
        ]

    def hash_of(self, block: int) -> bytes:
        """Hash of a mined block."""
        return bytes.fromhex(self.rpc("eth_getBlockByNumber", hex(block), False)["hash"][2:])

    def view(self, contract: str, function: str, *args: Any) -> Any:
        """Call a view at the newest block."""
        data = self.interfaces[contract].encode(function, list(args))
        return self.interfaces[contract].decode_result(
            function, len(args), self._call(self.addresses[contract], data)
        )

    def create(self, sender: bytes, code: bytes) -> bytes:
        """Deploy any contract: its address."""
        return bytes.fromhex(self._transact(sender, code, None)["contractAddress"][2:])

    def mine(self, blocks: int = 1, seconds: int = 0) -> None:
        """Let time pass, then mine."""
        if seconds:
            self.rpc("evm_setNextBlockTimestamp", self.now() + seconds)
        self.rpc("anvil_mine", hex(blocks))

    def now(self) -> int:
        """Time of the newest block."""
        return int(self.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def _transact(self, sender: bytes, data: bytes, to: bytes | None) -> dict[str, Any]:
        self._fund(sender)
        call = {"from": "0x" + sender.hex(), "data": "0x" + data.hex()}
        if to is not None:
            call["to"] = "0x" + to.hex()
        call["gas"] = hex(int(self.rpc("eth_estimateGas", call), 16) * 5 // 4 + 50_000)
        receipt = self._receipt(self.rpc("eth_sendTransaction", call))
        if int(receipt["status"], 16) != 1:
            raise RuntimeError(f"{data[:4].hex()} was reverted when mined")
        return receipt

    def _fund(self, sender: bytes) -> None:
        if sender not in self._rich:
            self.rpc("anvil_setBalance", "0x" + sender.hex(), hex(10**24))
            self._rich.add(sender)

    def _receipt(self, tx: str) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            receipt: dict[str, Any] | None = self.rpc("eth_getTransactionReceipt", tx)
            if receipt is not None:
                return receipt
            time.sleep(0.01)
        raise RuntimeError(f"{tx} was not mined")

    def _create(self, code: bytes) -> tuple[bytes, int]:
        receipt = self._transact(DEPLOYER, code, None)
        return bytes.fromhex(receipt["contractAddress"][2:]), int(receipt["blockNumber"], 16)

    def _call(self, to: bytes, data: bytes) -> bytes:
        answer = self.rpc("eth_call", {"to": "0x" + to.hex(), "data": "0x" + data.hex()}, "latest")
        return bytes.fromhex(answer[2:])

    def _code(self, address: bytes) -> bytes:
        return bytes.fromhex(self.rpc("eth_getCode", "0x" + address.hex(), "latest")[2:])

    def _await_answer(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                self.rpc("eth_chainId")
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("anvil does not answer")
