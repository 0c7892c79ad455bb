"""Between floats and the integer world: pseudo-gradients, their lanes, and the integer outer step.

Only the inner steps are floating point. Pseudo-gradients and decoded messages are int64 lanes in units of
``2**-weight_bits``; merging and the outer step are integer (`core.fixed`), so every member of a swarm, and the chain,
gets the same bits in whatever order messages arrive. (Sum order alone changes most elements of a float average.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..core.errors import CommonweightError
from ..core.fixed import ModelVersion, dequantise_weights, quantise_weights
from ..core.spec import MergeSpec

Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

# DiLoCo's outer Nesterov step, learning rate 0.7 and momentum 0.9 (arXiv 2311.08105, section 3.1).
NESTEROV = MergeSpec(update_shift=0)
# SparseLoCo's plain outer step, for top-k messages (arXiv 2508.15706): momentum diverges with them.
PLAIN = MergeSpec(update_shift=0, lr_num=1, lr_den=1, momentum_num=0, momentum_den=1)


def start(weights: Floats, rule: MergeSpec = NESTEROV) -> ModelVersion:
    """A model version without momentum from float32 weights ``(n,)``."""
    lanes = quantise_weights(weights, rule.weight_bits)
    return ModelVersion(lanes, np.zeros_like(lanes))


def weights_of(version: ModelVersion, rule: MergeSpec) -> Floats:
    """Float32 weights that the inner loop starts from."""
    return dequantise_weights(version.weights, rule.weight_bits)


def pseudo_gradient(version: ModelVersion, trained: Floats, rule: MergeSpec) -> Int64:
    """``version - trained`` as int64 lanes; weights beyond the fixed-point range are clipped to it.

    Raises E1604 when training diverged: such work cannot be merged.
    """
    if not np.isfinite(trained).all():
        raise CommonweightError(
            "E1604", "training diverged: weights are not finite", "the task needs a lower training.lr"
        )
    limit = np.nextafter(np.float32(2.0 ** (31 - rule.weight_bits)), np.float32(0))
    return version.weights.astype(np.int64) - quantise_weights(
        np.clip(trained, -limit, limit), rule.weight_bits
    )
