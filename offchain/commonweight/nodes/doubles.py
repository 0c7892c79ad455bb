"""Named test doubles of roles that do not do their duty, chosen by the hidden option ``--attack`` as cheats are.

Trainers that forge works are task kinds' cheats (`tasks.cheats`); here are validators and aggregators.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain as chained

from ..core import fixed
from ..core.duties import Duty, Todo, mask_final
from ..core.state import Dispute, Poll, Round, Task, Work
from ..core.verdict import Outcome, Verdict
from ..core.works import TREE_STEPS
from .node import Node
from .publisher import Relay
from .validator import Validator


class LazyValidator(Validator):
    """Accepts every work unseen, and keeps out of juries."""

    def _check(self, task: Task, round_: Round, work: Work, poll: Poll, seat: int, seed: bytes) -> Verdict:
        return Verdict(Outcome.VALID, "not looked at")

    def _judge(self, dispute: Dispute) -> Verdict:
        return Verdict(Outcome.ERROR, "not looked at")


class ColludingValidator(LazyValidator):
    """Accepts every work, and acquits everybody in juries."""

    def _judge(self, dispute: Dispute) -> Verdict:
        return Verdict(Outcome.VALID, "a friend")


class SlanderingValidator(LazyValidator):
    """Rejects every work unseen, and keeps out of juries."""

    def _check(self, task: Task, round_: Round, work: Work, poll: Poll, seat: int, seed: bytes) -> Verdict:
        return Verdict(Outcome.INVALID, "slander", TREE_STEPS, 0)


class AbsentJuror(Validator):
    """Checks works honestly, and never turns up in a jury."""

    def _is_juror(self, poll: Poll, seat: int, seed: bytes) -> bool:
        return False


class BadAggregator(Relay):
    """Proposes a wrong version as soon as anybody can, and serves it."""

    def prepare(self) -> None:
        """Have the bond ready, so as to be the first."""
        super().prepare()
        task = self.task
        if task is not None and not any(r.proposal or r.dropped for r in task.rounds.values()):
            self.fund(task.params["aggBond"])

    def duties(self) -> Iterator[Todo]:
        """Its own proposal first, out of turn; it never helps against itself."""
        rest = (t for t in super(Relay, self).duties() if t.duty not in (Duty.PROPOSE, Duty.REFUTE))
        return chained(self._haste(), rest)

    def _haste(self) -> Iterator[Todo]:
        task = self.task
        for round_ in task.rounds.values() if task else ():
            if task is None or round_.settled or round_.proposal is not None or round_.dropped:
                continue
            final = bool(round_.included) and mask_final(self.state, task, round_, self.now)
            if final and task.model_before(round_.index) is not None:
                yield Todo(Duty.PROPOSE, (task.id, round_.index))

    def do_propose(self, task: int, index: int) -> None:
        """The version before, with one lane changed."""
        found, _ = self.round_of(task, index)
        before = self.lineage.version(found, found.model_before(index) or b"")
        weights = before.weights.copy()
        weights[index] += 1
        self.propose(task, index, self.publish(fixed.ModelVersion(weights, before.momentum)))

    def publish(self, version: fixed.ModelVersion) -> bytes:
        """Keep the wrong version where others can fetch it."""
        return self.kit.store.put(version.encode())


class HidingAggregator(BadAggregator):
    """The same, but nobody can see what it proposed."""

    def publish(self, version: fixed.ModelVersion) -> bytes:
        """Only the name."""
        return version.root


DOUBLES: dict[str, tuple[str, type[Node]]] = {
    "lazy": ("validator", LazyValidator),
    "colluding": ("validator", ColludingValidator),
    "slander": ("validator", SlanderingValidator),
    "absent-juror": ("validator", AbsentJuror),
    "bad-merge": ("relay", BadAggregator),
    "hidden-merge": ("relay", HidingAggregator),
}
"""Role and class by the name of the attack."""
