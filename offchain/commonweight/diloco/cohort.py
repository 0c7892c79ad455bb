"""A cohort: members with one common state, who merge their pseudo-gradients and take one outer step each round.

Reduce-scatter, then all-gather, at the cost of a ring all-reduce: a member sends shard s of its compressed
pseudo-gradient to the owner of s; owners merge and send the compressed result to all. Two-bit messages with feedback:
arXiv 2505.23725. With a lossless codec and the mean this is DiLoCo (arXiv 2311.08105) in integers, `core.fixed.merge`.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Mapping

import numpy as np

from ..core import fixed
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import MergeSpec
from . import outer
from .aggregate import Aggregator, Gram, add_grams, gram_matrix
from .compress import Compressor, ErrorFeedback
from .local import InnerLoop
from .rounds import MAX_TOKENS, Int64, Messages, Plan, Report, Round, Tamper, honest

_HEAD = struct.Struct("<I")
_GRAM_BYTES = 12  # squares of up to 2**28 lanes of 31 bits


def shard_bounds(count: int, members: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    """Which part ``[begin, end)`` of the flat vector each member owns: near-equal, in whole leaves of the tree."""
    leaves = -(-count // fixed.LANES_PER_LEAF)
    cut = [min(count, leaves * k // len(members) * fixed.LANES_PER_LEAF) for k in range(len(members) + 1)]
    return {member: (cut[k], cut[k + 1]) for k, member in enumerate(members)}


class ShardMissing(CommonweightError):
    """A round that cannot be finished here (E1705): the state must come from a member that could."""

    def __init__(self, owner: int) -> None:
        super().__init__(
            "E1705", f"the merged shard of member {owner} did not arrive", "recover from another member"
        )


class CohortWorker:
    """A member of a cohort; see the module. ``decay``: error feedback's, in 256ths."""

    def __init__(
        self,
        index: int,
        inner: InnerLoop,
        version: ModelVersion,
        rule: MergeSpec,
        codecs: tuple[Compressor, Compressor],
        aggregator: Aggregator,
        *,
        decay: int = 256,
        tamper: Tamper = honest,
    ) -> None:
        self.index, self.inner, self.version, self.rule = index, inner, version, rule
        self.aggregator, self.tamper = aggregator, tamper
        self.up = ErrorFeedback(codecs[0], version.weights.size, decay)
        self.down = ErrorFeedback(codecs[1], version.weights.size)

    def round(self, plan: Plan) -> Round:
        """Train, exchange, step. Raises `ShardMissing` when a shard of the merged gradient did not arrive."""
        result = self.inner.run(outer.weights_of(self.version, self.rule), plan.steps, plan.progress)
        delta = self.tamper(outer.pseudo_gradient(self.version, result.trained, self.rule))
        bounds = shard_bounds(delta.size, plan.members)
        shards = self.up.encode(delta, tuple(bounds.values()))
        head = _HEAD.pack(min(result.tokens, MAX_TOKENS))
        outgoing = {member: head + shard for member, shard in zip(bounds, shards, strict=True)}
        arrived = yield {m: p for m, p in outgoing.items() if m != self.index}
        begin, end = bounds[self.index]
        rows, weights = self._decode(plan, {**arrived, self.index: outgoing[self.index]}, end - begin)
        gram = yield from self._gram(plan, rows)
        merged = np.zeros(delta.size, dtype=np.int64)
        merged[begin:end] = self.aggregator.combine(rows, weights, gram)
        (payload,) = self.down.encode(merged, ((begin, end),))
        arrived = yield {m: payload for m in plan.members if m != self.index}
        gradient = self._assemble({**arrived, self.index: payload}, bounds)
        self.version = fixed.outer_step(self.version, gradient, self.rule)
        return Report(result.tokens, result.loss, self.version.root)

    def abandon(self) -> None:
        """The round failed: take back what the error feedback believes to have sent."""
        self.up.roll_back()
        self.down.roll_back()

    def _decode(self, plan: Plan, arrived: Messages, count: int) -> tuple[Int64, list[int]]:
        """Lanes ``(members, count)`` and token weights; what is absent or does not decode weighs nothing."""
        rows, weights = np.zeros((len(plan.members), count), dtype=np.int64), [0] * len(plan.members)
        for k, member in enumerate(plan.members):
            message = arrived.get(member, b"")
            try:
                rows[k] = self.up.compressor.decode(message[_HEAD.size :], count)
                weights[k] = min(_HEAD.unpack_from(message)[0], MAX_TOKENS)
            except (EncodingError, struct.error):
                rows[k] = 0
        return rows, weights

    def _gram(self, plan: Plan, rows: Int64) -> Generator[Messages, Messages, Gram | None]:
        """Gram matrix of the whole messages: owners publish that of their shard, everybody sums the same numbers."""
        if not self.aggregator.needs_gram:
            return None
        payload = pack_gram(gram_matrix(rows))
        arrived = yield {m: payload for m in plan.members if m != self.index}
        parts = [unpack_gram(p, len(plan.members)) for p in (*arrived.values(), payload)]
        return add_grams(parts)

    def _assemble(self, arrived: Messages, bounds: Mapping[int, tuple[int, int]]) -> Int64:
        gradient = np.zeros(self.version.weights.size, dtype=np.int64)
        for owner, (begin, end) in bounds.items():
            if owner not in arrived:
                raise ShardMissing(owner)
            gradient[begin:end] = self.down.compressor.decode(arrived[owner], end - begin)
        return gradient


def pack_gram(gram: Gram) -> bytes:
    """Lower triangle, row by row, signed little-endian."""
    numbers = (gram[i][j] for i in range(len(gram)) for j in range(i + 1))
    return b"".join(n.to_bytes(_GRAM_BYTES, "little", signed=True) for n in numbers)


def unpack_gram(data: bytes, k: int) -> Gram:
    """Strict inverse of `pack_gram` for ``k`` messages. Raises `EncodingError`."""
    if len(data) != _GRAM_BYTES * k * (k + 1) // 2:
        raise EncodingError(f"a Gram matrix of {k} messages has another length than {len(data)}")
    out, at = [[0] * k for _ in range(k)], 0
    for i in range(k):
        for j in range(i + 1):
            out[i][j] = out[j][i] = int.from_bytes(data[at : at + _GRAM_BYTES], "little", signed=True)
            at += _GRAM_BYTES
    return out
