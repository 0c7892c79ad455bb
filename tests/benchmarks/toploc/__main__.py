"""``python -m tests.benchmarks.toploc [PART ...]``: parity, speed and the rest; all of them without arguments."""

from __future__ import annotations

import sys

import torch


def main() -> None:
    """Run the named parts in order."""
    torch.set_num_threads(1)
    from . import proofs

    parts = {"parity": proofs.parity, "speed": proofs.speed}
    names = sys.argv[1:] or list(parts)
    unknown = [name for name in names if name not in parts]
    if unknown:
        sys.exit(f"no part {unknown[0]}; there are: {', '.join(parts)}")
    proofs.warm()
    for name in names:
        print(f"-- {name}", flush=True)
        parts[name]()


if __name__ == "__main__":
    main()
