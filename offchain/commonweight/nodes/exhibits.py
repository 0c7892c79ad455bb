"""What is shown to the chain: headers and single leaves with their Merkle paths, as the contracts' structs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core import merkle
from ..core.state import Round, Task
from ..core.works import (
    TREE_HEADER,
    TREE_STEPS,
    TREE_TRAJECTORIES,
    TREE_UPDATE,
    WITHHELD,
    Header,
    TrajectoryLeaf,
    unpack,
)
from .lineage import Lineage

Read = Callable[[bytes, int], bytes]
Opening = tuple[bytes, list[bytes]]
NOTHING: Opening = (b"", [])
LANES = merkle.LEAF // 4


def fields(header: Header) -> tuple[Any, ...]:
    """``Types.Header``."""
    return (
        header.update_root,
        header.update_length,
        header.trajectory_root,
        header.trajectory_count,
        header.step_root,
        header.step_count,
        header.meta_root,
    )


def opening(artifact: bytes, leaf: int) -> Opening:
    """``Types.Opening`` of one leaf."""
    found = merkle.open_leaf(artifact, leaf)
    return found.leaf, list(found.path)


def accused_leaf(header: Header, tree: int, leaf: int, read: Read) -> Opening:
    """The leaf that a dispute is about; nothing where there is no such leaf, or where it is the header itself."""
    lengths = {
        TREE_UPDATE: (header.update_root, header.update_length),
        TREE_TRAJECTORIES: (header.trajectory_root, header.trajectory_count * merkle.LEAF),
        TREE_STEPS: (header.step_root, header.step_count * merkle.LEAF),
    }
    if leaf == WITHHELD or tree == TREE_HEADER or tree not in lengths:
        return NOTHING
    root, length = lengths[tree]
    return opening(read(root, length), leaf) if leaf < merkle.leaf_count(length) else NOTHING


def first_difference(right: bytes, proposed: bytes) -> tuple[int, int] | None:
    """(leaf, lane) of the first lane in which two versions of one length differ; None when there is none."""
    if len(right) != len(proposed):
        return None
    apart = (np.frombuffer(right, dtype="<i4") != np.frombuffer(proposed, dtype="<i4")).nonzero()[0]
    return divmod(int(apart[0]), LANES) if apart.size else None


def packed_leaf(leaf: bytes) -> bytes:
    """A leaf of 256 int32 lanes as ``Tree.unpack`` reads it: how many bits a lane needs, then the lanes in so many.

    Each lane plus half of its range, most significant bit first; 32 bits: the leaf as it is.
    """
    lanes = np.frombuffer(leaf, dtype="<i4").astype(np.int64)
    bits = max(0 if not x else int(x if x > 0 else ~x).bit_length() + 1 for x in (lanes.min(), lanes.max()))
    if bits == 32:
        return b"\x20" + leaf
    shifted = lanes + (1 << bits >> 1)
    spread = (shifted[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return bytes([bits]) + np.packbits(spread.astype(np.uint8)).tobytes()


def packed(shown: Opening) -> bytes:
    """A leaf and its siblings, as they stand in the proof of a merge."""
    leaf, path = shown
    return packed_leaf(leaf) + b"".join(path)


def merge_proof(
    lineage: Lineage, task: Task, round_: Round, proposed: bytes, leaf: int, lane: int
) -> tuple[int, int, bytes]:
    """Leaf, lane and proof for ``proveMerge``: one lane of the version ``proposed``, and what makes it."""
    before = task.model_before(round_.index)
    if before is None:
        raise AssertionError("a round with a proposal follows a settled one")
    half = task.rule["length"] // merkle.LEAF
    at = leaf % half
    base = lineage.whole(task, before).encode()
    parts = [packed(opening(proposed, leaf)), packed(opening(base, half + at))]
    if leaf < half:
        parts.append(packed(opening(base, at)))
    for work in round_.included:
        parts.append(packed(opening(lineage.update(task, work), at)))
    return leaf, lane, b"".join(parts)


def decoy_proof(header: Header, index: int, read: Callable[[bytes], bytes]) -> tuple[Any, ...]:
    """``Types.DecoyProof``: trajectory ``index`` and the first leaf of the activation proof that it names."""
    listed = read(header.trajectory_root)
    named = unpack(TrajectoryLeaf, listed, header.trajectory_count)[index].proof
    proof = read(named)
    return opening(listed, index), len(proof), opening(proof, 0)
