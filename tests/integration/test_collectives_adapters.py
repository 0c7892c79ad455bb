"""The same interface under torchrun (gloo), and what is said where PCCL is not installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from commonweight.collectives.pccl import library
from commonweight.core.errors import CommonweightError

WORKER = Path(__file__).with_name("collectives_torch_worker.py")


def test_three_ranks_under_torchrun_agree() -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "3",
        str(WORKER),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    ranks = sorted(
        (json.loads(line) for line in done.stdout.decode().splitlines() if line.startswith("{")),
        key=lambda r: r["rank"],
    )
    assert [r["rank"] for r in ranks] == [0, 1, 2]
    exact = sum(np.random.default_rng(i).standard_normal(1000).astype(np.float32)[0] for i in range(3))
    for rank in ranks:
        assert rank["roots"] == ranks[0]["roots"]
        assert rank["first"]["none"] == pytest.approx(exact, abs=1e-5)
        assert rank["first"]["int8"] == pytest.approx(exact, abs=0.1)
        assert rank["lanes"] == [6] * 10
        assert rank["blobs"] == {"rank-0": "00", "rank-1": "0101", "rank-2": "020202"}
        left = f"rank-{(rank['rank'] - 1) % 3}"
        assert rank["letters"] == {left: f"from {left}"}
        assert not rank["agreed"]
        assert rank["state"] == ranks[0]["state"]
    assert [r["strayed"] for r in ranks] == [False, True, False]


def test_pccl_is_named_where_it_is_missing() -> None:
    assert importlib.util.find_spec("pccl") is None, "the test environment holds no benchmark peers"
    with pytest.raises(CommonweightError) as caught:
        library()
    assert caught.value.code == "E1516"
