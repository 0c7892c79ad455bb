"""A swarm in one process: many workers, exact routing and counting of their messages, faults and speeds by plan.

Deterministic: the same arguments give the same bits. Time is virtual; a round lasts as long as its slowest member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.errors import CommonweightError
from ..core.fixed import ModelVersion
from .cohort import CohortWorker
from .gossip import GossipWorker
from .rounds import Messages, Plan, Report, Round

Worker = CohortWorker | GossipWorker
MAX_EXCHANGES = 8


@dataclass(slots=True)
class Traffic:
    """Payload bytes by worker."""

    sent: dict[int, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)

    def count(self, source: int, target: int, size: int) -> None:
        """One message."""
        self.sent[source] = self.sent.get(source, 0) + size
        self.received[target] = self.received.get(target, 0) + size

    def mean_sent(self) -> float:
        """Bytes that a worker sent, on average."""
        return sum(self.sent.values()) / max(1, len(self.sent))

    def mean_received(self) -> float:
        """Bytes that a worker received, on average."""
        return sum(self.received.values()) / max(1, len(self.received))


def exchange(outgoing: Mapping[int, Messages], traffic: Traffic) -> dict[int, dict[int, bytes]]:
    """Deliver every message whose target takes part; returns the inboxes."""
    inboxes: dict[int, dict[int, bytes]] = {i: {} for i in outgoing}
    for source, messages in outgoing.items():
        for target, payload in messages.items():
            traffic.count(source, target, len(payload))
            if target in inboxes:
                inboxes[target][source] = payload
    return inboxes


def run_round(
    workers: Mapping[int, Worker], plans: Mapping[int, Plan], traffic: Traffic
) -> dict[int, Report]:
    """Drive one round of the planned workers to its end. Raises E1706 for a worker that never finishes."""
    running: dict[int, Round] = {i: workers[i].round(plan) for i, plan in sorted(plans.items())}
    outgoing: dict[int, Messages] = {i: next(r) for i, r in running.items()}
    reports: dict[int, Report] = {}
    for _ in range(MAX_EXCHANGES):
        inboxes, outgoing = exchange(outgoing, traffic), {}
        for i, inbox in inboxes.items():
            try:
                outgoing[i] = running[i].send(inbox)
            except StopIteration as stop:
                reports[i] = stop.value
        if not outgoing:
            return reports
    raise CommonweightError("E1706", f"a round of more than {MAX_EXCHANGES} exchanges")


def recover(workers: Mapping[int, Worker], source: int, target: int, traffic: Traffic) -> None:
    """Give ``target`` the version of ``source``, checked by root: what a joiner or one that missed rounds needs."""
    data = workers[source].version.encode()
    version = ModelVersion.decode(data, workers[source].version.weights.size)
    if version.root != workers[source].version.root:
        raise CommonweightError("E1707", f"member {source} sent a version that is not what its root names")
    traffic.count(source, target, len(data))
    workers[target].version = version


def mean_weights(versions: Sequence[ModelVersion]) -> np.ndarray:
    """Mean of the replicas' weights in lanes, float64 ``(n,)``."""
    return np.mean([v.weights.astype(np.float64) for v in versions], axis=0)


def consensus_distance(versions: Sequence[ModelVersion]) -> float:
    """Root mean square distance of the replicas from their mean, relative to the mean's norm; 0 in a cohort."""
    centre = mean_weights(versions)
    squares = [float(np.square(v.weights - centre).sum()) for v in versions]
    return float(np.sqrt(np.mean(squares)) / max(float(np.linalg.norm(centre)), 1e-30))
