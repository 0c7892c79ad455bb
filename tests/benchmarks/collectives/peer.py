"""One peer of a benchmark: runs the sides asked for, in turn within one process, so that their ratio survives load.

The configuration is one JSON object on the command line; the result is one JSON object on standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from commonweight.collectives.codecs import codec
from commonweight.collectives.session import Rules
from commonweight.collectives.tcp import Settings, TcpCollective
from commonweight.collectives.wire import Credentials

Side = Callable[[], int]


def values_of(seed: int, rank: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, rank]).standard_normal(count, dtype=np.float32)


def ours(
    config: dict[str, Any], values: np.ndarray, out: np.ndarray
) -> tuple[TcpCollective, Callable[[str], Side]]:
    rules = Rules(silence=30, expect=config["size"], gather=120)
    contact = (config["leader"], config["port"])
    settings = Settings(
        host=config["host"],
        port=config["port"] if config["rank"] == 0 else 0,
        contacts=(contact,),
        founder=config["rank"] == 0,
        rules=rules,
    )
    swarm = TcpCollective(
        Credentials(f"peer-{config['rank']}", b"benchmark" * 4, seal=config["seal"]), settings
    )
    swarm.begin(bytes(31) + b"\x01")
    return swarm, lambda name: lambda: swarm.all_reduce(values, codec(name), out).sent_bytes


def gloo(config: dict[str, Any], values: np.ndarray, out: np.ndarray) -> tuple[Side, Callable[[], None]]:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR=config["leader"], MASTER_PORT=str(config["gloo_port"]))
    dist.init_process_group("gloo", rank=config["rank"], world_size=config["size"])
    tensor = torch.from_numpy(out)

    def run() -> int:
        dist.all_reduce(tensor)
        return 2 * out.nbytes * (config["size"] - 1) // config["size"]

    return run, lambda: np.copyto(out, values)


def pccl(config: dict[str, Any], values: np.ndarray, out: np.ndarray) -> Callable[[str], Side]:
    from commonweight.collectives.pccl import PcclCollective, library

    collective = PcclCollective(config["pccl_master"], config["size"])
    p = library()

    def side(name: str) -> Side:
        how = {
            "zero-point": p.QuantizationAlgorithm.ZERO_POINT_SCALE,
            "min-max": p.QuantizationAlgorithm.MIN_MAX,
        }
        options = p.QuantizationOptions(p.DataType.UINT8, how[name]) if name in how else None

        def run() -> int:
            info = collective._comm.all_reduce(values, out, op=p.ReduceOp.SUM, quantization_options=options)
            return int(info.tx_bytes)

        return run

    return side


def error_of(out: np.ndarray, config: dict[str, Any]) -> float:
    """Relative error, in L2, of the sum against float64."""
    exact = np.zeros(out.size, dtype=np.float64)
    for rank in range(config["size"]):
        exact += values_of(config["seed"], rank, out.size)
    return float(np.linalg.norm(out - exact) / np.linalg.norm(exact))


def main() -> None:
    config = json.loads(sys.argv[1])
    values = values_of(config["seed"], config["rank"], config["count"])
    out = np.zeros_like(values)
    swarm, own = ours(config, values, out)
    prepare: dict[str, Callable[[], None]] = {}
    sides: dict[str, Side] = {}
    theirs = pccl(config, values, out) if any(s.startswith("pccl") for s in config["sides"]) else None
    for name in config["sides"]:
        if name == "gloo":
            sides[name], prepare[name] = gloo(config, values, out)
        elif name.startswith("pccl"):
            assert theirs is not None
            sides[name] = theirs(name.partition(":")[2])
        else:
            sides[name] = own(name)
    result: dict[str, Any] = {name: {"wall": [], "cpu": [], "sent": 0, "error": None} for name in sides}
    for repetition in range(config["repetitions"] + 1):
        for name in config["sides"][:: 1 if repetition % 2 else -1]:
            prepare.get(name, lambda: None)()
            swarm.gather(b"go")
            wall, cpu = time.perf_counter(), time.process_time()
            sent = sides[name]()
            took = time.perf_counter() - wall, time.process_time() - cpu
            if repetition:  # the first warms memory and connections
                result[name]["wall"].append(took[0])
                result[name]["cpu"].append(took[1])
                result[name]["sent"] = sent
            elif config["rank"] == 0 and config["errors"]:
                result[name]["error"] = error_of(out, config)
            swarm.gather(b"done")
    print(json.dumps(result), flush=True)
    swarm.gather(b"bye")
    swarm.close()
    os._exit(0)  # PCCL's and gloo's threads are not worth waiting for


if __name__ == "__main__":
    main()
