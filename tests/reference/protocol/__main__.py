"""Play random traces on a local chain and compare each action with the model.

python -m tests.reference.protocol --seed 7                 one trace, as the tests play it
python -m tests.reference.protocol --seed 1000 --traces 200 --actions 600
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from random import Random

from commonweight.chain.deployment import DeployConfig
from commonweight.core.economics import Host
from tests.reference.anvil import Chain

from . import World
from .mirror import Mirror
from .trace import Trace

ACTIONS = 250
CONFIG = DeployConfig(exit_delay=3200)


def play(seed: int, actions: int = ACTIONS) -> Trace:
    """One trace on a chain of its own. Raises `mirror.Differs` with what differs, and the seed, where they do."""
    with Chain(CONFIG) as chain:
        host = Host(CONFIG.seat_stake, CONFIG.exit_delay, CONFIG.risk_min)
        trace = Trace(Mirror(chain, World(chain.addresses, host)), Random(seed))
        try:
            trace.play(actions)
        except BaseException as error:
            error.add_note(f"replay: python -m tests.reference.protocol --seed {seed} --actions {actions}")
            raise
        return trace


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--traces", type=int, default=1)
    parser.add_argument("--actions", type=int, default=ACTIONS)
    args = parser.parse_args()
    done: Counter[str] = Counter()
    for seed in range(args.seed, args.seed + args.traces):
        trace = play(seed, args.actions)
        done.update(trace.done)
        refused = trace.mirror.refused
        print(f"seed {seed}: {sum(trace.done.values())} actions agree, {refused} of them refused", flush=True)
    for name, times in sorted(done.items()):
        print(f"  {times:6} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
