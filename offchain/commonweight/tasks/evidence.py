"""Verdicts that anybody can repeat: from a work's own artifacts, or from the record that another checker left."""

from __future__ import annotations

from collections.abc import Sequence

from ..core import codec, fixed, merkle
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import Spec
from ..core.verdict import MAX_REASON, Count, Evidence, Measure, Verdict
from ..core.works import META_BYTES, Header, Meta
from .base import CheckFunction, Fetch
from .kinds import parameters, task_kind
from .lease import Lease

MAX_SPEC = 64 * 1024


def write(lease: Lease, spec: bytes, work: bytes, segments: Sequence[int], verdict: Verdict) -> Evidence:
    """A verdict's record; ``spec`` and ``work`` are roots."""
    return Evidence(
        chain_id=lease.chain_id,
        tasks=lease.tasks,
        task=lease.task,
        round=lease.round,
        slot=lease.slot,
        trainer=lease.trainer,
        base=lease.base,
        seed=lease.seed,
        spec=spec,
        work=work,
        segments=tuple(segments),
        outcome=verdict.outcome.value,
        reason=verdict.reason.encode()[:MAX_REASON].decode(errors="ignore"),
        tree=verdict.tree,
        leaf=verdict.leaf,
        counts=tuple(Count(name, value) for name, value in verdict.evidence),
        measures=tuple(Measure(name, float(value)) for name, value in verdict.measures),
        mix=lease.mix.hex(),
        rollout=lease.rollout,
        sources=lease.sources,
        previous=lease.previous,
    )


def lease_of(evidence: Evidence) -> Lease:
    """The lease that a record speaks of."""
    e = evidence
    try:
        mix = bytes.fromhex(e.mix)
    except ValueError as error:
        raise EncodingError("the mixing step of a record is not hexadecimal") from error
    return Lease(
        e.chain_id,
        e.tasks,
        e.task,
        e.round,
        e.slot,
        e.trainer,
        e.base,
        e.seed,
        mix=mix,
        rollout=e.rollout,
        sources=e.sources,
        previous=e.previous,
    )


def claimed_lease(work: bytes, fetch: Fetch) -> tuple[Lease, bytes]:
    """Lease and spec root that a work itself claims to belong to. Raises `EncodingError`, or as ``fetch`` does."""
    header = Header.decode(fetch(work, 1024))
    meta = codec.decode(Meta, fetch(header.meta_root, META_BYTES))
    mix = b""
    if header.step_count == header.trajectory_count + 1:
        mix = fetch(header.step_root, header.step_count * merkle.LEAF)[-merkle.LEAF :]
    lease = Lease(
        meta.chain_id,
        meta.tasks,
        meta.task,
        meta.round,
        meta.slot,
        meta.trainer,
        meta.base,
        meta.seed,
        mix=mix,
        rollout=header.update_length == 0,
        sources=meta.sources,
        previous=meta.previous,
    )
    return lease, meta.spec


def repeat(
    lease: Lease,
    spec_root: bytes,
    work: bytes,
    segments: Sequence[int] | None,
    fetch: Fetch,
    check: CheckFunction | None = None,
) -> Evidence:
    """Check a work from artifacts alone; ``segments`` None means all of them. Raises as ``fetch`` does.

    ``check`` is how to ask the question, `TaskKind.check` itself if absent: `isolation.Checker.check` asks it in a
    child process.
    """
    spec = Spec.decode(fetch(spec_root, MAX_SPEC))
    data = fetch(spec.data_root, spec.data_length)
    count = parameters(spec)
    base = ModelVersion.decode(fetch(lease.base, 8 * fixed.padded(count)), count)
    kind = task_kind(spec.kind)
    drawn = tuple(range(kind.units(spec))) if segments is None else tuple(segments)
    verdict = (check or kind.check)(spec, data, base, lease, work, drawn, fetch)
    return write(lease, spec_root, work, drawn, verdict)


def same_verdict(one: Evidence, other: Evidence) -> bool:
    """Two records say the same of the same work; reasons and distances may differ between machines."""
    return (one.work, one.segments, one.outcome, one.tree, one.leaf) == (
        other.work,
        other.segments,
        other.outcome,
        other.tree,
        other.leaf,
    )


def read(data: bytes) -> Evidence:
    """Decode a record from a file. Raises E1607."""
    try:
        return Evidence.decode(data)
    except EncodingError as error:
        raise CommonweightError("E1607", f"this is no evidence of a verdict: {error.message}") from error
