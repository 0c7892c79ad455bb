"""The sender against a real local chain: exactly one effect, whatever happens to its transactions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commonweight.chain.client import Chain
from commonweight.chain.devnet import Devnet
from commonweight.chain.effects import Effect, Refused
from commonweight.chain.keys import dev_account
from commonweight.chain.rpc import data, hexed
from commonweight.chain.wallet import Policy
from commonweight.core.errors import CommonweightError

from .sender_probe import PROBE, Bench, deploy

pytestmark = pytest.mark.chain
GWEI = 10**9


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A fresh chain with one probe, and a sender that takes the newest block for final."""
    with Devnet(tmp_path / "net") as net:
        bench = Bench(net.url, deploy(net.url), tmp_path / "journal.sqlite")
        yield bench
        bench.close()


def manual(bench: Bench) -> None:
    """From now on blocks are made by the test."""
    bench.rpc.call("evm_setAutomine", False)


def drive(bench: Bench, effect_id: str, blocks: int = 20) -> Effect:
    """Pump and mine until the effect is final."""
    for _ in range(blocks):
        bench.sender.pump()
        effect = bench.sender.effect(effect_id)
        assert effect is not None
        if effect.final:
            return effect
        bench.mine()
    pytest.fail(f"{effect} is not final after {blocks} blocks")


def foreign(bench: Bench, **more: Any) -> bytes:
    """The same key, used by somebody else: an empty transfer through the node's own wallet."""
    me = hexed(bench.sender.address)
    return data(bench.rpc.call("eth_sendTransaction", {"from": me, "to": me, **more}))


def test_an_effect_happens_once_however_often_it_is_asked_for(bench: Bench) -> None:
    states = [bench.act("claim/1").state for _ in range(3)]
    finished = bench.sender.pump()
    assert [e.effect_id for e in finished] == ["claim/1"]
    assert finished[0].ok
    assert finished[0].gas_used
    assert finished[0].fee
    assert bench.act("claim/1").ok
    assert bench.sender.pump() == []
    assert states == ["sent"] * 3
    assert bench.times("claim/1") == 1


def test_many_effects_queue_behind_one_key(bench: Bench) -> None:
    manual(bench)
    names = [f"claim/{i}" for i in range(12)]
    nonces = [effect.nonce for n in names if isinstance(effect := bench.act(n), Effect)]
    bench.mine()
    assert sorted(e.effect_id for e in bench.sender.pump()) == sorted(names)
    assert nonces == list(range(12))
    assert [bench.times(n) for n in names] == [1] * 12


def test_threads_do_not_race_for_nonces(bench: Bench) -> None:
    names = [f"reveal/{i}" for i in range(24)]
    threads = [threading.Thread(target=bench.act, args=(n,)) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bench.sender.pump()
    assert [bench.times(n) for n in names] == [1] * 24
    assert not bench.sender.pending()


def test_a_refusal_names_the_error_and_leaves_no_trace(bench: Bench) -> None:
    bench.sender.request("shut", PROBE, "shut", [])
    bench.sender.pump()
    answer = bench.act("late")
    assert answer == Refused("late", "Shut", (2,))
    assert bench.sender.effect("late") is None


def test_a_revert_on_chain_fails_with_its_reason_and_may_be_asked_for_again(bench: Bench) -> None:
    manual(bench)
    call = {"from": hexed(data(dev_account(5).address)), "to": hexed(bench.chain.addresses[PROBE])}
    fees = {"maxFeePerGas": hex(50 * GWEI), "maxPriorityFeePerGas": hex(20 * GWEI)}
    bench.act("late")
    bench.rpc.call(
        "eth_sendTransaction", {**call, **fees, "data": hexed(bench.chain.encode(PROBE, "shut", []))}
    )
    effect = drive(bench, "late")
    assert (effect.state, effect.error) == ("failed", "Shut")
    assert isinstance(bench.act("late"), Refused)
    assert bench.times("late") == 0


def test_a_dropped_transaction_is_sent_again(bench: Bench) -> None:
    manual(bench)
    first = bench.act("submit")
    assert isinstance(first, Effect)
    assert first.hash is not None
    bench.rpc.call("anvil_dropTransaction", hexed(first.hash))
    assert not bench.chain.knows(first.hash)
    effect = drive(bench, "submit")
    assert effect.ok
    assert effect.hash == first.hash
    assert bench.times("submit") == 1


def test_a_stuck_transaction_is_replaced_under_a_fee_spike(bench: Bench) -> None:
    manual(bench)
    first = bench.act("submit")
    assert isinstance(first, Effect)
    bench.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(100 * GWEI))
    effect = drive(bench, "submit", blocks=8)
    signed = bench.journal.transactions("submit")
    assert effect.ok
    assert effect.replaced == 1
    assert len({t.hash for t in signed}) == 2
    assert {t.nonce for t in signed} == {first.nonce}
    assert effect.data == first.data
    assert bench.times("submit") == 1
    assert bench.chain.nonce(bench.sender.address) == 1


def test_fees_never_pass_their_cap(tmp_path: Path) -> None:
    with Devnet(tmp_path / "net") as net:
        policy = Policy(fee_cap=4 * GWEI, stuck_blocks=1)
        bench = Bench(net.url, deploy(net.url), tmp_path / "journal.sqlite", policy=policy)
        manual(bench)
        bench.act("submit")
        bench.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(20 * GWEI))
        for _ in range(6):
            bench.mine()
            bench.sender.pump()
        waiting = bench.sender.effect("submit")
        assert waiting is not None
        assert waiting.max_fee is not None
        assert waiting.max_fee <= 4 * GWEI
        # The spike passes, and the same effect goes through.
        assert drive(bench, "submit", blocks=40).ok
        assert bench.times("submit") == 1
        bench.close()


def test_a_nonce_gap_is_filled_by_an_empty_transaction(bench: Bench) -> None:
    manual(bench)
    theirs = foreign(bench)
    ours = bench.act("submit")
    assert isinstance(ours, Effect)
    assert ours.nonce == 1
    bench.rpc.call("anvil_dropTransaction", hexed(theirs))
    effect = drive(bench, "submit")
    assert effect.ok
    assert effect.hash == ours.hash
    assert bench.times("submit") == 1
    assert [e.effect_id[:6] for e in bench.journal.effects("confirmed")] == ["submit", "gap/0/"]


def test_a_nonce_that_another_program_took_is_replaced_by_the_next(bench: Bench) -> None:
    manual(bench)
    ours = bench.act("submit")
    assert isinstance(ours, Effect)
    assert ours.hash is not None
    bench.rpc.call("anvil_dropTransaction", hexed(ours.hash))
    foreign(bench, nonce="0x0")
    bench.mine()
    effect = drive(bench, "submit")
    assert effect.ok
    assert effect.nonce == 1
    assert bench.times("submit") == 1


def test_a_lost_nonce_ends_in_a_refusal_when_the_contract_would_revert(bench: Bench) -> None:
    manual(bench)
    ours = bench.act("submit")
    assert isinstance(ours, Effect)
    assert ours.hash is not None
    bench.rpc.call("anvil_dropTransaction", hexed(ours.hash))
    foreign(bench, nonce="0x0")
    shut = {"from": hexed(data(dev_account(5).address)), "to": hexed(bench.chain.addresses[PROBE])}
    bench.rpc.call("eth_sendTransaction", {**shut, "data": hexed(bench.chain.encode(PROBE, "shut", []))})
    bench.mine()
    effect = drive(bench, "submit")
    assert (effect.state, effect.error) == ("refused", "Shut")
    assert bench.times("submit") == 0


def test_too_little_ether_is_said_before_anything_is_written(bench: Bench) -> None:
    bench.rpc.call("anvil_setBalance", hexed(bench.sender.address), hex(10**12))
    with pytest.raises(CommonweightError) as caught:
        bench.act("claim")
    assert caught.value.code == "E1305"
    assert str(10**12) in caught.value.message
    assert bench.journal.effects() == []
    assert bench.chain.nonce(bench.sender.address) == 0


def test_an_id_means_one_call(bench: Bench) -> None:
    bench.act("claim")
    with pytest.raises(CommonweightError) as caught:
        bench.sender.request("claim", PROBE, "shut", [])
    assert caught.value.code == "E1407"


def test_waiting_has_an_end_and_the_effect_lives_on(bench: Bench) -> None:
    manual(bench)
    bench.act("claim")
    with pytest.raises(CommonweightError) as caught:
        bench.sender.wait("claim", deadline_s=0.2)
    assert caught.value.code == "E1205"
    bench.mine()
    assert bench.sender.wait("claim", deadline_s=5).ok


def test_a_journal_belongs_to_one_deployment(bench: Bench, tmp_path: Path) -> None:
    other = deploy(bench.rpc.url)
    bench.close()
    with pytest.raises(CommonweightError) as caught:
        Bench(bench.rpc.url, other, tmp_path / "journal.sqlite")
    assert caught.value.code == "E1404"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"chain_id": 11155111}, "E1201"),
        ({"code_hash": "0x" + "11" * 32}, "E1202"),
        ({"address": "0x" + "22" * 20}, "E1202"),
    ],
    ids=["another chain", "other code", "no contract"],
)
def test_a_connection_is_refused_when_the_world_is_not_the_recorded_one(
    bench: Bench, change: dict[str, Any], code: str
) -> None:
    record = deploy(bench.rpc.url)
    record["contracts"][PROBE].update({k: v for k, v in change.items() if k != "chain_id"})
    record["chain_id"] = change.get("chain_id", record["chain_id"])
    with pytest.raises(CommonweightError) as caught:
        Chain.connect(bench.rpc.url, record)
    assert caught.value.code == code


def test_transactions_are_listed_with_their_gas(bench: Bench) -> None:
    bench.act("claim")
    bench.sender.request("shut", PROBE, "shut", [])
    bench.sender.pump()
    listed = list(bench.chain.transactions(0, bench.chain.head().number))
    assert [(t.function, t.status, t.sender) for t in listed] == [
        ("act", True, bench.sender.address),
        ("shut", True, bench.sender.address),
    ]
    assert [t.gas_used for t in listed] == [e.gas_used for e in bench.journal.effects()]
