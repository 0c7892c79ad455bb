"""A member of a cohort as a process: one common state, whose root is settled after every round.

When somebody dies between the two exchanges of a round, its shard is missing: those who miss it keep the old state. If
nobody got it, the round is lost for all alike; if some did, the majority's root holds and the others recover it.
"""

from __future__ import annotations

from ..core.errors import EncodingError
from .aggregate import Aggregator
from .cohort import CohortWorker, ShardMissing
from .compress import Compressor
from .peer import Peer
from .rounds import Plan, Report


class CohortPeer(Peer):
    """See the module. ``plan.codec`` goes up, ``plan.anchor_codec`` down."""

    worker: CohortWorker | None = None

    def restart(self) -> None:
        """Go on from the anchor's version; what error feedback still holds stays."""
        if self.worker is not None:
            self.worker.version = self.anchor.version

    def prepare(self, trained: set[str], over: bool) -> None:
        """Every round ends in an anchor; the last one is told."""
        if over:
            self.announce(0.0, 0)

    def train(self, alive: set[str], returning: set[str]) -> Report | None:
        """A round with everybody who is there."""
        names = tuple(sorted(alive))
        if self.worker is None:
            bits = self.plan.rule.weight_bits
            codecs = (Compressor.named(self.plan.codec, bits), Compressor.named(self.plan.anchor_codec, bits))
            rule = Aggregator(self.plan.aggregator)
            self.worker = CohortWorker(0, self.inner, self.anchor.version, self.plan.rule, codecs, rule)
        self.worker.index = names.index(self.collective.name)
        plan = Plan(self.round, tuple(range(len(names))), self.plan.steps, self.span())
        try:
            report = self.drive(self.worker.round(plan), names)
        except (ShardMissing, EncodingError) as error:
            self.worker.abandon()
            self.observe("lost_round", round=self.round, reason=error.message)
            return None
        self.anchor = self.anchor.next(self.round + 1, names, self.worker.version)
        if self.anchor.head.round % self.plan.epoch == 0:
            self.announce(0.0, 0)
        return report
