"""Reorganisations on a real chain: the follower takes back what is undone, the sender makes it happen again,
once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from commonweight.chain.devnet import Devnet
from commonweight.chain.follower import Follower

from .sender_probe import Bench, deploy

pytestmark = pytest.mark.chain
NAMES = ("a", "b", "c")


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Devnet]:
    with Devnet(tmp_path / "net") as net:
        yield net


def notes(follower: Follower) -> list[str]:
    return [event.args["note"] for event in follower.events]


@pytest.mark.parametrize("depth", [1, 3])
def test_what_was_final_is_undone_and_happens_again(net: Devnet, tmp_path: Path, depth: int) -> None:
    """Deeper than the confirmations: even "confirmed" effects are lost, and come back."""
    bench = Bench(net.url, deploy(net.url), tmp_path / "journal.sqlite")
    follower = Follower(bench.chain)
    for name in NAMES:
        bench.act(name)
        assert bench.sender.wait(name, 5).ok
        follower.poll()
    assert notes(follower) == list(NAMES)

    bench.rpc.call("anvil_reorg", depth, [])
    assert follower.poll() == []
    assert follower.rewound
    assert notes(follower) == list(NAMES[:-depth])

    for name in NAMES:
        assert bench.sender.wait(name, 5).ok
    bench.mine()
    follower.poll()
    assert not follower.rewound
    assert notes(follower) == list(NAMES)
    assert [bench.times(name) for name in NAMES] == [1, 1, 1]
    assert bench.chain.nonce(bench.sender.address) == 3
    fresh = Follower(bench.chain)
    fresh.poll()
    assert fresh.events == follower.events
    bench.close()


def test_a_seen_effect_goes_back_to_sent_before_it_is_final(net: Devnet, tmp_path: Path) -> None:
    bench = Bench(net.url, deploy(net.url), tmp_path / "journal.sqlite", confirmations=3)
    follower = Follower(bench.chain)
    bench.act("a")
    assert bench.sender.pump() == []
    assert [e.state for e in bench.sender.pending()] == ["seen"]
    bench.rpc.call("anvil_reorg", 1, [])
    assert bench.sender.pump() == []
    bench.mine(4)
    assert bench.sender.wait("a", 5).ok
    follower.poll()
    assert not follower.rewound
    assert notes(follower) == ["a"]
    assert bench.times("a") == 1
    bench.close()


def test_a_chain_that_lost_its_last_blocks_in_a_crash_gets_them_again(tmp_path: Path) -> None:
    """Anvil is killed, so what came after its last dump is gone although the journal calls it confirmed."""
    with Devnet(tmp_path / "net") as net:
        record = deploy(net.url)
    with Devnet(tmp_path / "net") as net:
        bench = Bench(net.url, record, tmp_path / "journal.sqlite")
        for name in NAMES:
            bench.act(name)
            assert bench.sender.wait(name, 5).ok
        bench.close()
        net.kill()
    with Devnet(tmp_path / "net") as net:
        bench = Bench(net.url, record, tmp_path / "journal.sqlite")
        for name in NAMES:
            assert bench.act(name) is not None
        bench.act("d")
        for name in (*NAMES, "d"):
            assert bench.sender.wait(name, 5).ok
            assert bench.times(name) == 1
        bench.close()
