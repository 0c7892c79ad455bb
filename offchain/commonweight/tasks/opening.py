"""A work as a judge reads it: what was committed, whether it hangs together, and whose lease it is bound to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core import codec, fixed, merkle
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import Spec
from ..core.works import (
    META_BYTES,
    NONE,
    TREE_HEADER,
    TREE_STEPS,
    Header,
    Meta,
    StepLeaf,
    TrajectoryLeaf,
    unpack,
)
from ..models import parameter_count
from .base import Fetch
from .lease import Lease, shares
from .pretrain import profile_here, start_state

TOO_LARGE = "E1103"


class Fault(Exception):
    """The work is wrong at one leaf."""

    def __init__(self, tree: int, leaf: int, reason: str) -> None:
        super().__init__(reason)
        self.tree = tree
        self.leaf = leaf


@dataclass(slots=True)
class Case:
    """Everything a judge is given about one work, and what it has looked at so far."""

    spec: Spec
    data: bytes
    base: ModelVersion
    lease: Lease
    root: bytes
    fetch: Fetch
    evidence: Counter[str] = field(default_factory=Counter)
    measures: dict[str, float] = field(default_factory=dict)

    def measure(self, name: str, value: float) -> None:
        """Keep the largest of a measured distance."""
        self.measures[name] = max(value, self.measures.get(name, 0.0))

    def read(self, root: bytes, limit: int, tree: int, leaf: int) -> bytes:
        """An artifact; one larger than it can be is the fault of the leaf that names it."""
        try:
            data = self.fetch(root, limit)
        except CommonweightError as error:
            if error.code == TOO_LARGE:
                raise Fault(tree, leaf, error.message) from error
            raise
        self.evidence["bytes"] += len(data)
        return data


@dataclass(frozen=True, slots=True)
class Opened:
    """A commitment whose parts fit together; ``exact``: it was computed in this machine's numeric profile.

    ``start``: root of the base version's state, from which the first segment of each of the ``shares`` starts; one
    share is one machine's. ``mix``: the leaf behind the segments', where a sparse task's work has one.
    """

    header: Header
    meta: Meta
    exact: bool
    steps: tuple[StepLeaf, ...]
    trajectories: tuple[TrajectoryLeaf, ...]
    start: bytes = b""
    shares: tuple[range, ...] = ()
    mix: bytes = b""

    def place(self, index: int) -> int:
        """How many segments the machine that computed segment ``index`` had done before it."""
        return index - next(share.start for share in self.shares if index in share)


def open_work(case: Case) -> Opened:
    """Header, meta and traces, bound to the lease and to each other."""
    spec = case.spec
    count = spec.training.segments
    try:
        header = Header.decode(case.read(case.root, merkle.LEAF, TREE_HEADER, 0))
        meta = codec.decode(Meta, case.read(header.meta_root, META_BYTES, TREE_HEADER, 0))
        more = bool(case.lease.mix)
        complete = header.step_count - more == header.trajectory_count == count
        require(complete, "the header does not list every segment" + " and the mixing step" * more)
        size = 4 * fixed.padded(parameter_count(spec.model))
        require(header.update_length == size, "the update has another length than the model")
        bind(case, meta)
        size = count * merkle.LEAF
        listed = case.read(header.step_root, size + len(case.lease.mix), TREE_HEADER, 0)
        leaves, mix = unpack(StepLeaf, listed[:size], count), listed[size:]
        trajectories = unpack(TrajectoryLeaf, case.read(header.trajectory_root, size, TREE_HEADER, 0), count)
    except EncodingError as error:
        raise Fault(TREE_HEADER, 0, f"malformed commitment: {error.message}") from error
    require(meta.end_state == leaves[-1].post, "the end state is not the one of the last segment")
    case.evidence["leaves"] += 2 * count
    start = start_state(case.spec, case.base).root
    exact = meta.profile == profile_here(spec)
    return Opened(header, meta, exact, leaves, trajectories, start, layout(spec, leaves, start), mix)


def layout(spec: Spec, leaves: Sequence[StepLeaf], start: bytes) -> tuple[range, ...]:
    """How a work's segments were shared out, by those that start from the base version. Total: more machines than the
    task allows count as one, so that the second of them is the leaf at fault."""
    members = sum(leaf.pre == start for leaf in leaves)
    return shares(len(leaves), members if 1 <= members <= spec.exchange.cell else 1)


def check_mix(case: Case, opened: Opened) -> None:
    """The mixing step names the committed states of the neighbours, their weights, and the replica that follows."""
    if opened.mix != case.lease.mix:
        raise Fault(
            TREE_STEPS,
            len(opened.steps),
            "the mixing step is not the one of the neighbours' committed states",
        )
    case.evidence["mixes"] += bool(opened.mix)


def check_chain(case: Case, opened: Opened, index: int) -> None:
    """A segment starts where the one before ended; the first one of a share starts from the base version."""
    first = opened.place(index) == 0
    if opened.steps[index].pre != (opened.start if first else opened.steps[index - 1].post):
        reason = "the base version's state" if first else "where the one before ended"
        raise Fault(TREE_STEPS, index, f"the segment does not start from {reason}")


def require(ok: bool, reason: str) -> None:
    if not ok:
        raise Fault(TREE_HEADER, 0, reason)


def bind(case: Case, meta: Meta) -> None:
    lease, spec = case.lease, case.spec
    wanted = Meta(
        chain_id=lease.chain_id,
        tasks=lease.tasks,
        task=lease.task,
        round=lease.round,
        slot=lease.slot,
        trainer=lease.trainer,
        spec=spec.root,
        base=lease.base,
        seed=lease.seed,
        end_state=meta.end_state,
        blinding=meta.blinding,
        # Where no distance is tolerated, only the pinned profile can have computed it.
        profile=meta.profile if spec.verification.tolerance else spec.verification.profile,
        sketches=meta.sketches,
        sources=lease.sources,
        wire=meta.wire,
        residual=meta.residual,
        previous=lease.previous if meta.previous != NONE else NONE,
    )
    for name in Meta.__dataclass_fields__:
        require(getattr(meta, name) == getattr(wanted, name), f"the work is bound to another {name}")
