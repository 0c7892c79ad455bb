"""The merge of the model: what a proof of one lane shows, and what that lane has to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from commonweight.core import merkle
from tests.reference import merge

from .world import Revert

LANES = merkle.LEAF // 4


def parsed_leaf(proof: bytes, at: int) -> tuple[bytes, int]:
    """The packed leaf at ``at`` and where it ends; what stands behind the proof reads as zeros."""
    data = proof + bytes(2 * merkle.LEAF)
    bits = data[at]
    if bits > 32:
        raise Revert("BadLeafBits", bits)
    body = data[at + 1 : at + 1 + 32 * bits]
    if bits == 32:
        return body, at + 1 + merkle.LEAF
    spread = np.unpackbits(np.frombuffer(body, dtype=np.uint8)).reshape(LANES, bits).astype(np.int64)
    lanes = (spread << np.arange(bits - 1, -1, -1)).sum(axis=1) - (1 << bits >> 1)
    return lanes.astype("<i4").tobytes(), at + 1 + 32 * bits


def climbed(leaf: bytes, length: int, index: int, proof: bytes, at: int) -> tuple[bytes, int]:
    """Root over a leaf and the siblings from ``at`` on, and where they end."""
    top, width = merkle.leaf_hash(leaf), merkle.leaf_count(length)
    while width > 1:
        if index & 1 or index + 1 < width:
            sibling = (proof + bytes(merkle.LEAF))[at : at + 32]
            top = merkle.node_hash(sibling, top) if index & 1 else merkle.node_hash(top, sibling)
            at += 32
        index, width = index >> 1, (width + 1) // 2
    return merkle.bind(length, top), at


@dataclass(slots=True)
class Claim:
    """One lane of a proposed version, and what the chain knows of its making."""

    rule: Mapping[str, int]
    base: bytes
    proposed: bytes
    roots: Sequence[bytes]
    late: Sequence[bool]
    leaf: int
    lane: int

    def right(self, proof: bytes) -> bool:
        """Twin of ``Exact.right``. Raises `Revert` where an opening does not belong to its place."""
        length = self.rule["length"]
        half = length // merkle.LEAF
        pos = self.leaf if self.leaf < half else self.leaf - half
        shown, at = self._read(self.proposed, 2 * length, self.leaf, proof, 0, 0)
        momentum, at = self._read(self.base, 2 * length, half + pos, proof, at, 1)
        weight = 0
        if self.leaf < half:
            weight, at = self._read(self.base, 2 * length, pos, proof, at, 2)
        updates = []
        for i, root in enumerate(self.roots):
            update, at = self._read(root, length, pos, proof, at, 3 + i)
            updates.append(np.array([update]))
        if at != len(proof):
            raise Revert("BadProof", at, len(proof))
        r = self.rule
        rule = merge.Rule(r["shift"], r["trim"], r["lrNum"], r["lrDen"], r["momentumNum"], r["momentumDen"])
        new = merge.merge(np.array([weight]), np.array([momentum]), updates, self.late, rule)
        return bool(shown == new[self.leaf >= half][0])

    def _read(
        self, root: bytes, length: int, index: int, proof: bytes, at: int, place: int
    ) -> tuple[int, int]:
        if index >= merkle.leaf_count(length):
            raise Revert("BadOpening", place)
        leaf, at = parsed_leaf(proof, at)
        found, at = climbed(leaf, length, index, proof, at)
        if found != root:
            raise Revert("BadOpening", place)
        return int(np.frombuffer(leaf, dtype="<i4")[self.lane]), at
