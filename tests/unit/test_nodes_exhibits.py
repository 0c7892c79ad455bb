"""What a node shows of a merge is what the model of the contracts reads: right versions stand, wrong ones fall."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from commonweight.core.state import Round, Task, Work
from commonweight.nodes.exhibits import first_difference, merge_proof
from tests.reference.protocol.merges import Claim
from tests.reference.protocol.trace import RULE
from tests.reference.protocol.versions import Artifacts, plain_header

SLOTS = (0, 2, 255)


class FewWorks:
    """The part of a node's lineage that `merge_proof` asks, over artifacts in memory."""

    def __init__(self, artifacts: Artifacts) -> None:
        self.artifacts = artifacts
        self.headers = {slot: plain_header(artifacts, bytes([slot]) * 32, False, False) for slot in SLOTS}

    def whole(self, task: Task, root: bytes) -> Any:
        return SimpleNamespace(encode=lambda: self.artifacts.data[root])

    def header(self, work: Work) -> Any:
        return self.headers[work.slot]

    def update(self, task: Task, work: Work) -> bytes:
        return self.artifacts.data[self.headers[work.slot].update_root]


@pytest.mark.parametrize("seed", range(6))
def test_a_merge_is_shown_as_the_contracts_read_it(seed: int) -> None:
    """Weights and momentum, late works and early ones."""
    artifacts, rng = Artifacts(), Random(seed)
    base = artifacts.version(rng)
    known = FewWorks(artifacts)
    late = [slot == 255 for slot in SLOTS]
    roots = [known.headers[slot].update_root for slot in SLOTS]
    right = artifacts.merge(artifacts.data[base], roots, late, RULE)
    wrong = artifacts.wrong(right, rng)
    while wrong not in artifacts.faults:
        wrong = artifacts.wrong(right, rng)
    works = {slot: Work(slot, b"t" * 20, b"s" * 32, 0, included=True) for slot in SLOTS}
    task = Task(1, b"p" * 20, b"s" * 32, base, {"lag": 1}, RULE, "")
    round_ = Round(0, base, 0, 0, works=works)
    for root in (right, wrong):
        place = first_difference(artifacts.data[right], artifacts.data[root]) or (rng.randrange(2), 3)
        leaf, lane, proof = merge_proof(cast(Any, known), task, round_, artifacts.data[root], *place)
        assert Claim(RULE, base, root, roots, late, leaf, lane).right(proof) is (root == right)
