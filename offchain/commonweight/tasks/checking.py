"""The check of a work, shared by validators, jurors, self-checks and spectators: pure but for fetching artifacts.

Questions come in the order of their cost: does the commitment hang together, is it bound to the lease, does the update
follow from the end state; then, for each drawn segment, are data, observation and computation right. A fault is named
by the one leaf that shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .. import toploc
from ..core import codec, fixed, merkle
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import Spec
from ..core.verdict import Outcome, Verdict
from ..core.works import (
    TREE_HEADER,
    TREE_STEPS,
    TREE_TRAJECTORIES,
    TREE_UPDATE,
    WITHHELD,
    Header,
    Meta,
    StepLeaf,
    TrajectoryLeaf,
    unpack,
)
from ..diloco.inner import SegmentResult, TrainState, run_segment, state_bytes
from ..models import parameter_count
from .base import Fetch
from .lease import Lease, batches_hash, segment_batches, tokens_hash
from .pretrain import require_trainable, start_state

META_BYTES = 4096
NOT_SERVED = "E1502"
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
    evidence: Counter[str]

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
    """A commitment whose parts fit together."""

    header: Header
    steps: tuple[StepLeaf, ...]
    trajectories: tuple[TrajectoryLeaf, ...]


def check(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    root: bytes,
    segments: Iterable[int],
    fetch: Fetch,
) -> Verdict:
    """Verdict on a work after replaying the drawn ``segments``.

    ``fetch(root, max_bytes)`` gives bytes whose Merkle root was verified, or raises `CommonweightError`: E1502 when
    nobody serves them, E1103 when they are longer than ``max_bytes``.
    """
    case = Case(spec, data, base, lease, root, fetch, Counter())
    drawn = tuple(segments)

    def body() -> None:
        if not drawn or len(set(drawn)) != len(drawn) or not set(drawn) <= set(range(spec.training.segments)):
            raise CommonweightError("E1605", f"{drawn} are no segments to draw of {spec.training.segments}")
        opened = open_work(case)
        for index in range(len(opened.steps)):
            check_chain(case, opened, index)
        check_update(case, opened)
        for index in drawn:
            check_trajectory(case, opened, index, replay(case, opened, index))

    return _judged(case, body)


def judge_leaf(
    spec: Spec, data: bytes, base: ModelVersion, lease: Lease, root: bytes, tree: int, leaf: int, fetch: Fetch
) -> Verdict:
    """A juror's verdict: is exactly this leaf valid?

    ``leaf`` is `WITHHELD` - 1 or more when data was said to be missing. ``fetch`` as for `check`.
    """
    case = Case(spec, data, base, lease, root, fetch, Counter())

    def body() -> None:
        opened = open_work(case)
        if leaf >= WITHHELD - 1:
            check_available(case, opened)
        elif tree == TREE_UPDATE:
            check_update(case, opened, leaf)
        elif tree == TREE_STEPS and leaf < spec.training.segments:
            check_chain(case, opened, leaf)
            replay(case, opened, leaf)
        elif tree == TREE_TRAJECTORIES and leaf < spec.training.segments:
            check_trajectory(case, opened, leaf, rerun(case, opened, leaf))

    return _judged(case, body)


def _judged(case: Case, body: Callable[[], None]) -> Verdict:
    """Run a check; every way it can end is a verdict."""
    try:
        require_trainable(case.spec)
        body()
    except Fault as fault:
        return _verdict(case, Outcome.INVALID, str(fault), fault.tree, fault.leaf)
    except CommonweightError as error:
        kind = Outcome.WITHHELD if error.code == NOT_SERVED else Outcome.ERROR
        return _verdict(case, kind, str(error))
    except Exception as error:  # the boundary of a verdict: our own failure is never the trainer's
        return _verdict(case, Outcome.ERROR, f"{type(error).__name__}: {error}")
    return _verdict(case, Outcome.VALID, "all checks passed")


def _verdict(case: Case, outcome: Outcome, reason: str, tree: int = 0, leaf: int = 0) -> Verdict:
    return Verdict(outcome, reason, tree, leaf, tuple(sorted(case.evidence.items())))


def open_work(case: Case) -> Opened:
    """Header, meta and traces, bound to the lease and to each other."""
    spec = case.spec
    count = spec.training.segments
    try:
        header = Header.decode(case.read(case.root, merkle.LEAF, TREE_HEADER, 0))
        meta = codec.decode(Meta, case.read(header.meta_root, META_BYTES, TREE_HEADER, 0))
        require(
            header.step_count == header.trajectory_count == count, "the header does not list every segment"
        )
        lanes = fixed.padded(parameter_count(spec.model))
        require(header.update_length == lanes, "the update has another length than the model")
        bind(case, meta)
        size = count * merkle.LEAF
        steps = unpack(StepLeaf, case.read(header.step_root, size, TREE_HEADER, 0), count)
        trajectories = unpack(TrajectoryLeaf, case.read(header.trajectory_root, size, TREE_HEADER, 0), count)
    except EncodingError as error:
        raise Fault(TREE_HEADER, 0, f"malformed commitment: {error.message}") from error
    require(meta.end_state == steps[-1].post, "the end state is not the one of the last segment")
    case.evidence["leaves"] += 2 * count
    return Opened(header, steps, trajectories)


def check_chain(case: Case, opened: Opened, index: int) -> None:
    """A segment starts where the one before ended; the first one starts from the base version."""
    before = start_state(case.spec, case.base).root if index == 0 else opened.steps[index - 1].post
    if opened.steps[index].pre != before:
        reason = "the base version's state" if index == 0 else "where the one before ended"
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
        profile=spec.verification.profile,
    )
    for name in Meta.__dataclass_fields__:
        require(getattr(meta, name) == getattr(wanted, name), f"the work is bound to another {name}")


def _state(case: Case, root: bytes, tree: int, leaf: int) -> TrainState:
    count = parameter_count(case.spec.model)
    try:
        return TrainState.decode(case.read(root, state_bytes(count), tree, leaf), count)
    except EncodingError as error:
        raise Fault(tree, leaf, f"malformed state: {error.message}") from error


def check_update(case: Case, opened: Opened, only: int | None = None) -> None:
    """The update is exactly the quantised difference of base and end state (in leaf ``only``, if given)."""
    count = parameter_count(case.spec.model)
    end = _state(case, opened.steps[-1].post, TREE_STEPS, len(opened.steps) - 1)
    try:
        update = fixed.decode_update(
            case.read(opened.header.update_root, 4 * fixed.padded(count), TREE_UPDATE, 0), count
        )
        right = fixed.make_update(case.base.weights, end.theta.numpy(), case.spec.merge)
    except EncodingError as error:
        raise Fault(TREE_UPDATE, 0, f"malformed update: {error.message}") from error
    wrong = (update != right).nonzero()[0] // fixed.LANES_PER_LEAF
    if wrong.size and (only is None or only in wrong):
        leaf = int(wrong[0]) if only is None else only
        raise Fault(TREE_UPDATE, leaf, "the update is not the one of the end state")
    case.evidence["update_lanes"] += count


def replay(case: Case, opened: Opened, index: int) -> SegmentResult:
    """Replay one segment from the trainer's own pre-state; the post-state must be equal bit for bit."""
    leaf = opened.steps[index]
    if leaf.batch != batches_hash(segment_batches(case.spec, case.data, case.lease.seed, index)):
        raise Fault(TREE_STEPS, index, "the segment used other data than the lease's seed gives")
    result = rerun(case, opened, index)
    if result.state.root != leaf.post:
        raise Fault(TREE_STEPS, index, "replaying the segment gives another state")
    if result.loss != leaf.loss:
        raise Fault(TREE_STEPS, index, f"the segment's loss is {result.loss:.6f}, not {leaf.loss:.6f}")
    case.evidence["segments"] += 1
    return result


def rerun(case: Case, opened: Opened, index: int) -> SegmentResult:
    """Compute one segment from the committed pre-state on the lease's data, whatever the trainer claims of it."""
    spec = case.spec
    batches = segment_batches(spec, case.data, case.lease.seed, index)
    if index == 0:
        state = start_state(spec, case.base)
    else:
        state = _state(case, opened.steps[index].pre, TREE_STEPS, index)
    case.evidence["steps"] += len(batches)
    return run_segment(spec.model, spec.training, state, batches, index * spec.training.segment)


def check_trajectory(case: Case, opened: Opened, index: int, result: SegmentResult) -> None:
    """Tokens and activation proof of a segment's first forward pass against the verifier's own hidden states."""
    spec, leaf = case.spec, opened.trajectories[index]
    v = spec.verification
    first = segment_batches(spec, case.data, case.lease.seed, index)[0]
    tokens = first.shape[0] * (first.shape[1] - 1)
    chunks = toploc.chunk_count(tokens, v.chunk)
    if leaf.tokens != tokens_hash(first) or leaf.count != tokens:
        raise Fault(TREE_TRAJECTORIES, index, "the trajectory holds other tokens than the lease's seed gives")
    raw = case.read(leaf.proof, chunks * (2 + 2 * v.topk), TREE_TRAJECTORIES, index)
    try:
        stats = toploc.verify(result.hidden, toploc.decode(raw, v.topk, chunks), v.topk, v.chunk)
    except EncodingError as error:
        raise Fault(TREE_TRAJECTORIES, index, f"malformed activation proof: {error.message}") from error
    if (
        stats.exponent_mismatches > v.max_exponent_mismatches
        or stats.mantissa_mean > v.max_mantissa_mean
        or stats.sign_mismatches > v.max_sign_mismatches
    ):
        raise Fault(TREE_TRAJECTORIES, index, f"the activation proof does not match: {stats}")
    case.evidence["proof_chunks"] += stats.chunks


def check_available(case: Case, opened: Opened) -> None:
    """Every artifact that the work names can be fetched."""
    check_update(case, opened)
    v, context = case.spec.verification, case.spec.model.context
    chunks = toploc.chunk_count(case.spec.training.batch * context, v.chunk)
    for step, trajectory in zip(opened.steps, opened.trajectories, strict=True):
        _state(case, step.post, TREE_STEPS, step.index)
        case.read(trajectory.proof, chunks * (2 + 2 * v.topk), TREE_TRAJECTORIES, trajectory.index)
