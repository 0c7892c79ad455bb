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


def merge_proof(
    lineage: Lineage, task: Task, round_: Round, proposed: bytes, leaf: int, lane: int
) -> tuple[Any, ...]:
    """``Types.MergeProof``: one lane of the version ``proposed``, and what it has to be made from."""
    before = task.model_before(round_.index)
    if before is None:
        raise AssertionError("a round with a proposal follows a settled one")
    half = task.rule["length"] // merkle.LEAF
    at = leaf % half
    base = lineage.whole(task, before).encode()
    works = round_.included
    return (
        leaf,
        lane,
        opening(proposed, leaf),
        opening(base, at) if leaf < half else NOTHING,
        opening(base, half + at),
        [fields(lineage.header(work)) for work in works],
        [opening(lineage.update(task, work), at) for work in works],
    )


def decoy_proof(header: Header, index: int, read: Callable[[bytes], bytes]) -> tuple[Any, ...]:
    """``Types.DecoyProof``: trajectory ``index`` and the first leaf of the activation proof that it names."""
    listed = read(header.trajectory_root)
    named = unpack(TrajectoryLeaf, listed, header.trajectory_count)[index].proof
    proof = read(named)
    return opening(listed, index), len(proof), opening(proof, 0)
