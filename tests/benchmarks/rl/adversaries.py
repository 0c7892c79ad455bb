"""Every forger against seats that draw everything, and against the default draw; 200 honest leases."""

from __future__ import annotations

from commonweight.core.verdict import Outcome
from commonweight.tasks.rl_cheats import CHEATS
from tests.leases import Shelf
from tests.rl_leases import KIND, tiny_rl

from .common import Row

HONEST = 200


def run() -> Row:
    task = tiny_rl()
    lease = task.lease()
    table = {}
    units = KIND.units(task.spec)
    for name, forge in sorted(CHEATS.items()):
        shelf = Shelf.of(task.train(lease, forge))
        verdict = task.check(lease, shelf)
        caught = sum(task.check(lease, shelf, n).outcome is Outcome.INVALID for n in range(units))
        table[name] = {
            "rejected_when_drawn": verdict.outcome is Outcome.INVALID,
            "units_that_show_it": f"{caught}/{units}",
            "reason": verdict.reason,
        }
    rejected = []
    for number in range(HONEST):
        honest = task.lease(round_=number // 8, slot=number % 8)
        verdict = task.check(honest, Shelf.of(task.train(honest)))
        if verdict.outcome is not Outcome.VALID:
            rejected.append({"lease": number, "reason": verdict.reason})
    return {"forgers": table, "honest_leases": HONEST, "honest_rejected": rejected}
