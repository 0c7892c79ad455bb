"""The check of a `grpo` work: cheap questions about every trajectory, dear ones about the drawn segments.

Of every segment: are these exactly the prompts, noise keys and policy versions of the lease, is every reward the one
that the environment gives, does the step name exactly these trajectories. Of a drawn one: would its policy have chosen
these tokens (activations, sampling, log-probabilities), and does learning from them give the claimed state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from ..core import codec, fixed, merkle
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import Spec
from ..core.verdict import Outcome, Verdict
from ..core.works import (
    META_BYTES,
    NONE,
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
from ..diloco.inner import TrainState, state_bytes
from ..rl import rollout
from ..rl.rollout import Episode, Scene
from ..rl.trajectories import Columns, Trajectory
from . import grpo
from .base import Fetch
from .checking import NOT_SERVED
from .lease import Lease
from .opening import Case, Fault, Opened, bind, require
from .rl_evidence import Evidence, examine, misfit, proof_length, proofs_fit
from .rl_sources import columns_limit, gathered, rows_per_segment
from .updates import Update


def check(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    root: bytes,
    segments: Iterable[int],
    fetch: Fetch,
) -> Verdict:
    """Verdict on a work: every segment is looked through, the drawn units (`grpo.unit`) are replayed.

    ``fetch`` as in `checking.check`.
    """
    case = Case(spec, data, base, lease, root, fetch)
    drawn = tuple(segments)

    def body() -> None:
        if not drawn or len(set(drawn)) != len(drawn) or not set(drawn) <= set(range(grpo.units(spec))):
            raise CommonweightError("E1605", f"{drawn} are no units to draw of {grpo.units(spec)}")
        court = Court(case)
        for index in range(spec.training.segments):
            court.check_chain(index)
            court.look_through(index)
        if update := court.update():
            update.check_lanes()
            update.check_names()
        for number in drawn:
            index, rows = grpo.unit(spec, number, lease.rollout)
            if rows is None:
                court.replay(index)
            else:
                court.check_sampling(index, rows)

    return _judged(case, body)


def judge_leaf(
    spec: Spec,
    data: bytes,
    base: ModelVersion,
    lease: Lease,
    root: bytes,
    tree: int,
    leaf: int,
    fetch: Fetch,
) -> Verdict:
    """A juror's verdict: is exactly this leaf valid? ``leaf`` is `WITHHELD` - 1 or more for missing data."""
    case = Case(spec, data, base, lease, root, fetch)
    size = rows_per_segment(spec)

    def body() -> None:
        court = Court(case)
        if leaf >= WITHHELD - 1:
            if update := court.update():
                update.check_lanes()
            for index in range(spec.training.segments):
                court.columns(index)
                court.state(index + 1)  # a rollout lease has none to withhold
        elif tree == TREE_HEADER:
            if update := court.update():
                update.check_names()
        elif tree == TREE_UPDATE:
            if update := court.update():
                update.check_lanes(leaf)
        elif tree == TREE_STEPS and leaf < spec.training.segments:
            court.check_chain(leaf)
            court.check_consumed(leaf)
            court.replay(leaf)
        elif tree == TREE_TRAJECTORIES and leaf < spec.training.segments * size:
            court.check_row(leaf // size, leaf % size)
            court.check_sampling(leaf // size, range(leaf % size, leaf % size + 1))

    return _judged(case, body)


def _judged(case: Case, body: Callable[[], None]) -> Verdict:
    """Run a check; every way it can end is a verdict."""

    def verdict(outcome: Outcome, reason: str, tree: int = 0, leaf: int = 0) -> Verdict:
        return Verdict(
            outcome,
            reason,
            tree,
            leaf,
            tuple(sorted(case.evidence.items())),
            tuple(sorted(case.measures.items())),
        )

    try:
        grpo.require_trainable(case.spec)
        body()
    except Fault as fault:
        return verdict(Outcome.INVALID, str(fault), fault.tree, fault.leaf)
    except CommonweightError as error:
        return verdict(Outcome.WITHHELD if error.code == NOT_SERVED else Outcome.ERROR, str(error))
    except Exception as error:  # the boundary of a verdict: our own failure is never the trainer's
        return verdict(Outcome.ERROR, f"{type(error).__name__}: {error}")
    return verdict(Outcome.VALID, "all checks passed")


class Court:
    """One opened work, and the questions that can be asked of it; artifacts are fetched once."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.spec = case.spec
        self.lease = gathered(case.spec, case.lease, case.fetch)
        self.setting = grpo.Setting.of(case.spec, case.data, case.base, self.lease)
        self.opened = self._open()
        self._columns: dict[int, list[Trajectory]] = {}
        self._states: dict[int, TrainState] = {0: self.setting.start}

    def _open(self) -> Opened:
        """Header, meta and traces, bound to the lease and to each other."""
        case, spec = self.case, self.spec
        segments = spec.training.segments
        count = segments * rows_per_segment(spec)
        try:
            header = Header.decode(case.read(case.root, merkle.LEAF, TREE_HEADER, 0))
            meta = codec.decode(Meta, case.read(header.meta_root, META_BYTES, TREE_HEADER, 0))
            require(header.step_count == segments, "the header does not list every segment")
            require(header.trajectory_count == count, "the header does not list every trajectory")
            size = 0 if self.lease.rollout else 4 * fixed.padded(grpo.parameters(spec))
            require(header.update_length == size, "the update has another length than the lease's")
            named = (header.update_root, meta.wire, meta.residual, meta.previous)
            require(not self.lease.rollout or set(named) == {NONE}, "a rollout lease has no update")
            bind(case, meta)
            require(meta.sketches == bytes(32), "this kind has no sketches")
            raw = case.read(header.step_root, segments * merkle.LEAF, TREE_HEADER, 0)
            steps = unpack(StepLeaf, raw, segments)
            raw = case.read(header.trajectory_root, count * merkle.LEAF, TREE_HEADER, 0)
            trajectories = unpack(TrajectoryLeaf, raw, count)
        except EncodingError as error:
            raise Fault(TREE_HEADER, 0, f"malformed commitment: {error.message}") from error
        require(meta.end_state == steps[-1].post, "the end state is not the one of the last segment")
        case.evidence["leaves"] += segments + count
        return Opened(header, meta, True, steps, trajectories)

    def state(self, after: int) -> TrainState:
        """The committed state after so many segments; 0 is the derived start, which a rollout lease never leaves."""
        if self.lease.rollout:
            return self.setting.start
        if after not in self._states:
            count, leaf = grpo.state_count(self.spec), after - 1
            try:
                raw = self.case.read(self.opened.steps[leaf].post, state_bytes(count), TREE_STEPS, leaf)
                self._states[after] = TrainState.decode(raw, count)
            except EncodingError as error:
                raise Fault(TREE_STEPS, leaf, f"malformed state: {error.message}") from error
        return self._states[after]

    def columns(self, index: int) -> list[Trajectory]:
        """The trajectories of a segment, each the one that its leaf names."""
        if index not in self._columns:
            self._columns[index] = self._read_columns(index)
        return self._columns[index]

    def _read_columns(self, index: int) -> list[Trajectory]:
        spec, span = self.spec, grpo.rows_of(self.spec, index)
        listed = self.opened.trajectories[span.start : span.stop]
        for leaf in listed:
            if leaf.proof != listed[0].proof:
                raise Fault(TREE_TRAJECTORIES, leaf.index, "a segment's trajectories lie in one artifact")
        raw = self.case.read(listed[0].proof, columns_limit(spec), TREE_TRAJECTORIES, span.start)
        try:
            rows = Columns.decode(raw).rows()
        except EncodingError as error:
            raise Fault(TREE_TRAJECTORIES, span.start, f"malformed trajectories: {error.message}") from error
        if len(rows) != len(span):
            raise Fault(TREE_TRAJECTORIES, span.start, f"{len(rows)} trajectories instead of {len(span)}")
        for leaf, found in zip(listed, rows, strict=True):
            if leaf.tokens != found.digest() or leaf.count != int(found.mask.sum()):
                raise Fault(TREE_TRAJECTORIES, leaf.index, "the trajectory is not the one of its leaf")
        return rows

    def check_chain(self, index: int) -> None:
        """A segment starts where the one before ended; the first one starts from the base version."""
        before = self.setting.start.root if index == 0 else self.opened.steps[index - 1].post
        if self.opened.steps[index].pre != before:
            reason = "the base version's state" if index == 0 else "where the one before ended"
            raise Fault(TREE_STEPS, index, f"the segment does not start from {reason}")
        if self.lease.rollout and (self.opened.steps[index].post != before or self.opened.steps[index].loss):
            raise Fault(TREE_STEPS, index, "a rollout lease learns nothing, and this one says it did")

    def check_consumed(self, index: int) -> None:
        """The step names exactly the trajectories of its segment, in their order."""
        self.columns(index)  # each is the one that its leaf names
        span = grpo.rows_of(self.spec, index)
        digests = [leaf.tokens for leaf in self.opened.trajectories[span.start : span.stop]]
        if self.opened.steps[index].batch != self.setting.consumed(index, digests):
            raise Fault(TREE_STEPS, index, "the step names other trajectories than its segment's")

    def look_through(self, index: int) -> None:
        """Everything about a segment that needs no model."""
        todo = self._todo(index)
        for row in range(len(todo)):
            self.check_row(index, row, todo[row])
        self.check_consumed(index)

    def _todo(self, index: int) -> list[Episode]:
        return rollout.episodes(self.setting.scene, self.case.lease.seed, grpo.groups_of(self.spec, index))

    def check_row(self, index: int, row: int, wanted: Episode | None = None) -> None:
        """Prompt, noise, version, turns and reward of one trajectory."""
        scene, leaf = self.setting.scene, grpo.rows_of(self.spec, index)[row]
        wanted = wanted or self._todo(index)[row]
        version = grpo.behaviour(self.spec, self.lease, index)
        reason = _row_fault(scene, self.columns(index)[row], wanted, version)
        found = self.columns(index)[row]
        if reason is None and len(found.proof) != proof_length(found, self.spec.verification):
            reason = "the activation proof has another length than the tokens need"
        if reason is not None:
            raise Fault(TREE_TRAJECTORIES, leaf, reason)
        self.case.evidence["rewards"] += 1

    def check_sampling(self, index: int, span: range) -> None:
        """One teacher-forced pass over some rows of a segment: sampling, log-probabilities, activations."""
        rows = self.columns(index)[span.start : span.stop]
        first = grpo.rows_of(self.spec, index).start + span.start
        policy = self.setting.policy(self.state(grpo.behaviour(self.spec, self.lease, index)).theta)
        evidence = examine(policy, rows, self.spec.rl, self.spec.verification.chunk)
        self.case.measure("token_margin", float(evidence.margin.max(initial=0.0)))
        self.case.measure("logprob_error", float(evidence.logprob_error.max(initial=0.0)))
        self._require_replay(evidence, first)
        self._require_proofs(evidence, rows, first)
        self.case.evidence["sampled_tokens"] += sum(int(r.mask.sum()) for r in rows)

    def _require_replay(self, evidence: Evidence, first: int) -> None:
        rl = self.spec.rl
        wrong = ~(evidence.margin <= rl.max_margin)
        if wrong.any():
            row = int(wrong.argmax())
            reason = f"a token lies {evidence.margin[row]:.3g} behind the one that policy and noise give"
            raise Fault(TREE_TRAJECTORIES, first + row, reason)
        wrong = ~(evidence.logprob_error <= rl.max_logprob_error)
        if wrong.any():
            row = int(wrong.argmax())
            reason = f"a log-probability is wrong by {evidence.logprob_error[row]:.3g} nats"
            raise Fault(TREE_TRAJECTORIES, first + row, reason)

    def _require_proofs(self, evidence: Evidence, rows: Sequence[Trajectory], first: int) -> None:
        v = self.spec.verification
        if proofs_fit(evidence.hidden, rows, v):
            self.case.evidence["proof_chunks"] += sum(h.shape[0] for h in evidence.hidden) // v.chunk
            return
        for at, row in enumerate(rows):
            reason = misfit(evidence.hidden[at], row, v)
            if reason:
                raise Fault(TREE_TRAJECTORIES, first + at, reason)
            self.case.evidence["proof_chunks"] += evidence.hidden[at].shape[0] // v.chunk

    def replay(self, index: int) -> None:
        """Learning from the segment's trajectories gives the claimed state and loss, bit for bit."""
        leaf = self.opened.steps[index]
        learned = self.setting.learn(index, self.state(index), self.columns(index))
        if not learned.finite or learned.state.root != leaf.post:
            raise Fault(TREE_STEPS, index, "replaying the segment gives another state")
        if learned.loss != leaf.loss:
            raise Fault(TREE_STEPS, index, f"the segment's loss is {learned.loss:.6f}, not {leaf.loss:.6f}")
        self.case.evidence["segments"] += 1
        self.case.evidence["steps"] += self.spec.training.segment

    def update(self) -> Update | None:
        """The committed update beside the one that the end state gives; a rollout lease has none."""
        if self.lease.rollout:
            return None
        with torch.no_grad():
            end = self.setting.trainable.full(self.state(len(self.opened.steps)).theta)
        return Update.of(self.case, self.opened.header, self.opened.meta, end.numpy())


def _row_fault(scene: Scene, row: Trajectory, wanted: Episode, version: int) -> str | None:
    """What of a trajectory is not as the lease's seed and the environment give it."""
    if row.group != wanted.group or row.prompt.tolist() != wanted.prompt:
        return "the trajectory answers another prompt than the lease's seed gives"
    if row.key != wanted.key:
        return "the trajectory was sampled with other noise than the lease's seed gives"
    if row.version != version:
        return f"the trajectory claims policy version {row.version}, its segment plays {version}"
    if row.tokens.size and not 0 <= int(row.tokens.min()):
        return "the trajectory has negative tokens"
    if not _same_turns(scene, row, wanted):
        return "the trajectory's turns do not end where they must"
    if row.reward != scene.mixture.reward(wanted.environment, wanted.task, wanted.turns):
        return "the environment gives another reward"
    return None


def _same_turns(scene: Scene, row: Trajectory, episode: Episode) -> bool:
    """Retell the episode from the recorded tokens: turns end by stop or limit, the environment's words are its own."""
    at, tokens, mask = 0, row.tokens.tolist(), row.mask.tolist()
    for _ in range(rollout.MAX_TURNS):
        limit = rollout.room(scene, episode)
        if limit < 1:
            break
        turn = tokens[at : at + limit]
        size = turn.index(scene.tokens.stop) + 1 if scene.tokens.stop in turn else limit
        turn = turn[:size]
        if len(turn) != size or 0 in mask[at : at + size]:
            return False
        episode.tokens += turn
        episode.mask += [1] * size
        episode.turns.append(scene.tokens.decode(turn))
        at += size
        before = len(episode.tokens)
        more = rollout.advance(scene, episode)
        said = episode.tokens[before:]
        if said and (tokens[at : at + len(said)] != said or 1 in mask[at : at + len(said)]):
            return False
        if said and row.logprobs[at : at + len(said)].any():
            return False
        at += len(said)
        if not more:
            break
    return at == len(tokens)
