"""The four named profiles of a spec: which exchange, codecs, merge rule and outer step belong together.

Measured combinations; others may diverge: top-k inside gossip, momentum with top-k, 2-bit differences on sparse
graphs.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import CommonweightError
from ..core.spec import MergeSpec
from .outer import NESTEROV, PLAIN


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


def require_size(chosen: Profile, parameters: int) -> None:
    """Raise E1709 when a model is too large for the profile."""
    if chosen.max_parameters and parameters > chosen.max_parameters:
        raise CommonweightError(
            "E1709",
            f"profile {chosen.name} is for up to {chosen.max_parameters} trained parameters, not {parameters}",
            "train an adapter, or choose gossip",
        )
