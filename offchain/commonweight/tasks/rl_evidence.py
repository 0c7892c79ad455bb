"""What one teacher-forced pass says of trajectories: were these tokens chosen, by this policy, with this noise?

The same pass serves the activation proofs, the replay of the sampling and the log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import toploc
from ..core.errors import EncodingError
from ..core.spec import RlSpec, VerificationSpec
from ..rl.engine import Policy
from ..rl.trajectories import Trajectory
from ..toploc import sampling as seeded
from ..toploc.noise import gumbel, row_keys

BLOCK_TOKENS = 1 << 15
ROUNDED, DISPLACED = 1, 8
"""What a value weighs in a proof's score that is a unit of its mantissa off, or whose exponent is (`toploc.verify`)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Per trajectory: worst margin of a token behind the replayed choice and worst error of a log-probability, float64
    ``(rows,)``; ``hidden[i]``: hidden states that trajectory i's tokens were sampled from, laid out in proof chunks."""

    margin: npt.NDArray[np.float64]
    logprob_error: npt.NDArray[np.float64]
    hidden: list[Tensor]


def examine(policy: Policy, rows: Sequence[Trajectory], rl: RlSpec, chunk: int) -> Evidence:
    """Look at trajectories with the policy that should have played them."""
    margin, error = np.zeros(len(rows)), np.zeros(len(rows))
    hidden: list[Tensor] = [torch.empty(0)] * len(rows)
    for block in _blocks(rows):
        states = policy.hidden_states(_fill([rows[i] for i in block]))
        for at, i in enumerate(block):
            hidden[i] = states[at, rows[i].prompt.size - 1 + np.flatnonzero(rows[i].mask)]
        _score(policy, rows, block, hidden, rl, margin, error)
    return Evidence(margin, error, [_chunked(h, r, chunk) for h, r in zip(hidden, rows, strict=True)])


def prove(policy: Policy, rows: Sequence[Trajectory], rl: RlSpec, v: VerificationSpec) -> list[Trajectory]:
    """Trajectories that another engine played, with activation proofs from one pass of our own."""
    out = []
    for row, hidden in zip(rows, examine(policy, rows, rl, v.chunk).hidden, strict=True):
        proof = toploc.encode(toploc.build(hidden.bfloat16(), v.topk, v.chunk)) if hidden.numel() else b""
        out.append(replace(row, proof=proof))
    return out


def _score(
    policy: Policy,
    rows: Sequence[Trajectory],
    block: list[int],
    hidden: list[Tensor],
    rl: RlSpec,
    margin: npt.NDArray[np.float64],
    error: npt.NDArray[np.float64],
) -> None:
    """Margins and errors of the log-probabilities of a block of trajectories, in place."""
    owner = np.repeat(block, [int(rows[i].mask.sum()) for i in block])
    if not owner.size:
        return
    tokens = np.concatenate([rows[i].tokens[rows[i].mask == 1] for i in block]).astype(np.int64)
    claimed = np.concatenate([rows[i].logprobs[rows[i].mask == 1] for i in block])
    sizes = [int(rows[i].mask.sum()) for i in block]
    sequence = np.repeat(np.array([rows[i].key for i in block], dtype=np.uint64), sizes)
    keys = row_keys(sequence, np.concatenate([np.arange(size) for size in sizes]))
    logits = policy.logits(torch.cat([hidden[i] for i in block])).float()
    best = seeded.choose(logits.numpy(), keys, seeded.Sampling(rl.temperature))[1]
    scaled = logits / rl.temperature
    picked = scaled.gather(1, torch.from_numpy(tokens)[:, None])[:, 0]
    score = picked.numpy().astype(np.float64) + gumbel(keys, tokens)
    np.maximum.at(margin, owner, best - score)
    logprob = (picked - torch.logsumexp(scaled, dim=1)).numpy()
    np.maximum.at(error, owner, np.abs(logprob - claimed).astype(np.float64))


def _blocks(rows: Sequence[Trajectory]) -> Iterator[list[int]]:
    """Trajectories of like length together, at most `BLOCK_TOKENS` in a block with its filler."""
    lengths = [r.prompt.size + r.tokens.size for r in rows]
    block: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: lengths[i]):
        if block and (len(block) + 1) * lengths[i] > BLOCK_TOKENS:
            yield block
            block = []
        block.append(i)
    if block:
        yield block


def _fill(rows: Sequence[Trajectory]) -> Tensor:
    longest = max(r.prompt.size + r.tokens.size for r in rows)
    out = np.zeros((len(rows), longest), dtype=np.int64)
    for at, r in enumerate(rows):
        out[at, : r.prompt.size] = r.prompt
        out[at, r.prompt.size : r.prompt.size + r.tokens.size] = r.tokens
    return torch.from_numpy(out)


def turns(mask: npt.NDArray[np.uint8]) -> list[int]:
    """Lengths of the runs of sampled tokens."""
    if mask.size and mask.all():
        return [mask.size]
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return (edges[1::2] - edges[::2]).tolist()


def proof_chunks(mask: npt.NDArray[np.uint8], chunk: int) -> int:
    """Activation proofs of a trajectory: every turn of the policy starts a chunk of its own."""
    return sum(-(-length // chunk) for length in turns(mask))


def _chunked(hidden: Tensor, row: Trajectory, chunk: int) -> Tensor:
    """Hidden states with zeros behind each turn up to a whole chunk."""
    parts, at = [], 0
    for length in turns(row.mask):
        part = hidden[at : at + length]
        parts.append(torch.nn.functional.pad(part, (0, 0, 0, -length % chunk)))
        at += length
    return torch.cat(parts) if parts else hidden


def proofs_fit(hidden: Sequence[Tensor], rows: Sequence[Trajectory], v: VerificationSpec) -> bool:
    """True when all proofs fit, judged together for speed; False means that they must be judged one by one."""
    counts = [h.shape[0] // v.chunk for h in hidden]
    try:
        proofs = toploc.decode(b"".join(r.proof for r in rows), v.topk, sum(counts))
        stats = toploc.verify(torch.cat(list(hidden)), proofs, v.topk, v.chunk)
    except EncodingError:
        return False
    # No trajectory's score can exceed the sum of all, nor that of a chunk with the worst of everything.
    worst = stats.mantissa_mean + DISPLACED * stats.exponent_mismatches / v.topk
    most = min(worst, stats.score * sum(counts))
    return not toploc.fault(replace(stats, score=most), v.topk, edged(v, max(counts)))


def proof_length(row: Trajectory, v: VerificationSpec) -> int:
    """Bytes that a trajectory's proof must have."""
    return proof_chunks(row.mask, v.chunk) * (2 + 2 * v.topk)


def edged(v: VerificationSpec, chunks: int) -> VerificationSpec:
    """Thresholds that an honest rollout of few tokens keeps too.

    Decoding with a cache and a full pass differ by 1e-6, which is enough to round a value that lies between two the
    other way: a unit of its mantissa, or its exponent at a power of two, or its place among the largest. Where there
    are few values, two of the first sort and one of the others weigh more than the shares that a spec allows.
    """
    return replace(
        v,
        max_mantissa_mean=max(v.max_mantissa_mean, 2 / max(1, v.topk - 1)),
        max_proof_score=max(v.max_proof_score, (2 * ROUNDED + DISPLACED) / (v.topk * chunks)),
        max_exponent_mismatches=max(v.max_exponent_mismatches, 1),
        max_sign_mismatches=max(v.max_sign_mismatches, 1),
    )


def misfit(hidden: Tensor, row: Trajectory, v: VerificationSpec) -> str:
    """Why one trajectory's proof does not fit; empty when it does."""
    chunks = hidden.shape[0] // v.chunk
    try:
        proofs = toploc.decode(row.proof, v.topk, chunks)
        found = toploc.fault(toploc.verify(hidden, proofs, v.topk, v.chunk), v.topk, edged(v, chunks))
    except EncodingError as error:
        return f"malformed activation proof: {error.message}"
    return f"the activation proof does not match: {found}" if found else ""
