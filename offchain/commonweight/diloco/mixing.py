"""The integer-exact mixing step of a sparse task: one replica, its own training, the committed states of neighbours.

A mixing step names what went in: the replica's previous version, its trained state, and each neighbour's trained state
with its weight. From those anyone gets the next version bit for bit, and the chain can repeat any single lane, so a
wrong mix is refuted as a wrong merge is.

Per lane, with x the previous weights, y the trained ones, y_j a neighbour's, a_j / d its Metropolis weight, m the
momentum and rule = (l_n / l_d, b_n / b_d); division is floor division::

    c  = (sum_j a_j (y_j - y)) // d
    g  = x - y - c
    m' = b_n m // b_d + g
    x' = x - l_n (g + b_n m' // b_d) // l_d

Method: DiLoCo's outer step around a gossip step, the form of GASLoC (arXiv 2606.11081); on the complete graph with
equal weights it is DiLoCo's (arXiv 2311.08105) up to one floor per lane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..core import codec, fixed, merkle
from ..core.codec import B32, U32
from ..core.errors import EncodingError
from ..core.fixed import Lanes, ModelVersion
from ..core.spec import MergeSpec

Int64 = npt.NDArray[np.int64]
# Sixteen bits of weight times 33 bits of difference stay far below 63 bits; 16 neighbours fit one 1 KiB leaf.
MAX_DENOMINATOR = 2**16
MAX_NEIGHBOURS = 16


@dataclass(frozen=True, slots=True)
class MixLeaf:
    """What a mixing step commits to, one Merkle leaf: roots in, root out, integer weights over one denominator.

    ``own`` and ``states`` name trained states (`fixed.to_bytes` of int32 weights), ``base`` and ``result`` versions.
    Neighbours ascend, so one step has one encoding.
    """

    round: U32
    node: U32
    base: B32
    own: B32
    denominator: U32
    neighbours: tuple[U32, ...]
    numerators: tuple[U32, ...]
    states: tuple[B32, ...]
    result: B32

    def __post_init__(self) -> None:
        check_weights(dict(zip(self.neighbours, self.numerators, strict=False)), self.denominator)
        lengths = {len(self.neighbours), len(self.numerators), len(self.states)}
        if len(lengths) != 1 or list(self.neighbours) != sorted(set(self.neighbours) - {self.node}):
            raise EncodingError(
                "a mixing step names each neighbour once, ascending, with one weight and one state"
            )

    def encode(self) -> bytes:
        """Canonical bytes."""
        return codec.encode(self)

    @property
    def leaf(self) -> bytes:
        """The whole Merkle leaf: canonical bytes, then zeros."""
        return self.encode().ljust(merkle.LEAF, b"\x00")

    @staticmethod
    def of(leaf: bytes) -> MixLeaf:
        """Strict inverse of `leaf`. Raises `EncodingError`."""
        at = 2 * 4 + 2 * 32 + 4  # where the number of neighbours stands
        count = int.from_bytes(leaf[at : at + 4], "big")
        size = at + 3 * 4 + count * (4 + 4 + 32) + 32
        if len(leaf) != merkle.LEAF or count > MAX_NEIGHBOURS or any(leaf[size:]):
            raise EncodingError("no mixing step stands in this leaf")
        return MixLeaf.decode(leaf[:size])

    @staticmethod
    def decode(data: bytes) -> MixLeaf:
        """Strict inverse of `encode`. Raises `EncodingError`."""
        return codec.decode(MixLeaf, data)


def check_weights(numerators: Mapping[int, int], denominator: int) -> None:
    """Raise `EncodingError` unless the weights are positive, sum to at most one and fit the arithmetic."""
    if not 1 <= denominator <= MAX_DENOMINATOR or len(numerators) > MAX_NEIGHBOURS:
        raise EncodingError(
            f"a mix has at most {MAX_NEIGHBOURS} neighbours and denominator {MAX_DENOMINATOR}"
        )
    if any(a < 1 for a in numerators.values()) or sum(numerators.values()) > denominator:
        raise EncodingError("mixing weights are positive and sum to at most one")


def pull(
    own: Int64 | Lanes, states: Mapping[int, Int64 | Lanes], weights: Mapping[int, int], denominator: int
) -> Int64:
    """``c``: where the neighbours pull, int64 lanes ``(n,)``. Missing states count as agreement."""
    check_weights(weights, denominator)
    total = np.zeros(own.shape, dtype=np.int64)
    mine = own.astype(np.int64)
    for node, state in states.items():
        total += weights[node] * (state.astype(np.int64) - mine)
    return total // denominator


def mix(
    base: ModelVersion,
    trained: Lanes,
    states: Mapping[int, Lanes],
    weights: Mapping[int, int],
    denominator: int,
    rule: MergeSpec,
) -> ModelVersion:
    """Next version of a replica. Exact: the same bits on any machine, in any order of neighbours.

    All lanes int32 ``(n,)``. Raises `EncodingError` on weights out of range or states of another size.
    """
    if any(s.shape != base.weights.shape for s in (trained, *states.values())) or set(states) != set(weights):
        raise EncodingError("every neighbour of a mix has one weight and one state of the model's size")
    c = pull(trained, states, weights, denominator)
    return fixed.outer_step(base, base.weights.astype(np.int64) - trained - c, rule)


def mix_lane(
    weights: int,
    momentum: int,
    trained: int,
    states: list[tuple[int, int]],
    denominator: int,
    rule: MergeSpec,
) -> tuple[int, int]:
    """One lane of `mix` in plain integers, as a contract repeats it; ``states`` holds (weight, lane) pairs."""
    c = sum(a * (lane - trained) for a, lane in states) // denominator
    g = weights - trained - c
    new = rule.momentum_num * momentum // rule.momentum_den + g
    step = rule.lr_num * (g + rule.momentum_num * new // rule.momentum_den) // rule.lr_den
    low, high = -(2**31), 2**31 - 1
    return min(max(weights - step, low), high), min(max(new, low), high)


def commit(
    round_: int,
    node: int,
    base: ModelVersion,
    trained: Lanes,
    states: Mapping[int, Lanes],
    weights: Mapping[int, int],
    denominator: int,
    rule: MergeSpec,
) -> tuple[MixLeaf, ModelVersion]:
    """Mix, and the leaf that commits to it."""
    result = mix(base, trained, states, weights, denominator, rule)
    order = tuple(sorted(states))
    leaf = MixLeaf(
        round_,
        node,
        base.root,
        state_root(trained),
        denominator,
        order,
        tuple(weights[j] for j in order),
        tuple(state_root(states[j]) for j in order),
        result.root,
    )
    return leaf, result


def state_root(trained: Lanes) -> bytes:
    """Name of a committed trained state."""
    return merkle.root(fixed.to_bytes(trained))


def first_wrong_lane(
    leaf: MixLeaf,
    base: ModelVersion,
    trained: Lanes,
    states: Mapping[int, Lanes],
    claimed: ModelVersion,
    rule: MergeSpec,
) -> int | None:
    """Index of the first lane in which ``claimed`` is not the mix that ``leaf`` names, or None if it is right.

    The lane is what a challenger opens on-chain. Raises `EncodingError` when the data do not have the leaf's roots.
    """
    named = dict(zip(leaf.neighbours, leaf.states, strict=True))
    have = (base.root, state_root(trained), claimed.root, {j: state_root(s) for j, s in states.items()})
    if have != (leaf.base, leaf.own, leaf.result, named):
        raise EncodingError("the states do not have the roots that the mixing step names")
    weights = dict(zip(leaf.neighbours, leaf.numerators, strict=True))
    right = mix(base, trained, states, weights, leaf.denominator, rule)
    wrong = (right.weights != claimed.weights) | (right.momentum != claimed.momentum)
    return int(np.argmax(wrong)) if wrong.any() else None


def final_merge(replicas: Mapping[int, ModelVersion]) -> ModelVersion:
    """The task's last version: the floor mean of the replicas' weights; momentum ends with the task."""
    if not replicas:
        raise EncodingError("there is no replica to merge")
    total = np.sum([v.weights for v in replicas.values()], axis=0, dtype=np.int64)
    weights: Lanes = np.floor_divide(total, len(replicas)).astype(np.int32)
    return ModelVersion(weights, np.zeros_like(weights))
