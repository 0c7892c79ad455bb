"""Rollout leases on a real chain: small devices deliver trajectories, are paid, and later leases learn from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from commonweight.chain.devnet import Devnet
from commonweight.chain.rpc import data, hexed
from commonweight.cli import verify
from commonweight.cli.commands import template
from commonweight.cli.demo import report
from commonweight.cli.demo.spectator import Spectator
from commonweight.cli.demo.world import DemoPlan, World, build, start_publisher
from commonweight.cli.rl import describe
from commonweight.cli.rl_export import export_task
from commonweight.core import codec
from commonweight.core.state import Task, WorkState
from commonweight.core.works import Header, Meta
from commonweight.models.folder import read_folder, read_tokenizer, write_folder
from commonweight.nodes import metrics
from commonweight.shardcast.store import Store
from tests.support import wait_for
from tests.unit.test_models_folder import TASK, made, train_tokenizer

pytestmark = [pytest.mark.chain, pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(300)]
ROUNDS = 2


def task_text(sections: str, slots: int = 2, claim: int = 30) -> str:
    """Leases that learn and one of rollouts in each of two rounds, for the model that the sections describe."""
    economy = template("grpo")
    economy = economy[economy.index("[economy]") :]
    for old, new in {
        "rounds = 6\n": f"rounds = {ROUNDS}\n",
        "slots = 3 ": f"slots = {slots} ",
        "want = 2 ": "want = 1 ",
        "quorum = 2 ": "quorum = 1 ",
        "claim = 60\n": f"claim = {claim}\n",
        'bond = "10" ': 'bond = "25" ',
    }.items():
        assert economy.count(old) == 1, old
        economy = economy.replace(old, new)
    task = TASK.format(sections=sections).replace("steps = 2\n", "steps = 4\n")
    return task.replace("max_new = 8\n", "max_new = 8\nrollout_slots = 1\n") + economy


def start_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A randomly initialised Qwen checkpoint with a tokenizer trained in place; its sections of a task file."""
    write_folder(folder, *made("qwen2"))
    train_tokenizer(folder)
    capsys.readouterr()
    describe(folder, 48)
    return capsys.readouterr().out.replace(str(folder), folder.name)


def test_rollouts_are_paid_never_merged_and_learnt_from_in_the_next_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The task starts from a local Hugging Face folder, so that all of it is seen to work on a chain."""
    text = task_text(start_model(tmp_path / "model", capsys))
    plan = DemoPlan("none", rounds=ROUNDS, trainers=2, validators=1, seed=7, runs=tmp_path)
    with Devnet(tmp_path / "chain") as devnet:
        world = build(plan, tmp_path, devnet, text)
        spectator = Spectator(world.chain, tmp_path / "spectator")
        try:
            start_publisher(world)
            wait_for(spectator, lambda task: True)
            people = world.people
            world.spawn(people["trainer-2"], "trainer", "run", "--task", "1", "--rollouts")
            world.spawn(people["trainer-1"], "trainer", "run", "--task", "1")
            world.spawn(people["validator-1"], "validator", "run", "--task", "1")
            task = wait_for(spectator, lambda t: t.finished and not world.running())
            books = report.vault(world)["balances"]
            home = people["trainer-1"].home
            export_task(tmp_path / "learnt", 1, home, "", devnet.url, world.deployment)
        finally:
            world.stop()
            spectator.close()
    assert books
    assert len(task.rounds) == ROUNDS
    store = {who.name: Store(who.home / "store") for who in people.values()}
    for round_ in task.rounds.values():
        learning, rollout = round_.works[0], round_.works[1]
        assert (learning.trainer, rollout.trainer) == tuple(people[f"trainer-{i}"].address for i in (1, 2))
        assert {learning.state, rollout.state} == {WorkState.VALID}
        assert learning.paid == rollout.paid == task.reward
        assert (learning.included, rollout.included, round_.mask) == (True, False, 1)
        assert not round_.skipped
    given = [task.rounds[i].works[1].root for i in range(ROUNDS)]
    learnt = [_sources(store["trainer-1"], task.rounds[i].works[0].root or b"") for i in range(ROUNDS)]
    assert learnt == [(), (given[0],)]
    trained = [r for r in metrics.read(people["trainer-2"].home / "metrics.jsonl") if r["event"] == "train"]
    assert [r["rollout"] for r in trained] == [True] * ROUNDS
    # What was learnt opens as what it came from, and differs from it.
    before, after = (read_folder(tmp_path / name, 48) for name in ("model", "learnt"))
    assert before[0] == after[0]
    assert 0 < (before[1] - after[1]).abs().max() < 0.1
    assert read_tokenizer(tmp_path / "learnt") == read_tokenizer(tmp_path / "model")
    # The validator holds all that anybody needs to repeat its verdicts, the rollouts of others among it.
    fetch = verify.folder_fetch(people["validator-1"].home / "store")
    for root in (given[1], task.rounds[1].works[0].root):
        lease, spec = verify.evidence.claimed_lease(root or b"", fetch)
        found = verify.evidence.repeat(lease, spec, root or b"", (0,), fetch)
        assert found.outcome == "valid", found.reason


class Rival:
    """Somebody else's account, whose transactions the local chain takes unsigned."""

    def __init__(self, world: World, address: bytes) -> None:
        self.chain, self.address = world.chain, address
        self.chain.rpc.call("anvil_impersonateAccount", hexed(address))

    def send(self, contract: str, function: str, *args: object, tip: int = 10**9) -> None:
        """A transaction into the pool, ahead of all that tip less."""
        self.chain.rpc.call(
            "eth_sendTransaction",
            {
                "from": hexed(self.address),
                "to": hexed(self.chain.addresses[contract]),
                "data": hexed(self.chain.encode(contract, function, args)),
                "gas": hex(1_000_000),
                "maxPriorityFeePerGas": hex(tip),
                "maxFeePerGas": hex(tip + 10**11),
            },
        )

    def claims(self, tip: int = 10**9) -> None:
        """One more lease of the first round."""
        self.send("Tasks", "claim", 1, 0, bytes([7]) * 32, tip=tip)


def _waits(world: World, who: bytes, function: bytes) -> bool:
    """Whether somebody's call of a function waits for a block."""
    pool = world.chain.rpc.call("txpool_content")["pending"]
    return any(
        data(address) == who and data(transaction["input"])[:4] == function
        for address, found in pool.items()
        for transaction in found.values()
    )


def test_a_learning_lease_that_a_small_device_got_by_a_race_is_given_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rollout lease that it asked for goes to somebody who paid more for the same block; it gets the next one."""
    text = task_text(start_model(tmp_path / "model", capsys), slots=3, claim=60)
    plan = DemoPlan("none", rounds=ROUNDS, trainers=2, validators=1, seed=7, runs=tmp_path)
    with Devnet(tmp_path / "chain") as devnet:
        world = build(plan, tmp_path, devnet, text)
        spectator = Spectator(world.chain, tmp_path / "spectator")
        small, rival = world.people["trainer-2"], Rival(world, world.people["trainer-1"].address)
        claim = world.chain.encode("Tasks", "claim", (1, 0, bytes(32)))[:4]
        raced = False

        def mine() -> None:
            nonlocal raced
            if not raced and _waits(world, small.address, claim):
                rival.claims(tip=10**12)
                raced = True
            world.chain.rpc.call("evm_mine")

        def gave_back(task: Task) -> bool:
            works = task.rounds[0].works if task.rounds else {}
            return 3 in works and works[3].given_back

        try:
            start_publisher(world)
            wait_for(spectator, lambda task: True)
            world.spawn(small, "trainer", "run", "--task", "1", "--rollouts")
            wait_for(
                spectator, lambda task: spectator.state.free.get(small.address, 0) >= task.params["bond"]
            )
            rival.send("Token", "approve", world.chain.addresses["Vault"], 2**256 - 1)
            rival.send("Vault", "deposit", 3 * 25 * 10**18)
            rival.claims()
            rival.send("Tasks", "relinquish", 1, 0, 0)
            world.chain.rpc.call("evm_setAutomine", False)
            rival.claims()
            rival.send("Tasks", "relinquish", 1, 0, 1)
            task = wait_for(spectator, gave_back, mine)
            assert raced
            works = task.rounds[0].works
            assert (works[2].trainer, works[3].trainer) == (rival.address, small.address)
            assert spectator.state.free[small.address] >= task.params["bond"]
            rival.claims()
            task = wait_for(spectator, lambda t: 5 in t.rounds[0].works, mine)
            assert task.rounds[0].works[4].trainer == rival.address
            assert task.rounds[0].works[5].trainer == small.address
        finally:
            world.stop()
            spectator.close()


def _sources(store: Store, root: bytes) -> tuple[bytes, ...]:
    header = Header.decode(store.get(root))
    return codec.decode(Meta, store.get(header.meta_root)).sources
