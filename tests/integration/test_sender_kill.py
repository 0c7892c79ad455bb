"""kill -9 at every fault point, in a real process, then a restart on the same journal: exactly one effect on
chain.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commonweight.chain.devnet import Devnet
from commonweight.chain.faults import FAULT_POINTS
from commonweight.chain.journal import Journal
from commonweight.core.errors import CommonweightError

from .sender_probe import Bench, deploy

pytestmark = pytest.mark.chain
# A forked child is a process of its own to the kernel and to SQLite, and spares a second of imports per life.
FORK = multiprocessing.get_context("fork")
EFFECT = "claim/1/0"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    with Devnet(tmp_path_factory.mktemp("net")) as net:
        yield net.url, deploy(net.url)


def life(url: str, record: dict[str, Any], journal: Path, account: int, fault: str) -> None:
    """One life of a node that wants one thing; ends when it has it, or at the fault."""
    os.environ["COMMONWEIGHT_FAULT"] = f"{fault}:claim/"
    os.environ["COMMONWEIGHT_FAULT_ONCE"] = str(journal.with_name("died"))
    bench = Bench(url, record, journal, account=account, confirmations=1)
    for _ in range(10):
        bench.sender.pump()
        if bench.act(EFFECT).final:
            os._exit(0)
        bench.mine()
    os._exit(1)


def lives(*args: Any) -> int | None:
    child = FORK.Process(target=life, args=args)
    child.start()
    child.join(60)
    code = child.exitcode
    child.close()
    return code


@pytest.mark.parametrize("automine", [True, False], ids=["mined at once", "waiting in the pool"])
@pytest.mark.parametrize("point", FAULT_POINTS)
def test_one_effect_whatever_the_moment_of_death(
    world: tuple[str, dict[str, Any]], tmp_path: Path, point: str, automine: bool
) -> None:
    url, record = world
    record = deploy(url)  # a probe of its own: the key may be shared, the count may not
    journal = tmp_path / "journal.sqlite"
    account = 1 + FAULT_POINTS.index(point)
    watcher = Bench(url, record, tmp_path / "watcher.sqlite", account=0)
    watcher.rpc.call("evm_setAutomine", automine)
    try:
        before = nonce(watcher, account)
        assert lives(url, record, journal, account, point) == -signal.SIGKILL
        assert lives(url, record, journal, account, point) == 0
        assert watcher.times(EFFECT) == 1
        assert nonce(watcher, account) == before + 1
        with Journal(journal) as found:
            assert [e.state for e in found.effects()] == ["confirmed"]
            assert len(found.transactions(EFFECT)) == 1
    finally:
        watcher.rpc.call("evm_setAutomine", True)
        watcher.close()


def nonce(bench: Bench, account: int) -> int:
    from commonweight.chain.keys import DEV_ADDRESSES

    return bench.chain.nonce(DEV_ADDRESSES[account])


def test_every_fault_point_is_in_the_code() -> None:
    """The list and the calls agree, so the matrix above misses none."""
    room = Path(Journal.__init__.__code__.co_filename).parent
    calls = "".join(p.read_text() for p in room.glob("*.py") if p.name != "faults.py")
    assert all(calls.count(f'fault("{point}", ') == 1 for point in FAULT_POINTS)
    assert calls.count("fault(") == len(FAULT_POINTS)


def hold(path: Path, ready: Any, go: Any) -> None:
    with Journal(path):
        ready.set()
        go.wait(20)


def test_two_processes_never_share_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    ready, go = FORK.Event(), FORK.Event()
    child = FORK.Process(target=hold, args=(path, ready, go))
    child.start()
    assert ready.wait(10)
    with pytest.raises(CommonweightError) as caught:
        Journal(path)
    go.set()
    child.join(10)
    assert caught.value.code == "E1401"
    assert f"process {child.pid}" in caught.value.message
    assert str(path) in caught.value.message
    Journal(path).close()
    child.close()
