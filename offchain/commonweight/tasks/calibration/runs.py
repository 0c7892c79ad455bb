"""Segments of training run honestly in other ways, and run by cheats: the same interface, from state to state.

Losses: ``supervised`` (cross-entropy) and ``rl`` (cross-entropy weighted by signed advantages, one a sequence), which
is the harder one, as its gradients nearly cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...core.spec import ModelSpec, TrainingSpec
from ...diloco.inner import TrainState, _adamw
from ...models import computing, forward, shapes

Tokens = np.ndarray
Gradient = Callable[[Tensor, "Batch"], Tensor]


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens uint8 ``(batch, context + 1)`` and advantages float32 ``(batch,)`` of one step."""

    tokens: Tokens
    advantages: np.ndarray

    def pick(self, rows: slice | list[int]) -> Batch:
        """Some of the sequences."""
        return Batch(self.tokens[rows], self.advantages[rows])


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs of one comparison share."""

    model: ModelSpec
    training: TrainingSpec
    loss: str = "supervised"
    arithmetic: str = "f32"


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment to run: from ``state``, ``batches`` in order; what a cheat may also know of the run's past."""

    setting: Setting
    state: TrainState
    batches: tuple[Batch, ...]
    first: int
    before: TrainState
    others: tuple[Batch, ...]


Run = Callable[[Segment], TrainState]


def loss_of(s: Setting, theta: Tensor, batch: Batch, forward_theta: Tensor | None = None) -> Tensor:
    """Sum over tokens of the loss, so that parts of a batch add up."""
    tokens = torch.from_numpy(batch.tokens.astype(np.int64))
    logits, _ = forward(s.model, theta if forward_theta is None else forward_theta, tokens[:, :-1])
    each = F.cross_entropy(logits.reshape(-1, s.model.vocab), tokens[:, 1:].reshape(-1), reduction="none")
    if s.loss == "rl":
        each = each * torch.from_numpy(np.repeat(batch.advantages, tokens.shape[1] - 1))
    return each.sum()


def gradient(s: Setting, theta: Tensor, batch: Batch, parts: int = 1) -> Tensor:
    """Mean gradient of a batch, accumulated over ``parts`` micro-batches."""
    count = batch.tokens.shape[0] * (batch.tokens.shape[1] - 1)
    total = torch.zeros_like(theta)
    size = -(-len(batch.tokens) // parts)
    for at in range(0, len(batch.tokens), size):
        weights = theta.detach().requires_grad_()
        with computing(s.arithmetic):
            loss = loss_of(s, weights, batch.pick(slice(at, at + size))) / count
        total += torch.autograd.grad(loss, weights)[0]
    return total


def advance(
    segment: Segment,
    batches: Sequence[Batch] | None = None,
    compute: Gradient | None = None,
    training: TrainingSpec | None = None,
    skip: frozenset[int] = frozenset(),
) -> TrainState:
    """Run a segment's steps; each argument is something that a variant or a cheat does in its own way."""
    s = segment.setting
    compute = compute or (lambda theta, batch: gradient(s, theta, batch))
    state = segment.state
    theta, m, v = state.theta.clone(), state.m.clone(), state.v.clone()
    for i, batch in enumerate(segment.batches if batches is None else batches):
        if i not in skip:
            _adamw(training or s.training, theta, m, v, compute(theta, batch), segment.first + i + 1)
    return TrainState(theta, m, v)


# -- honest, but not bit for bit ---------------------------------------------------------------------------------


def _parts(count: int) -> Run:
    def run(segment: Segment) -> TrainState:
        s = segment.setting
        return advance(segment, compute=lambda theta, batch: gradient(s, theta, batch, count))

    return run


def _math_attention(segment: Segment) -> TrainState:
    with sdpa_kernel(SDPBackend.MATH):
        return advance(segment)


@contextmanager
def without_onednn() -> Iterator[None]:
    """Matrix products by the plain BLAS. The public switch also touches settings of absent devices, and warns."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def _no_onednn(segment: Segment) -> TrainState:
    with without_onednn():
        return advance(segment)


def _two_threads(segment: Segment) -> TrainState:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return advance(segment)
    finally:
        torch.set_num_threads(before)


HONEST: dict[str, Run] = {
    "run again": advance,
    "two threads": _two_threads,
    "4 micro-batches": _parts(4),
    "one sequence at a time": _parts(1 << 20),
    "math attention": _math_attention,
    "without oneDNN": _no_onednn,
}


# -- cheats ------------------------------------------------------------------------------------------------------


def _shorten(change: Callable[[Batch], Batch]) -> Run:
    return lambda segment: advance(segment, [change(batch) for batch in segment.batches])


def _masked(segment: Segment) -> TrainState:
    """Only the last layer is trained: no full backward pass."""
    s = segment.setting
    last = f"{s.model.layers - 1}."
    mask = torch.cat(
        [torch.full((int(np.prod(shape)),), float(name.startswith(last))) for name, shape in shapes(s.model)]
    )
    return advance(segment, compute=lambda theta, batch: gradient(s, theta, batch) * mask)


def _momentum(segment: Segment) -> TrainState:
    return advance(segment, compute=lambda theta, batch: torch.zeros_like(theta))


def _copy(segment: Segment) -> TrainState:
    """A peer's result on its own data, with one per cent of noise so that it is not found out as a copy."""
    return noisy(segment.state, advance(segment, segment.others), 0.01)


def noisy(start: TrainState, end: TrainState, share: float) -> TrainState:
    """Add noise of ``share`` of the parameter delta's norm."""
    noise = torch.randn(end.theta.shape, generator=torch.Generator().manual_seed(5))
    size = share * torch.linalg.vector_norm(end.theta - start.theta) / torch.linalg.vector_norm(noise)
    return TrainState(end.theta + size * noise, end.m, end.v)


def _one_wrong(segment: Segment) -> TrainState:
    batches = list(segment.batches)
    batches[len(batches) // 2] = segment.others[0]
    return advance(segment, batches)


def _stale(segment: Segment) -> TrainState:
    """Gradients at the parameters of one step before, as an asynchronous pipeline would have them."""
    s, previous = segment.setting, segment.before.theta

    def compute(theta: Tensor, batch: Batch) -> Tensor:
        nonlocal previous
        found = gradient(s, previous, batch)
        previous = theta.clone()
        return found

    return advance(segment, compute=compute)


def _previous_delta(segment: Segment) -> TrainState:
    """No gradient at all: the change of the step before is handed in again, once a step."""
    moved = segment.state.theta - segment.before.theta
    return replace(segment.state, theta=segment.state.theta + len(segment.batches) * moved)


def _skip_last(segment: Segment) -> TrainState:
    return advance(segment, skip=frozenset({len(segment.batches) - 1}))


def _swapped(segment: Segment) -> TrainState:
    """The first two batches in the other order; of a lone batch the next one is taken."""
    if len(segment.batches) == 1:
        return advance(segment, segment.others[:1])
    a, b, *rest = segment.batches
    return advance(segment, [b, a, *rest])


def _rate(factor: float) -> Run:
    def run(segment: Segment) -> TrainState:
        training = segment.setting.training
        return advance(segment, training=replace(training, lr=factor * training.lr))

    return run


def _unclipped(segment: Segment) -> TrainState:
    return advance(segment, training=replace(segment.setting.training, clip=1e9))


def _extrapolated(segment: Segment) -> TrainState:
    """One real step, the others assumed to be like it."""
    s = segment.state
    one = advance(segment, segment.batches[:1])
    n = len(segment.batches)
    if n == 1:
        return _previous_delta(segment)
    theta, m, v = (
        a + n * (b - a) for a, b in zip((s.theta, s.m, s.v), (one.theta, one.m, one.v), strict=True)
    )
    return TrainState(theta, m, v.clamp_min(0))


def _interpolated(segment: Segment) -> TrainState:
    """A point on the line between two ends of a round, without running this segment (a spoof of Proof-of-Learning)."""
    far = advance(segment, [*segment.batches, *segment.others])
    share = len(segment.batches) / (len(segment.batches) + len(segment.others))
    a, b = segment.state, far
    return TrainState(
        a.theta + share * (b.theta - a.theta), a.m + share * (b.m - a.m), a.v + share * (b.v - a.v)
    )


def _quantised(bits: int) -> Run:
    """Forward and backward with weights rounded to ``bits`` bits, rows scaled by their largest value."""

    def run(segment: Segment) -> TrainState:
        s = segment.setting
        return advance(
            segment, compute=lambda theta, batch: gradient(s, quantise(s.model, theta, bits), batch)
        )

    return run


def quantise(model: ModelSpec, theta: Tensor, bits: int) -> Tensor:
    """Weights rounded to ``bits`` bits, every row of a matrix by its own scale."""
    out, at = theta.clone(), 0
    for _, shape in shapes(model):
        size = int(np.prod(shape))
        if len(shape) == 2:
            rows = theta[at : at + size].view(shape)
            scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
            out[at : at + size] = (torch.round(rows / scale) * scale).reshape(-1)
        at += size
    return out


def _advantages(change: Callable[[np.ndarray], np.ndarray]) -> Run:
    def one(batch: Batch) -> Batch:
        return Batch(batch.tokens, change(batch.advantages.copy()).astype(np.float32))

    return _shorten(one)


def _swap_rollout(segment: Segment) -> TrainState:
    batches = []
    for batch, other in zip(
        segment.batches, [*segment.others, *segment.others][: len(segment.batches)], strict=True
    ):
        tokens = batch.tokens.copy()
        tokens[0] = other.tokens[0]
        batches.append(Batch(tokens, batch.advantages))
    return advance(segment, batches)


def _set_first(value: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    def change(advantages: np.ndarray) -> np.ndarray:
        at = int(np.abs(advantages).argmax())
        advantages[at] = value(float(advantages[at]))
        return advantages

    return change


SAVES: dict[str, Run] = {
    "all sequences but one": _shorten(lambda b: b.pick(slice(0, len(b.tokens) - 1))),
    "half batch": _shorten(lambda b: b.pick(slice(0, len(b.tokens) // 2))),
    "half sequence length": _shorten(
        lambda b: Batch(b.tokens[:, : b.tokens.shape[1] // 2 + 1], b.advantages)
    ),
    "only the last layer trained": _masked,
    "no backward, momentum only": _momentum,
    "wrong data": lambda segment: advance(segment, segment.others),
    "a peer's copy with 1 % noise": _copy,
    "one wrong batch": _one_wrong,
    "stale by one step": _previous_delta,
    "last step skipped": _skip_last,
    "batch order swapped": _swapped,
    "learning rate x 0.5": _rate(0.5),
    "learning rate x 0.9": _rate(0.9),
    "interpolated": _interpolated,
    "extrapolated": _extrapolated,
}
"""Cheats that save work or take other work than the lease's; all must be caught."""

SAVES_RL: dict[str, Run] = {
    "one advantage flipped": _advantages(_set_first(lambda a: -a)),
    "one advantage zeroed": _advantages(_set_first(lambda a: 0.0)),
    "one rollout swapped": _swap_rollout,
}
"""The same for a policy gradient."""

SLIGHT: dict[str, Run] = {
    "learning rate x 0.99": _rate(0.99),
    "clipping off": _unclipped,
    "gradients one step old": _stale,
    "int8 weights in the forward pass": _quantised(8),
    "noise, 0.1 % of the delta": lambda segment: noisy(segment.state, advance(segment), 0.001),
    "noise, 1 % of the delta": lambda segment: noisy(segment.state, advance(segment), 0.01),
    "noise, 10 % of the delta": lambda segment: noisy(segment.state, advance(segment), 0.1),
}
"""Deviations that save nothing on a processor; where they fall is reported and decides nothing."""
