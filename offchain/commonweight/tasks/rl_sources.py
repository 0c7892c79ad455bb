"""The accepted rollout works that a lease also learns from: fetched by root, bounded, and read with distrust.

A quorum vouched for each of them, so nothing is replayed here; but a quorum may lie, and what nobody could learn from
is left out by everybody alike.
"""

from __future__ import annotations

from dataclasses import replace

from ..core import merkle
from ..core.errors import CommonweightError, EncodingError
from ..core.spec import Spec
from ..core.works import Header, TrajectoryLeaf, unpack
from ..rl.trajectories import Columns, Trajectory
from .base import Fetch
from .lease import Lease

TOKEN_BYTES = 9
ROW_BYTES = 64


def rows_per_segment(spec: Spec) -> int:
    """Trajectories that a segment plays."""
    return spec.training.segment * spec.training.batch * spec.rl.oversample


def columns_limit(spec: Spec) -> int:
    """Bytes that a segment's trajectories can have."""
    # One chunk per token is more proofs than there can be.
    row = ROW_BYTES + spec.model.context * (TOKEN_BYTES + 4 + 2 + 2 * spec.verification.topk)
    return 64 + rows_per_segment(spec) * row


def gathered(spec: Spec, lease: Lease, fetch: Fetch) -> Lease:
    """The lease with the trajectories of its sources. Raises E1612 when somebody else does not serve them."""
    if not lease.sources or lease.contents:
        return lease
    try:
        contents = [piece for root in lease.sources for piece in _pieces(spec, root, fetch)]
    except CommonweightError as error:
        raise CommonweightError(
            "E1612", f"the accepted rollouts of another lease are not to be had: {error.message}"
        ) from error
    return replace(lease, contents=tuple(contents))


def _pieces(spec: Spec, root: bytes, fetch: Fetch) -> list[bytes]:
    """One artifact per segment; empty ones for a work that is none."""
    segments, size = spec.training.segments, rows_per_segment(spec)
    try:
        header = Header.decode(fetch(root, merkle.LEAF))
        count = segments * size
        leaves = unpack(TrajectoryLeaf, fetch(header.trajectory_root, count * merkle.LEAF), count)
    except EncodingError:
        return [b""] * segments
    return [fetch(leaves[i * size].proof, columns_limit(spec)) for i in range(segments)]


def of_segment(spec: Spec, lease: Lease, index: int) -> list[list[Trajectory]]:
    """What each source has for segment ``index``; nothing where it is unfit."""
    if len(lease.contents) != len(lease.sources) * spec.training.segments:
        raise AssertionError("the sources of a lease are gathered before it is trained or checked")
    return [_rows(spec, piece) for piece in lease.contents[index :: spec.training.segments]]


def _rows(spec: Spec, piece: bytes) -> list[Trajectory]:
    try:
        rows = Columns.decode(piece).rows()
    except EncodingError:
        return []
    return rows if len(rows) == rows_per_segment(spec) and all(_fits(spec, row) for row in rows) else []


def _fits(spec: Spec, row: Trajectory) -> bool:
    """The model can read it, and something was asked."""
    size, vocab = row.prompt.size + row.tokens.size, spec.model.vocab
    known = all(
        0 <= int(part.min(initial=0)) <= int(part.max(initial=0)) < vocab for part in (row.prompt, row.tokens)
    )
    return row.prompt.size > 0 and size <= spec.model.context and known
