"""vLLM on this machine, started for as long as somebody asks it: its own server as a child process.

Nothing of vLLM is imported here; it is only looked for, and only when somebody asks for it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx

from ..core.errors import CommonweightError

START_SECONDS = 600.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.2
NAME = "commonweight"


@contextmanager
def serving(folder: Path, port: int, named: int, log: Path) -> Iterator[str]:
    """The address of an engine that serves a folder at ``port`` and tells up to ``named`` alternatives of a token.

    Raises E1008 without vLLM, E1611 when it does not start.
    """
    if find_spec("vllm") is None:
        raise CommonweightError(
            "E1008",
            "vLLM is not installed here",
            "pip install vllm, or start it elsewhere and name it with --engine http://HOST:PORT/v1",
        )
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-logprobs", str(named)]
    with log.open("ab") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        _wait(child, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait(child: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise CommonweightError("E1611", f"vLLM ended with {child.returncode}", f"see {log}")
        try:
            if httpx.get(address, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(POLL_SECONDS)
    raise CommonweightError("E1611", f"vLLM did not start within {START_SECONDS:.0f} s", f"see {log}")
