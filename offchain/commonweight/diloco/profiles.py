"""The four named profiles of a spec: which exchange, codecs, merge rule and outer step belong together.

Measured combinations; others may diverge: top-k inside gossip, momentum with top-k, 2-bit differences on sparse
graphs.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import CommonweightError
from ..core.fixed import ModelVersion
from ..core.spec import MergeSpec
from .aggregate import Aggregator
from .cohort import CohortWorker
from .compress import Compressor
from .gossip import GossipWorker
from .local import InnerLoop
from .outer import NESTEROV, PLAIN
from .topology import Topology, build, stable_above

EXACT_CHECK = 512  # eigenvalues of larger graphs are not computed; expanders of any size are stable


@dataclass(frozen=True, slots=True)
class Profile:
    """How a swarm exchanges. ``up`` is what a worker sends, ``down`` what a shard owner sends back (cohorts only)."""

    name: str
    when: str
    topology: str
    degree: int
    up: str
    down: str
    aggregator: str
    steps: int
    optimizer: str = "muon"
    outer: MergeSpec = NESTEROV
    decay: int = 256
    max_parameters: int = 0

    @property
    def gossip(self) -> bool:
        """Whether workers are replicas that talk to neighbours only."""
        return self.topology != "complete"


PROFILES = {
    p.name: p
    for p in (
        Profile(
            "cohort", "up to about 32 workers with one common state; the default", "complete", 0, "2bit:4096",
            "int4:4096", "clip-cosine", 30,
        ),
        Profile(
            "gossip", "many workers, no global barrier, uneven links", "expander", 4, "int4:1024", "", "mean", 30
        ),
        Profile(
            "thin", "uplinks below about 10 Mbit/s, inside a cohort", "complete", 0, "topk:64/4096", "int4:4096",
            "norm-clip", 10, "adamw", PLAIN, 243,
        ),
        Profile(
            "edge", "phones and boards: LoRA or small models", "expander", 4, "int4:1024", "", "mean", 10, "adamw",
            max_parameters=1_000_000,
        ),
    )
}  # fmt: skip


def profile(name: str) -> Profile:
    """The profile of that name. Raises E1708 when there is none."""
    if name not in PROFILES:
        raise CommonweightError("E1708", f"there is no profile {name!r}", f"choose {', '.join(PROFILES)}")
    return PROFILES[name]


def topology_of(chosen: Profile, members: int, seed: int = 0) -> Topology:
    """The graph of a profile over ``members`` nodes.

    Raises E1711 when accelerated mixing over it would diverge (`topology.stable_above`).
    """
    graph = build(chosen.topology, members, degree=max(2, chosen.degree), seed=seed)
    bound = stable_above(
        chosen.outer.lr_num / chosen.outer.lr_den, chosen.outer.momentum_num / chosen.outer.momentum_den
    )
    if chosen.gossip and members <= EXACT_CHECK and graph.least_eigenvalue < bound:
        raise CommonweightError(
            "E1711",
            f"mixing over {graph.name} with {members} nodes diverges at this outer step",
            "lower the outer learning rate or momentum",
        )
    return graph


def make_worker(
    chosen: Profile, index: int, inner: InnerLoop, version: ModelVersion, graph: Topology
) -> CohortWorker | GossipWorker:
    """Member ``index`` of a swarm of this profile. Raises E1709 when the model is too large for it."""
    require_size(chosen, version.weights.size)
    up = Compressor.named(chosen.up, chosen.outer.weight_bits)
    if chosen.gossip:
        return GossipWorker(index, inner, version, chosen.outer, graph, up)
    down = Compressor.named(chosen.down, chosen.outer.weight_bits)
    rule = Aggregator(chosen.aggregator)
    return CohortWorker(index, inner, version, chosen.outer, (up, down), rule, decay=chosen.decay)


def require_size(chosen: Profile, parameters: int) -> None:
    """Raise E1709 when a model is too large for the profile."""
    if chosen.max_parameters and parameters > chosen.max_parameters:
        raise CommonweightError(
            "E1709",
            f"profile {chosen.name} is for up to {chosen.max_parameters} trained parameters, not {parameters}",
            "train an adapter, or choose gossip",
        )
