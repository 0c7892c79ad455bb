"""Activation proofs of short rollouts: roundings that a cache brings about are no cheat, other weights are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from commonweight import toploc
from commonweight.core.spec import VerificationSpec
from commonweight.core.verdict import Outcome
from commonweight.rl.trajectories import Trajectory
from commonweight.tasks.rl_evidence import misfit
from tests.leases import Shelf
from tests.rl_leases import tiny_rl

V = VerificationSpec(topk=16)


def row(hidden: torch.Tensor) -> Trajectory:
    """A trajectory of eight tokens with the proof of these hidden states."""
    proof = toploc.encode(toploc.build(hidden, V.topk, V.chunk))
    some = np.zeros(8, dtype=np.int32)
    return Trajectory(0, 0, 1, 0, some[:3], some, np.ones(8, dtype=np.uint8), some.astype(np.float32), proof)


def states() -> torch.Tensor:
    """Eight tokens of a chunk of 32, as the engine lays them out."""
    hidden = torch.randn(32, 24, generator=torch.Generator().manual_seed(11))
    hidden[8:] = 0
    return hidden.bfloat16().float()


def nudged(hidden: torch.Tensor, values: int, factor: float) -> torch.Tensor:
    """So many of the largest values moved by a share."""
    out = hidden.flatten().clone()
    out[out.abs().topk(values).indices] *= factor
    return out.view_as(hidden)


@pytest.mark.parametrize("values", [1, 2])
def test_values_that_round_the_other_way_are_no_cheat(values: int) -> None:
    """Lease 154 of the honest ones: one unit of one of sixteen values was more than the sequence's score allowed."""
    hidden = states()
    moved = nudged(hidden, values, 1 + 2**-8)
    stats = toploc.verify(moved, toploc.decode(row(hidden).proof, V.topk, 1), V.topk, V.chunk)
    assert 0 < stats.mantissa_mean <= values / 16
    assert toploc.fault(stats, V.topk, V), "the spec's share alone would have it rejected"
    assert misfit(moved, row(hidden), V) == ""


@pytest.mark.parametrize("noise", [0.02, 0.1, 1.0])
def test_other_weights_are_found_all_the_same(noise: float) -> None:
    hidden = states()
    other = hidden * (1 + noise * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2)))
    assert misfit(other, row(hidden), V)


def test_the_lease_that_was_rejected_wrongly_is_valid() -> None:
    task = tiny_rl("reverse:4", lora_rank=2, loss="dppo", oversample=2, max_solved=0.9)
    lease = task.lease(round_=19, slot=2, rollout=True)
    verdict = task.check(lease, Shelf.of(task.train(lease)))
    assert verdict.outcome is Outcome.VALID, verdict.reason


def test_proofs_of_no_help_are_refused() -> None:
    hidden = states()
    assert "malformed" in misfit(hidden, replace(row(hidden), proof=b""), V)
