"""A local chain for one machine: Anvil with its state on disk, started, watched and stopped by us.

It keeps its state when it is stopped, and a recent one when it is killed; it dies with the process that
started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from ..core.errors import CommonweightError
from .client import Chain
from .keys import DEV_ADDRESSES, DEV_CHAIN
from .lock import FileLock
from .rpc import Rpc, RpcError, hexed

GAS_LIMIT = 60_000_000  # of a block; a single transaction stays under 2**24 as on public chains
# The contracts are compiled for paris, which every later fork runs. Prague is what most public chains have.
HARDFORK = "prague"
START_S, STOP_S, DUMP_S = 30.0, 20.0, 5
PORTS = 5  # tries for a free port


def find_anvil() -> Path:
    """The Anvil program: ``COMMONWEIGHT_ANVIL``, a ``node_modules`` here or above, or the search path; else
    E1204.
    """
    named = os.environ.get("COMMONWEIGHT_ANVIL")
    if named:
        if os.access(named, os.X_OK):
            return Path(named)
        raise _no_anvil(f"COMMONWEIGHT_ANVIL names {named}, which is no program")
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            found = folder / "node_modules" / ".bin" / "anvil"
            if os.access(found, os.X_OK):
                return found.resolve()
    on_path = shutil.which("anvil")
    if on_path is None:
        raise _no_anvil("Anvil, the local chain, is not installed")
    return Path(on_path)


class Devnet:
    """A local chain in ``folder`` on ``port`` (0: any free one); ``block_time`` in seconds, None: a block per
    transaction.

    Start it from a thread that lives as long as the chain shall: Linux ends it with that thread.
    """

    def __init__(
        self, folder: Path, port: int = 0, block_time: float | None = None, chain_id: int = DEV_CHAIN
    ) -> None:
        self.folder = Path(folder).absolute()
        self.port = self._wanted_port = port
        self.block_time = block_time
        self.chain_id = chain_id
        self.state = self.folder / "state.json"
        self.log = self.folder / "anvil.log"
        self._bound = self.folder / "anvil.json"
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: FileLock | None = None

    @property
    def url(self) -> str:
        """RPC address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self, extra: tuple[str, ...] = ()) -> Self:
        """Start, or resume from the state on disk, and wait until it answers.

        Raises E1204 without Anvil, E1401 when the folder is in use, E1406 for a damaged state file (left as
        it is), E1501 when the port is taken, E1207 when it does not come up. ``extra`` are more options for
        Anvil.
        """
        program = find_anvil()
        self._lock = FileLock(self.folder / "devnet.lock")
        try:
            self._check_state()
            self._claim_port(program, extra)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop so that the state is written; kill after twenty seconds. A second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._back_up()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def mine_by_the_clock(self, seconds: int) -> None:
        """From now on a block every so many seconds, instead of one per transaction."""
        rpc = Rpc(self.url)
        rpc.call("evm_setAutomine", False)
        rpc.call("evm_setIntervalMining", seconds)

    def kill(self) -> None:
        """End it without a chance to write its state, as a crash would; for tests and drills."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self.start() if self._process is None else self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- plumbing ---

    def _claim_port(self, program: Path, extra: tuple[str, ...]) -> None:
        """Start on the wanted port; where any will do, a port that somebody took meanwhile is no reason to
        give up.
        """
        for turn in range(1, PORTS + 1):
            self.port = self._wanted_port or _free_port()
            try:
                self._spawn(program, extra)
                self._await_answer()
                return
            except CommonweightError as error:
                if error.code != "E1501" or self._wanted_port or turn == PORTS:
                    raise
                self._process = None

    def _options(self, extra: tuple[str, ...]) -> list[str]:
        named = {
            "--host": "127.0.0.1",
            "--port": self.port,
            "--chain-id": self.chain_id,
            "--state": self.state,
            "--state-interval": DUMP_S,
            "--gas-limit": GAS_LIMIT,
            "--hardfork": HARDFORK,
            "--config-out": self._bound,
        }
        if self.block_time is not None:
            named["--block-time"] = f"{self.block_time:g}"
        return [*(str(part) for option in named.items() for part in option), "--quiet", "--no-cors", *extra]

    def _spawn(self, program: Path, extra: tuple[str, ...]) -> None:
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                raise self._port_taken() from None
        self._bound.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                _leashed([str(program), *self._options(extra)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for us; we then stop it in order
            )

    def _await_answer(self) -> None:
        """Wait until our Anvil has the port (it writes its settings then: another chain may answer there) and
        talks.
        """
        assert self._process is not None
        rpc, end = Rpc(self.url, timeout_s=2.0, attempts=1), time.monotonic() + START_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                words = self.log.read_bytes()[self._log_start :][-2000:].decode("utf-8", "replace").strip()
                if "address already in use" in words.lower():
                    raise self._port_taken()
                raise CommonweightError("E1207", f"the local chain ended at once: {words}", f"see {self.log}")
            if self._bound.exists() and _catches_interrupts(self._process.pid):
                with contextlib.suppress(CommonweightError, RpcError):
                    rpc.call("eth_blockNumber")
                    return
            time.sleep(0.01)
        raise CommonweightError(
            "E1207", f"the local chain did not answer within {START_S:g} s", f"see {self.log}"
        )

    def _port_taken(self) -> CommonweightError:
        return CommonweightError(
            "E1501", f"port {self.port} is in use", "stop what listens there, or choose another port"
        )

    def _check_state(self) -> None:
        """Anvil would refuse a damaged file with a parser's message; say what it means and what to do."""
        if not self.state.exists():
            return
        try:
            found = json.loads(self.state.read_bytes())
            if not isinstance(found, dict) or not {"block", "accounts"} <= found.keys():
                raise ValueError("it is no state of a chain")
        except ValueError as error:
            backup = self._backup_path()
            hint = f"copy {backup} over it" if backup.exists() else "move it away to begin a new chain"
            raise CommonweightError(
                "E1406", f"{self.state} is damaged: {error}", f"nothing was changed; {hint}"
            ) from error

    def _back_up(self) -> None:
        """Keep the state of the last orderly stop: a kill can hit Anvil while it writes the only copy."""
        with contextlib.suppress(CommonweightError, OSError):
            self._check_state()
            fresh = self._backup_path().with_suffix(".new")
            shutil.copyfile(self.state, fresh)
            os.replace(fresh, self._backup_path())

    def _backup_path(self) -> Path:
        return self.folder / "state.backup.json"


def _catches_interrupts(pid: int) -> bool:
    """Whether a process handles SIGINT by now: before that it would end without writing its state.

    True where the system does not tell.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is None or bool(int(found[1], 16) >> (signal.SIGINT - 1) & 1)


def fund(rpc_url: str, address: bytes, wei: int) -> None:
    """Set the ether of an address on a local chain, Anvil or Ganache. Raises E1206 where that is not possible."""
    rpc = Rpc(rpc_url)
    try:
        rpc.call("evm_setAccountBalance", hexed(address), hex(wei))  # Ganache's name for it
    except RpcError:
        _local(rpc, "anvil_setBalance", hexed(address), hex(wei))


def faucet(chain: Chain, to: bytes, amount: int, deadline_s: float = 15.0) -> None:
    """Mint test tokens by Anvil's first account and wait until they are there.

    Raises E1206 on chains without that account, E1205 when no block takes it within ``deadline_s`` seconds.
    """
    token = hexed(chain.addresses["Token"])
    call = {
        "from": hexed(DEV_ADDRESSES[0]),
        "to": token,
        "data": hexed(chain.encode("Token", "mint", [to, amount])),
    }
    sent = _local(chain.rpc, "eth_sendTransaction", call)
    end = time.monotonic() + deadline_s
    while (receipt := chain.receipt(bytes.fromhex(sent[2:]))) is None:
        if time.monotonic() > end:
            raise CommonweightError(
                "E1205", f"no block took the mint within {deadline_s:g} s", "is the chain mining?"
            )
        time.sleep(0.05)
    if not receipt.status:
        raise CommonweightError("E1206", "the token refused to mint", "only test tokens can be minted")


def _local(rpc: Rpc, method: str, *params: object) -> str:
    try:
        return str(rpc.call(method, *params))
    except RpcError as error:
        raise CommonweightError(
            "E1206", f"the chain answered: {error}", "this only works on a local chain"
        ) from error


def _no_anvil(what: str) -> CommonweightError:
    return CommonweightError(
        "E1204",
        what,
        "run `npm ci` in the checkout, install Foundry, or set COMMONWEIGHT_ANVIL to the program",
    )


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Runs in the child before it becomes Anvil: asks Linux for SIGINT, at which Anvil writes its state, when its
# parent is gone. A program of its own, because code between fork and exec is unsafe in a process with
# threads.
_LEASH = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 2)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent died first")
os.execv(sys.argv[2], sys.argv[2:])
"""


def _leashed(command: list[str]) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *command]
