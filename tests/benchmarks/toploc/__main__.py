"""``python -m tests.benchmarks.toploc [PART ...]``: the named parts, or all of them."""

from __future__ import annotations

import sys

import torch


def main() -> None:
    """Run the named parts in order."""
    torch.set_num_threads(1)
    from . import cheats, cost, forgeries, proofs

    parts = {
        "parity": proofs.parity,
        "speed": proofs.speed,
        "cost": cost.cost,
        "sampling": forgeries.sample_check,
        "forgeries": forgeries.forgeries,
        "cheats": cheats.cheats,
        "heldout": cheats.heldout,
        "refuse": cheats.refuse,
        "plot": cheats.redraw,
    }
    names = sys.argv[1:] or [name for name in parts if name != "plot"]
    unknown = [name for name in names if name not in parts]
    if unknown:
        sys.exit(f"no part {unknown[0]}; there are: {', '.join(parts)}")
    proofs.warm()
    for name in names:
        print(f"-- {name}", flush=True)
        parts[name]()


if __name__ == "__main__":
    main()
