"""Low-communication training: inner loops, outer steps, topologies, compression, robust merging, swarms.

`inner` and `core.fixed.merge` serve the on-chain round; the rest serves swarms that exchange every few steps.
"""

from .aggregate import Aggregator
from .cohort import CohortWorker
from .compress import Compressor, ErrorFeedback
from .gossip import GossipWorker
from .inner import TrainState, run_segment
from .local import InnerLoop, InnerSpec, Text
from .profiles import PROFILES, Profile, profile
from .rounds import Plan, Report
from .topology import Topology, build

__all__ = [
    "PROFILES",
    "Aggregator",
    "CohortWorker",
    "Compressor",
    "ErrorFeedback",
    "GossipWorker",
    "InnerLoop",
    "InnerSpec",
    "Plan",
    "Profile",
    "Report",
    "Text",
    "Topology",
    "TrainState",
    "build",
    "profile",
    "run_segment",
]
