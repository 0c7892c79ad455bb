"""A lease shared out among the machines of a cell: each computes a run of segments from the base version on.

The leaves are those of any work, on the data that the lease prescribes, so each machine's segments are audited like a
single trainer's. Only the starts differ: every share begins at the base version with zero moments, as in a DiLoCo
round (arXiv 2311.08105), and the update is the integer mean of what the machines reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..collectives.cell import Cell, Job
from ..core import codec, merkle
from ..core.codec import B20, B32, U16, U32, U64
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import Spec
from .lease import Checkpoint, Lease, Product, Record, shares
from .pretrain import (
    Compute,
    assemble_shares,
    own_share,
    parameters,
    profile_here,
    require_trainable,
    run_share,
)

Done = list[tuple[bytes, Record]]


@dataclass(frozen=True, slots=True)
class ShareOrder:
    """What an assistant is asked for: segments ``first`` to ``end``, exclusive, of a lease, in the leader's profile."""

    chain_id: U64
    tasks: B20
    task: U64
    round: U32
    slot: U16
    trainer: B20
    base: B32
    seed: B32
    spec: B32
    data: B32
    profile: str
    first: U32
    end: U32

    @property
    def lease(self) -> Lease:
        """The lease."""
        return Lease(
            self.chain_id,
            self.tasks,
            self.task,
            self.round,
            self.slot,
            self.trainer,
            self.base,
            self.seed,
        )


def work(body: bytes, artifacts: Mapping[bytes, bytes], compute: Compute | None = None) -> Iterator[bytes]:
    """An assistant's part: the pieces of one share. Raises E1601 where it computes in another numeric profile."""
    order = codec.decode(ShareOrder, body)
    try:
        spec, data = Spec.decode(artifacts[order.spec]), artifacts[order.data]
        base = ModelVersion.decode(artifacts[order.base], parameters(spec))
    except KeyError:
        raise EncodingError("an order names artifacts that its job does not") from None
    require_trainable(spec)
    if profile_here(spec) != order.profile:
        raise CommonweightError(
            "E1601",
            f"this machine computes in {profile_here(spec)}, the leader of its cell in {order.profile}",
            "machines of one cell must be alike",
        )
    share = range(order.first, min(order.end, spec.training.segments))
    for state, record in run_share(spec, data, base, order.lease, share, compute=compute):
        yield _piece(state, record)


def train(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    *,
    blinding: bytes,
    checkpoint: Checkpoint | None = None,
    cell: Cell,
) -> Product:
    """Train one lease with the machines of ``cell``; with fewer where the task allows fewer, or has fewer segments.

    Shares that ``checkpoint`` holds whole are not computed again. Raises as `pretrain.train`.
    """
    require_trainable(spec)
    members = min(cell.size, spec.exchange.cell, spec.training.segments)
    parts = shares(spec.training.segments, members)
    kept = _kept(spec, data, base, lease, parts, checkpoint)
    missing = [k for k in range(members) if k not in kept]
    profile = profile_here(spec)
    artifacts = {
        piece: body for body in (spec.encode(), data, base.encode()) for piece in [merkle.root(body)]
    }
    named = (spec.root, spec.data_root, base.root)
    jobs = [Job(codec.encode(_order(spec, lease, profile, parts[k])), named) for k in missing]
    for k, pieces in zip(missing, cell.run(jobs, artifacts, work), strict=True):
        share = parts[k]
        kept[k] = own_share(spec, data, base, lease, share, _rows(pieces))
        if len(kept[k]) < len(share):  # what an assistant sent is not even a share
            cell.metric("share_repeated", first=share.start, end=share.stop)
            kept[k] += run_share(spec, data, base, lease, share, kept[k])
        if checkpoint:
            for state, record in kept[k]:
                checkpoint.save(record.step.index, state, record.encode())
    done = [pair for k in range(members) for pair in kept[k]]
    return assemble_shares(spec, base, lease, done, members, blinding)


def _kept(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    parts: tuple[range, ...],
    checkpoint: Checkpoint | None,
) -> dict[int, Done]:
    """Shares that a checkpoint holds whole."""
    rows: dict[int, tuple[bytes, Record]] = {}
    for state, raw in checkpoint.load() if checkpoint else []:
        try:
            record = Record.decode(raw)
        except EncodingError:
            continue
        rows[record.step.index] = (state, record)
    found = {}
    for k, share in enumerate(parts):
        whole = own_share(spec, data, base, lease, share, [rows[i] for i in share if i in rows])
        if len(whole) == len(share):
            found[k] = whole
    return found


def _order(spec: Spec, lease: Lease, profile: str, share: range) -> ShareOrder:
    return ShareOrder(
        chain_id=lease.chain_id,
        tasks=lease.tasks,
        task=lease.task,
        round=lease.round,
        slot=lease.slot,
        trainer=lease.trainer,
        base=lease.base,
        seed=lease.seed,
        spec=spec.root,
        data=spec.data_root,
        profile=profile,
        first=share.start,
        end=share.stop,
    )


def _piece(state: bytes, record: Record) -> bytes:
    return len(state).to_bytes(8, "big") + state + record.encode()


def _split(piece: bytes) -> tuple[bytes, Record]:
    """Inverse of `_piece`. Raises `EncodingError`."""
    cut = 8 + int.from_bytes(piece[:8], "big")
    return piece[8:cut], Record.decode(piece[cut:])


def _rows(pieces: list[bytes]) -> Done:
    """Pieces up to the first that is none."""
    rows: Done = []
    for piece in pieces:
        try:
            rows.append(_split(piece))
        except EncodingError:
            break
    return rows
