"""Sparse tasks: where each trainer starts follows from the chain, and the task's version is the replicas' mean."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from commonweight.core import fixed, merkle
from commonweight.core.errors import EncodingError
from commonweight.core.fixed import ModelVersion
from commonweight.core.spec import ExchangeSpec, MergeSpec, Spec, parse_task
from commonweight.core.state import Round, Task, Work
from commonweight.core.verdict import Outcome
from commonweight.core.works import TREE_STEPS
from commonweight.diloco import mixing
from commonweight.diloco.mixing import MixLeaf
from commonweight.nodes.replicas import Replicas, mix_all
from commonweight.tasks import cheats, checking, evidence, pretrain
from commonweight.tasks.lease import Lease, Product
from tests.leases import BLINDING, Shelf, Tiny, tiny

RING = ExchangeSpec(topology="ring", degree=2)
NAMES = [bytes([i]) * 20 for i in range(1, 6)]


@dataclass
class Town:
    """A sparse task folded from events, its artifacts in memory, and trainers who are always honest."""

    t: Tiny
    lag: int = 1
    artifacts: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spec = replace(self.t.spec, exchange=RING)
        self.t = replace(self.t, spec=spec)
        self.task = Task(1, b"p" * 20, spec.root, self.t.base.root, {"lag": self.lag}, {}, "")
        self.version = self.t.base
        self.put(self.version.encode())

    def put(self, data: bytes) -> bytes:
        self.artifacts[merkle.root(data)] = data
        return merkle.root(data)

    # what `Replicas` asks a lineage for

    def spec(self, task: Task) -> Spec:
        return self.t.spec

    def version_of(self, root: bytes) -> ModelVersion:
        return ModelVersion.decode(self.artifacts[root], pretrain.parameters(self.t.spec))

    def update(self, task: Task, work: Work) -> bytes:
        return self.artifacts[self.products[work.root].header.update_root]

    # what happens in the town

    products: dict[bytes, Product] = field(default_factory=dict)

    def lease(self, index: int, slot: int, trainer: bytes) -> tuple[Lease, ModelVersion]:
        plain = replace(self.t.lease(index, slot, trainer), base=self.task.rounds[index].base)
        return Replicas(Lines(self)).lease(self.task, plain)  # a fresh node: nothing is remembered

    def play(self, trainers: list[bytes], absent: tuple[bytes, ...] = ()) -> dict[bytes, Product]:
        """One round: everybody trains, the works of all but ``absent`` are accepted and merged."""
        index = len(self.task.rounds)
        self.task.rounds[index] = Round(index, self.task.base_of(index) or b"", 0, 0)
        round_, done = self.task.rounds[index], {}
        for slot, who in enumerate(trainers):
            lease, start = self.lease(index, slot, who)
            product = self.t.train(lease, base=start)
            self.products[product.root] = done[who] = product
            self.artifacts |= product.artifacts
            round_.works[slot] = Work(slot, who, b"", 0, root=product.root, included=who not in absent)
        updates = [fixed.accepted(self.update(self.task, w), late=False) for w in round_.included]
        count = pretrain.parameters(self.t.spec)
        self.version = fixed.merge(self.version, [u[:count] for u in updates], self.t.spec.merge)
        round_.model = self.put(self.version.encode())
        return done


class Lines:
    """The lineage of a town, as far as `Replicas` uses one."""

    def __init__(self, town: Town) -> None:
        self.town = town

    def spec(self, task: Task) -> Spec:
        return self.town.spec(task)

    def version(self, task: Task, root: bytes) -> ModelVersion:
        return self.town.version_of(root)

    def update(self, task: Task, work: Work) -> bytes:
        return self.town.update(task, work)


def check(town: Town, lease: Lease, start: ModelVersion, product: Product, drawn: tuple[int, ...]) -> Any:
    spec, text = town.t.spec, town.t.text
    return checking.check(spec, text, start, lease, product.root, drawn, Shelf.of(product).fetch)


def test_replicas_part_come_together_and_their_mean_is_the_version() -> None:
    town = Town(tiny())
    for _ in range(3):
        town.play(NAMES)
    starts = [Replicas(Lines(town)).start(town.task, 2, who).version for who in NAMES]
    assert len({s.root for s in starts}) == len(NAMES)
    mean = np.mean([s.weights for s in starts], axis=0)
    # one floor per lane, update and step
    assert np.abs(mean - town.version_of(town.task.rounds[1].model or b"").weights).max() < 8 * 2
    spread = max(np.abs(s.weights - mean).max() for s in starts)
    assert spread > 1000


def test_every_work_of_every_round_is_valid_from_its_own_replica() -> None:
    town = Town(tiny())
    for _ in range(2):
        products = town.play(NAMES[:4])
        index = len(town.task.rounds) - 1
        for slot, who in enumerate(NAMES[:4]):
            lease, start = town.lease(index, slot, who)
            verdict = check(town, lease, start, products[who], (0, 3))
            assert verdict.outcome is Outcome.VALID, verdict
            assert dict(verdict.evidence).get("mixes", 0) == (index > 0)
            assert products[who].header.step_count == 4 + (index > 0)
            record = evidence.write(lease, town.t.spec.root, products[who].root, (0, 3), verdict)
            assert evidence.lease_of(type(record).decode(record.encode())) == lease
            claimed, _ = evidence.claimed_lease(products[who].root, Shelf.of(products[who]).fetch)
            assert claimed == lease


def test_the_leaf_names_what_the_neighbours_committed() -> None:
    town = Town(tiny())
    first = town.play(NAMES)
    lease, start = (town.play(NAMES), town.lease(1, 2, NAMES[2]))[1]
    leaf = MixLeaf.of(lease.mix)
    assert (leaf.round, leaf.node, leaf.neighbours, leaf.result) == (0, 2, (1, 3), start.root)
    shift = town.t.spec.merge.update_shift
    for j, state in zip(leaf.neighbours, leaf.states, strict=True):
        update = fixed.accepted(first[NAMES[j]].artifacts[first[NAMES[j]].header.update_root], late=False)
        ended = town.t.base.weights - (update[: start.weights.size] << shift)
        assert state == mixing.state_root(ended.astype(np.int32))


def test_who_was_not_accepted_or_is_new_starts_from_the_version() -> None:
    town = Town(tiny())
    town.play(NAMES[:3], absent=(NAMES[1],))
    town.play(NAMES[:4])
    for slot, who in ((1, NAMES[1]), (3, NAMES[3])):
        lease, start = town.lease(1, slot, who)
        assert (lease.base, lease.mix) == (town.task.rounds[0].model, b"")
        assert start.root == lease.base
    assert town.lease(1, 0, NAMES[0])[0].mix


def test_replicas_of_a_task_with_lag_go_on_from_their_own_round() -> None:
    town = Town(tiny(), lag=2)
    for _ in range(4):
        town.play(NAMES[:3])
    assert [bool(town.lease(i, 0, NAMES[0])[0].mix) for i in range(4)] == [False, False, True, True]
    assert [MixLeaf.of(town.lease(i, 0, NAMES[0])[0].mix).round for i in (2, 3)] == [0, 1]


def test_a_wrong_mix_is_found_at_its_leaf_by_seats_and_jurors() -> None:
    town = Town(tiny())
    town.play(NAMES)
    town.play(NAMES)
    lease, start = town.lease(1, 0, NAMES[0])
    spec, text = town.t.spec, town.t.text
    lie = cheats.wrong_mix(spec, text, start, lease, blinding=BLINDING)
    verdict = check(town, lease, start, lie, (3,))
    assert (verdict.outcome, verdict.tree, verdict.leaf) == (Outcome.INVALID, TREE_STEPS, 4)
    for leaf in (4, 0):
        judged = checking.judge_leaf(
            spec, text, start, lease, lie.root, TREE_STEPS, leaf, Shelf.of(lie).fetch
        )
        assert (judged.outcome, judged.leaf) == (Outcome.INVALID, leaf)


@pytest.mark.parametrize("change", ["weights", "state", "missing", "padding"])
def test_each_lie_about_a_mix_is_found(change: str) -> None:
    town = Town(tiny())
    town.play(NAMES)
    town.play(NAMES)
    lease, start = town.lease(1, 0, NAMES[0])
    right = MixLeaf.of(lease.mix)
    mix = {
        "weights": replace(right, denominator=right.denominator + 1).leaf,
        "state": replace(right, states=right.states[::-1]).leaf,
        "missing": b"",
        "padding": lease.mix[:-1] + b"\x01",
    }[change]
    lie = town.t.train(replace(lease, mix=mix), base=start)
    verdict = check(town, lease, start, lie, (0,))
    assert verdict.outcome is Outcome.INVALID
    assert (verdict.tree, verdict.leaf) == ((0, 0) if change == "missing" else (TREE_STEPS, 4))


def test_a_leaf_that_holds_no_mix_is_refused() -> None:
    for leaf in (b"", bytes(1024), b"\xff" * 1024, bytes(1023)):
        with pytest.raises(EncodingError):
            MixLeaf.of(leaf)


@pytest.mark.parametrize("name", ["ring", "expander", "small-world", "exponential", "hypercube"])
def test_any_graph_keeps_the_mean(name: str) -> None:
    rng = np.random.default_rng(1)
    spec = replace(tiny().spec, exchange=ExchangeSpec(topology=name), merge=MergeSpec(lr_num=7, lr_den=10))
    for n in (1, 2, 3, 5, 9):
        starts = [
            ModelVersion(rng.integers(-(2**20), 2**20, 50).astype(np.int32), np.zeros(50, np.int32))
        ] * n
        trained = [(starts[0].weights + rng.integers(-(2**16), 2**16, 50)).astype(np.int32) for _ in range(n)]
        mixed = mix_all(spec, 7, starts, trained)
        gradient = np.mean([starts[0].weights - y for y in trained], axis=0)
        whole = fixed.outer_step(starts[0], np.floor(gradient).astype(np.int64), spec.merge)
        mean = np.mean([r.version.weights for r in mixed], axis=0)
        assert np.abs(mean - whole.weights).max() < 8
    assert mix_all(spec, 7, [], []) == []


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[exchange]\ntopology = "star"', "exchange.topology"),
        ('[exchange]\ntopology = "ring"\n[merge]\nrule = "trimmed"\ntrim = 20', "merge.rule"),
        ("[exchange]\ndegree = 17", "exchange.degree"),
        ("[exchange]\ncell = 0", "exchange.cell"),
    ],
)
def test_exchanges_that_nobody_could_keep_are_refused(text: str, key: str) -> None:
    from commonweight.core.errors import CommonweightError

    with pytest.raises(CommonweightError, match=key) as caught:
        parse_task(f'[task]\nname = "x"\nkind = "pretrain"\n{text}\n')
    assert caught.value.code == "E1004"


def test_a_spec_with_a_topology_is_read_back() -> None:
    spec = replace(tiny().spec, exchange=ExchangeSpec("small-world", 6, 2))
    assert Spec.decode(spec.encode()) == spec
    assert spec.root != tiny().spec.root
