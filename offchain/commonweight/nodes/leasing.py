"""The lease behind a work, as everybody can derive it from the chain."""

from __future__ import annotations

from dataclasses import replace

from ..core.rollouts import is_rollout, sources
from ..core.seeds import lease_seed
from ..core.spec import Spec
from ..core.state import Round, State, Task, Work
from ..core.works import NONE
from ..tasks.lease import Lease


def place_of(round_: Round, work: Work) -> tuple[int, int]:
    """(round, slot) of the lease that a work of ``round_`` came from: another one where it entered late."""
    return work.origin or (round_.index, work.slot)


def lease_of(chain_id: int, tasks: bytes, task: Task, round_: Round, work: Work, beacon: bytes) -> Lease:
    """The lease; ``beacon`` is the data seed of the round that it was taken in."""
    index, slot = place_of(round_, work)
    base = task.rounds[index].base
    seed = lease_seed(chain_id, tasks, task.id, index, slot, base, beacon, work.trainer)
    return Lease(
        chain_id=chain_id,
        tasks=tasks,
        task=task.id,
        round=index,
        slot=slot,
        trainer=work.trainer,
        base=base,
        seed=seed,
        previous=previous_of(task, index, slot, work.trainer),
    )


def with_rollouts(lease: Lease, state: State, task: Task, spec: Spec) -> Lease:
    """The lease with what the spec and the chain say of rollouts: whether it is one, or which ones it learns from."""
    if not spec.rl.rollout_slots:
        return lease
    rollout = is_rollout(spec.rl, task.params["slots"], lease.slot)
    return replace(
        lease,
        rollout=rollout,
        sources=sources(state, task, spec.rl, lease.round, lease.slot),
        previous=NONE if rollout else lease.previous,
    )


def previous_of(task: Task, index: int, slot: int, trainer: bytes) -> bytes:
    """Root of the work whose residual a lease may carry: the trainer's own in the round that made the lease's base.

    A trainer's n-th lease of a round follows its n-th merged work, so that no residual is carried twice.
    """
    source = task.rounds.get(index - task.params["lag"])
    if source is None or source.skipped:
        return NONE
    leases = task.rounds[index].works.values()
    nth = sum(w.trainer == trainer and w.origin is None and w.slot < slot for w in leases)
    merged = [w.root for w in source.included if w.trainer == trainer and w.root is not None]
    return merged[nth] if nth < len(merged) else NONE
