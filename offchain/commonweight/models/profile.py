"""Numeric profiles: float training repeats bit for bit only on machines that round alike.

Names of builds and instruction sets are not enough: a BLAS picks its kernels by the processor's maker too. So a profile
ends in a probe, a hash of what this machine computes in one forward and backward pass of the very model of the task.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from ..core.errors import CommonweightError
from ..core.hashing import tagged
from ..core.spec import ModelSpec
from .llama import forward, parameter_count


def pin() -> None:
    """Settings of every profile: one thread, deterministic kernels, full float32.

    Call it in each thread that computes: the number of threads belongs to the calling thread.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("highest")
    # Filling fresh memory is a debugging aid that costs a tenth of a step and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def computing(arithmetic: str) -> Iterator[None]:
    """Run forward passes in ``f32``, or with matrix products and attention in ``bf16``; weights stay float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arithmetic == "bf16", cache_enabled=False):
        yield


def numeric_profile(model: ModelSpec, batch: int, arithmetic: str = "f32", library: str = "") -> str:
    """This machine's profile for training ``model`` on batches of ``batch`` sequences, with a ``library``'s help."""
    isa = torch.backends.cpu.get_cpu_capability().lower()
    name = f"torch-{torch.__version__}/{platform.machine()}/{isa}/{arithmetic}/threads-1"
    return f"{name}/probe-{_probe(model, batch, arithmetic)}{library and '/'}{library}"


@lru_cache(maxsize=16)
def _probe(model: ModelSpec, batch: int, arithmetic: str) -> str:
    """Hash of loss and gradient at weights and tokens that integer arithmetic fixes; costs one training step."""
    pin()
    count = parameter_count(model)
    mixed = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)
    weights = torch.from_numpy((mixed.astype(np.float32) - 2.0**23) * 2.0**-26).clone().requires_grad_()
    tokens = torch.arange(batch * (model.context + 1)) * 2_654_435_761 % 1_000_003 % model.vocab
    tokens = tokens.view(batch, -1)
    with computing(arithmetic):
        logits, _ = forward(model, weights, tokens[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, model.vocab), tokens[:, 1:].reshape(-1))
    (gradient,) = torch.autograd.grad(loss, weights)
    return tagged("probe", loss.detach().numpy().tobytes(), gradient.numpy().tobytes()).hex()[:16]


def require_profile(
    wanted: str, model: ModelSpec, batch: int, arithmetic: str = "f32", library: str = ""
) -> None:
    """Raise E1601 unless this machine computes in the profile that a spec pins."""
    here = numeric_profile(model, batch, arithmetic, library)
    if wanted != here:
        raise CommonweightError(
            "E1601",
            f"the task is pinned to numeric profile {wanted}, this machine has {here}",
            "honest results would be judged wrong here; take a task of this machine's profile",
        )
