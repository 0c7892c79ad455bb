"""Every forger against seats that draw everything, and against each single draw; 200 honest leases of every sort."""

from __future__ import annotations

from commonweight.core.verdict import Outcome
from commonweight.tasks.lease import Lease
from commonweight.tasks.rl_cheats import CHEATS
from commonweight.tasks.rl_sources import gathered
from tests.leases import BOB, Shelf
from tests.rl_leases import KIND, TinyRl, tiny_rl

from .common import Row

HONEST = 200


def forgers(task: TinyRl) -> dict[str, Row]:
    """A lease that also learns from an accepted rollout work, in the hands of each forger."""
    given = task.train(task.lease(slot=5, trainer=BOB, rollout=True))
    lease = task.lease(round_=1, sources=(given.root,))
    units, table = KIND.units(task.spec), {}
    for name, forge in sorted(CHEATS.items()):
        product = task.train(gathered(task.spec, lease, Shelf.of(given).fetch), forge)
        shelf = Shelf(product, given.artifacts | product.artifacts)
        verdict = task.check(lease, shelf)
        caught = sum(task.check(lease, shelf, n).outcome is Outcome.INVALID for n in range(units))
        table[name] = {
            "rejected_when_drawn": verdict.outcome is Outcome.INVALID,
            "units_that_show_it": f"{caught}/{units}",
            "reason": verdict.reason,
        }
    return table


def honest(tasks: list[TinyRl], count: int) -> list[Row]:
    """Rejected ones of so many leases of all tasks in turn; one in four has rollouts, and the next learns from them."""
    rejected: list[Row] = []
    last: dict[int, Shelf] = {}
    for number in range(count):
        which = number % len(tasks)
        task, turn = tasks[which], number // len(tasks) % 4
        lease, served = task.lease(round_=number // 8, slot=number % 8, rollout=turn == 2), last.get(which)
        artifacts: dict[bytes, bytes] = {}
        if turn == 3 and served is not None:
            lease = task.lease(round_=number // 8, slot=number % 8, sources=(served.product.root,))
            artifacts = served.artifacts
        product = task.train(_ready(task, lease, artifacts))
        shelf = Shelf(product, artifacts | product.artifacts)
        verdict = task.check(lease, shelf)
        if turn == 2:
            last[which] = shelf
        if verdict.outcome is not Outcome.VALID:
            rejected.append({"lease": number, "reason": verdict.reason})
    return rejected


def _ready(task: TinyRl, lease: Lease, artifacts: dict[bytes, bytes]) -> Lease:
    return gathered(task.spec, lease, lambda root, limit: artifacts[root])


def run() -> Row:
    tasks = [
        tiny_rl(),
        tiny_rl("sort:4, brackets:6, add:2*2", lag=2, algorithm="rloo", temperature=0.8),
        tiny_rl("reverse:4", lora_rank=2, loss="dppo", oversample=2, max_solved=0.9),
        tiny_rl("guess", max_new=2, lag=0),
    ]
    return {
        "forgers": forgers(tasks[0]),
        "honest_leases": HONEST,
        "tasks": len(tasks),
        "honest_rejected": honest(tasks, HONEST),
    }
