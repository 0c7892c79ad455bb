"""The check of a work, shared by validators, jurors, self-checks and spectators: pure but for fetching artifacts.

Questions come in the order of their cost: does the commitment hang together, is it bound to the lease; are data and
tokens of the drawn segments the lease's, are their proofs well formed; does the update follow from the end state, do
the sketches add up to it; and only then, for each drawn segment, are observation and computation right. A fault is
named by the one leaf that shows it.

Work of the checker's own numeric profile must replay bit for bit. Work of another one, where the spec tolerates that,
must stay within its tolerance: by the sketch of the segment, and by every chunk of its end state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import toploc
from ..core import merkle
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import Spec
from ..core.verdict import Outcome, Verdict
from ..core.works import TREE_HEADER, TREE_STEPS, TREE_TRAJECTORIES, TREE_UPDATE, WITHHELD
from ..diloco.inner import SegmentResult, TrainState, state_bytes
from ..models import parameter_count
from ..toploc import steps
from ..toploc.steps import SKETCH_BYTES, Sketch
from .base import Fetch
from .lease import Lease, batches_hash, segment_batches, tokens_hash
from .opening import Case, Fault, Opened, check_chain, check_mix, open_work, require
from .pretrain import plain, require_trainable, run, sketch_segment, start_state
from .updates import Update

Weights = npt.NDArray[np.float32]
NOT_SERVED = "E1502"
SAME_SKETCH = 1e-4
"""Distance of two sketches of the very same state: float32 sums in another order."""
SPREAD = 8.0
"""How many times a checker's own two roundings of a segment may lie apart, another machine's may from ours."""
FLOOR = 0.05
"""Share of the tolerance that is granted however little our own roundings differ."""


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
    case = Case(spec, data, base, lease, root, fetch)
    drawn = tuple(segments)

    def body() -> None:
        if not drawn or len(set(drawn)) != len(drawn) or not set(drawn) <= set(range(spec.training.segments)):
            raise CommonweightError("E1605", f"{drawn} are no segments to draw of {spec.training.segments}")
        opened = open_work(case)
        check_mix(case, opened)
        for index in range(len(opened.steps)):
            check_chain(case, opened, index)
        proofs = {}
        for index in drawn:
            check_data(case, opened, index)
            proofs[index] = read_proofs(case, opened, index)
        ends = end_states(case, opened)
        update = update_of(case, opened, ends)
        update.check_lanes()
        update.check_names()
        sketches = check_sketches(case, opened, ends)
        for index in drawn:
            result = replay(case, opened, index, sketches[index])
            check_activations(case, index, result, proofs[index])

    return _judged(case, body)


def judge_leaf(
    spec: Spec, data: bytes, base: ModelVersion, lease: Lease, root: bytes, tree: int, leaf: int, fetch: Fetch
) -> Verdict:
    """A juror's verdict: is exactly this leaf valid?

    ``leaf`` is `WITHHELD` - 1 or more when data was said to be missing. ``fetch`` as for `check`.
    """
    case = Case(spec, data, base, lease, root, fetch)

    def body() -> None:
        opened = open_work(case)
        if leaf >= WITHHELD - 1:
            check_available(case, opened)
        elif tree == TREE_HEADER:
            ends = end_states(case, opened)
            check_sketches(case, opened, ends)
            update_of(case, opened, ends).check_names()
        elif tree == TREE_UPDATE:
            update_of(case, opened, end_states(case, opened)).check_lanes(leaf)
        elif tree == TREE_STEPS and leaf < spec.training.segments:
            check_chain(case, opened, leaf)
            check_data(case, opened, leaf)
            replay(case, opened, leaf, read_sketches(case, opened)[leaf])
        elif tree == TREE_STEPS and leaf == spec.training.segments:
            check_mix(case, opened)
        elif tree == TREE_TRAJECTORIES and leaf < spec.training.segments:
            proofs = read_proofs(case, opened, leaf)
            check_activations(case, leaf, rerun(case, opened, leaf)[1], proofs)

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
    counts, measures = sorted(case.evidence.items()), sorted(case.measures.items())
    return Verdict(outcome, reason, tree, leaf, tuple(counts), tuple(measures))


def _state(case: Case, root: bytes, tree: int, leaf: int) -> TrainState:
    count = parameter_count(case.spec.model)
    try:
        return TrainState.decode(case.read(root, state_bytes(count), tree, leaf), count)
    except EncodingError as error:
        raise Fault(tree, leaf, f"malformed state: {error.message}") from error


def end_states(case: Case, opened: Opened) -> Weights:
    """The weights behind the last segment of each machine's share, as committed: float32 ``(machines, n)``."""
    last = [share[-1] for share in opened.shares]
    return np.stack([_state(case, opened.steps[i].post, TREE_STEPS, i).theta.numpy() for i in last])


def update_of(case: Case, opened: Opened, ends: Weights) -> Update:
    """The committed update beside the one that the end state gives, or the mean of the ends of a cell's machines."""
    if len(ends) > 1:
        case.evidence["cell_members"] += len(ends)
    return Update.of(case, opened.header, opened.meta, ends)


def read_sketches(case: Case, opened: Opened) -> list[Sketch]:
    """The committed sketches of all segments."""
    raw = case.read(opened.meta.sketches, len(opened.steps) * SKETCH_BYTES, TREE_HEADER, 0)
    try:
        if len(raw) != len(opened.steps) * SKETCH_BYTES:
            raise EncodingError(f"{len(opened.steps)} segments have other sketches than {len(raw)} bytes")
        return [Sketch.decode(raw[i : i + SKETCH_BYTES]) for i in range(0, len(raw), SKETCH_BYTES)]
    except EncodingError as error:
        raise Fault(TREE_HEADER, 0, f"malformed sketches: {error.message}") from error


def check_sketches(case: Case, opened: Opened, ends: Weights) -> list[Sketch]:
    """The segments' sketches add up to the way from the base version to the end state, or of a cell's machines'."""
    sketches = read_sketches(case, opened)
    start = start_state(case.spec, case.base).theta.numpy()
    reached = np.sum(ends, axis=0, dtype=np.float64) - (len(ends) - 1) * start.astype(np.float64)
    ok = steps.adds_up(sketches, start, reached.astype(np.float32), case.lease.seed)
    require(ok, "the segments' sketches do not add up to the work")
    case.evidence["sketches"] += len(sketches)
    return sketches


def check_data(case: Case, opened: Opened, index: int) -> None:
    """A segment's batches are those that the lease's seed gives."""
    if opened.steps[index].batch != batches_hash(
        segment_batches(case.spec, case.data, case.lease.seed, index)
    ):
        raise Fault(TREE_STEPS, index, "the segment used other data than the lease's seed gives")


def replay(case: Case, opened: Opened, index: int, claimed: Sketch) -> SegmentResult:
    """Replay one segment from the trainer's own pre-state and compare where it ends.

    Within this machine's profile states are equal bit for bit; else within the spec's tolerance.
    """
    leaf = opened.steps[index]
    before, result = rerun(case, opened, index)
    if opened.exact:
        apart = _from_sketch(case, before, result.state, claimed)
        case.measure("step_distance", apart)
        if result.state.root != leaf.post:
            raise Fault(TREE_STEPS, index, "replaying the segment gives another state")
        if result.loss != leaf.loss:
            raise Fault(TREE_STEPS, index, f"the segment's loss is {result.loss:.6f}, not {leaf.loss:.6f}")
        _require_sketch(index, apart)
    else:
        _compare(case, opened, index, before, result, claimed)
    case.evidence["segments"] += 1
    return result


def _from_sketch(case: Case, before: TrainState, after: TrainState, claimed: Sketch) -> float:
    """How far the committed sketch is from the one of these states."""
    return steps.distance(claimed, Sketch.decode(sketch_segment(case.lease, before, after)))


def _require_sketch(index: int, apart: float) -> None:
    if apart > SAME_SKETCH:
        raise Fault(TREE_STEPS, index, "the segment's sketch is not the one of its states")


def _compare(
    case: Case, opened: Opened, index: int, before: TrainState, result: SegmentResult, claimed: Sketch
) -> None:
    """Across profiles: how far the end states are apart, the loss, and every chunk of the end state."""
    tolerance = _bound(case, index, opened.place(index), before, result)
    leaf = opened.steps[index]
    post = _state(case, leaf.post, TREE_STEPS, index)
    _require_sketch(index, _from_sketch(case, before, post, claimed))
    theta = before.theta.numpy()
    apart = steps.true_distance(theta, plain(post), plain(result.state))
    case.measure("step_distance", apart)
    if apart > tolerance:
        reason = f"replaying ends {apart:.3g} from the segment's end state, {tolerance:g} is tolerated"
        raise Fault(TREE_STEPS, index, reason)
    if abs(result.loss - leaf.loss) > 10 * tolerance * max(1.0, abs(result.loss)):
        raise Fault(TREE_STEPS, index, f"the segment's loss is {result.loss:.6f}, not {leaf.loss:.6f}")
    bounds = steps.chunk_bounds(theta, plain(result.state), tolerance)
    replayed = result.state.encode()
    leaves = range(merkle.leaf_count(len(replayed)))
    bad = steps.bad_chunk(post.encode(), replayed, leaves, bounds)
    if bad is not None:
        raise Fault(TREE_STEPS, index, f"chunk {bad} of the end state is not where replaying ends")
    case.evidence["state_chunks"] += len(leaves)


def _bound(case: Case, index: int, place: int, before: TrainState, result: SegmentResult) -> float:
    """What is tolerated of this very segment: little where our own roundings agree, at most the spec's tolerance.

    Raises E1609 where two roundings on this machine already differ by more than the tolerance tells apart.
    """
    limit = case.spec.verification.tolerance
    batches = segment_batches(case.spec, case.data, case.lease.seed, index)
    with sdpa_kernel(SDPBackend.MATH):
        other = run(case.spec, before, batches, place).state
    spread = steps.true_distance(before.theta.numpy(), plain(other), plain(result.state))
    case.measure("own_spread", spread)
    if 1.5 * spread > limit:
        raise CommonweightError(
            "E1609",
            f"two roundings of segment {index} differ by {spread:.3g} here, {limit:g} is tolerated",
            "the task needs shorter segments or a larger tolerance: see `commonweight calibrate`",
        )
    return min(limit, max(SPREAD * spread, FLOOR * limit))


def rerun(case: Case, opened: Opened, index: int) -> tuple[TrainState, SegmentResult]:
    """Compute one segment from the committed pre-state on the lease's data, whatever the trainer claims of it."""
    spec = case.spec
    batches = segment_batches(spec, case.data, case.lease.seed, index)
    place = opened.place(index)
    if place == 0:
        state = start_state(spec, case.base)
    else:
        state = _state(case, opened.steps[index].pre, TREE_STEPS, index)
    case.evidence["steps"] += len(batches)
    return state, run(spec, state, batches, place)


def read_proofs(case: Case, opened: Opened, index: int) -> toploc.Proofs:
    """Activation proofs of a segment, well formed, and for the tokens that the lease's seed gives."""
    leaf, v = opened.trajectories[index], case.spec.verification
    first = segment_batches(case.spec, case.data, case.lease.seed, index)[0]
    tokens = first.shape[0] * (first.shape[1] - 1)
    if leaf.tokens != tokens_hash(first) or leaf.count != tokens:
        raise Fault(TREE_TRAJECTORIES, index, "the trajectory holds other tokens than the lease's seed gives")
    chunks = toploc.chunk_count(tokens, v.chunk)
    raw = case.read(leaf.proof, chunks * (2 + 2 * v.topk), TREE_TRAJECTORIES, index)
    try:
        return toploc.decode(raw, v.topk, chunks)
    except EncodingError as error:
        raise Fault(TREE_TRAJECTORIES, index, f"malformed activation proof: {error.message}") from error


def check_activations(case: Case, index: int, result: SegmentResult, proofs: toploc.Proofs) -> None:
    """The proofs of a segment's first forward pass against the verifier's own hidden states."""
    v = case.spec.verification
    try:
        stats = toploc.verify(result.hidden, proofs, v.topk, v.chunk)
    except EncodingError as error:
        raise Fault(TREE_TRAJECTORIES, index, f"activations that prove nothing: {error.message}") from error
    case.measure("proof_score", stats.score)
    case.measure("proof_exponent_mismatches", stats.exponent_mismatches)
    wrong = toploc.fault(stats, v.topk, v)
    if wrong:
        raise Fault(TREE_TRAJECTORIES, index, f"the activation proof does not match: {wrong}")
    case.evidence["proof_chunks"] += stats.chunks


def check_available(case: Case, opened: Opened) -> None:
    """Every artifact that the work names can be fetched."""
    update_of(case, opened, end_states(case, opened)).check_lanes()
    read_sketches(case, opened)
    v, context = case.spec.verification, case.spec.model.context
    chunks = toploc.chunk_count(case.spec.training.batch * context, v.chunk)
    for step, trajectory in zip(opened.steps, opened.trajectories, strict=True):
        _state(case, step.post, TREE_STEPS, step.index)
        case.read(trajectory.proof, chunks * (2 + 2 * v.topk), TREE_TRAJECTORIES, trajectory.index)
