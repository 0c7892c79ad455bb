"""A rank under torchrun that exercises the torch.distributed adapter and prints what it got as one JSON line."""

from __future__ import annotations

import json
import sys

import numpy as np

from commonweight.collectives.codecs import codec
from commonweight.collectives.torchdist import TorchCollective
from commonweight.core import merkle


def main() -> None:
    collective = TorchCollective.from_environment("gloo", seconds=60)
    rank = int(collective.name.removeprefix("rank-"))
    state = np.zeros(1000, dtype=np.float32)
    collective.begin(merkle.root(state.tobytes()))
    values = np.random.default_rng(rank).standard_normal(1000).astype(np.float32)
    found = {name: collective.all_reduce(values, codec(name)).values for name in ("none", "int8")}
    lanes = collective.all_reduce(np.full(10, rank + 1, dtype=np.int32), codec("none")).values
    blobs = collective.gather(bytes([rank]) * (rank + 1))
    right = f"rank-{(rank + 1) % len(collective.members)}"
    left = f"rank-{(rank - 1) % len(collective.members)}"
    letters = collective.exchange(1, {right: b"from " + collective.name.encode()}, [left], 10)
    state = state + found["none"] + (1 if rank == 1 else 0)
    settled = collective.settle(merkle.root(state.tobytes()), state.tobytes)
    if settled.recovered is not None:
        state = np.frombuffer(settled.recovered, dtype=np.float32)
    line = {
        "rank": rank,
        "roots": {name: merkle.root(v.tobytes()).hex() for name, v in found.items()},
        "first": {name: float(v[0]) for name, v in found.items()},
        "lanes": lanes.tolist(),
        "blobs": {k: v.hex() for k, v in blobs.items()},
        "letters": {k: v.decode() for k, v in letters.items()},
        "agreed": settled.agreed,
        "strayed": settled.recovered is not None,
        "state": merkle.root(state.tobytes()).hex(),
    }
    collective.close()
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
