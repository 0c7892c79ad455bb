"""A cell: several machines of one operator that act as one trainer, each of whose steps can still be audited.

In every inner round each machine trains from the same canonical lanes on data of its own (`member_seed`), turns its
work into an integer update, and all take the integer mean (DiLoCo with outer rate 1, arXiv 2311.08105): the same
lanes on every machine and on any checker. The sum of the rounds is the update that the lease commits to. What each
round did is a `CellStep`: who took part, the root of each member's update and of its step records, and the roots
of the lanes before and after. `replay_step` repeats the merge from those artifacts alone, and a member's own
segments are checked as any trainer's, from the state that the lanes before the round give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..core import codec as canonical
from ..core import fixed, merkle
from ..core.codec import B32, U16, U32
from ..core.errors import CommonweightError, EncodingError
from ..core.fixed import Lanes
from ..core.hashing import tagged
from .codecs import Codec, codec
from .interface import Collective


@dataclass(frozen=True, slots=True)
class Share:
    """What one machine does in one inner round."""

    round: int
    index: int  # of this machine among the round's members
    members: tuple[str, ...]
    seed: bytes


@dataclass(frozen=True, slots=True)
class MemberWork:
    """What it delivers: an int32 update ``(n,)``, start minus end, and the encoded records of its segments."""

    update: Lanes
    records: bytes


@dataclass(frozen=True, slots=True)
class CellPart:
    """One member's part of a round; ``records`` names the artifact with its segments' leaves."""

    index: U16
    update: B32
    records: B32


@dataclass(frozen=True, slots=True)
class CellStep:
    """One inner round of a cell, as it is committed: the merge is exact, so one wrong lane refutes it."""

    round: U32
    codec: str
    before: B32
    after: B32
    parts: tuple[CellPart, ...]

    def encode(self) -> bytes:
        """Canonical bytes."""
        return canonical.encode(self)

    @property
    def root(self) -> bytes:
        """Name of the step's artifact."""
        return merkle.root(self.encode())

    @staticmethod
    def decode(data: bytes) -> CellStep:
        """Strict inverse of `encode`. Raises `EncodingError`."""
        step = canonical.decode(CellStep, data)
        numbers = [p.index for p in step.parts]
        if not numbers or numbers != sorted(set(numbers)):
            raise EncodingError("the parts of a cell's step are not in order")
        return step


@dataclass(frozen=True, slots=True)
class CellResult:
    """The final lanes, the lease's update (start minus final), every round's step, and every artifact by its root."""

    lanes: Lanes
    update: Lanes
    steps: tuple[CellStep, ...]
    artifacts: dict[bytes, bytes]


def member_seed(lease_seed: bytes, number: int, index: int) -> bytes:
    """Seed of a member's data in a round: derived from the lease's, so nobody chooses it."""
    return tagged("cell", lease_seed, number.to_bytes(4, "big"), index.to_bytes(2, "big"))


def mean_update(updates: list[Lanes]) -> Lanes:
    """Integer mean, rounded down, of int32 updates."""
    total = np.zeros(updates[0].size, dtype=np.int64)
    for update in updates:
        total += update
    mean: Lanes = (total // len(updates)).astype(np.int32)
    return mean


def lanes_root(lanes: Lanes) -> bytes:
    """Name of canonical lanes."""
    return merkle.root(fixed.to_bytes(lanes))


def train_cell(
    collective: Collective,
    start: Lanes,
    lease_seed: bytes,
    rounds: int,
    train: Callable[[Share, Lanes], MemberWork],
    through: Codec | None = None,
    seconds: float = 600.0,
) -> CellResult:
    """Train a lease together; every machine of the cell calls this with the same arguments but its own collective.

    ``start``: int32 ``(n,)``. ``train`` gets its share and the lanes of the round's start. ``through`` (exact codecs
    only, default none) compresses updates between machines. A machine that dies is missing from the round's step and
    the rest go on; one that joins gets lanes and steps first, but only the artifacts of rounds it took part in.
    Raises what the collective raises; E1521 when no update reached all machines within ``seconds``.
    """
    through = through or codec("none")
    state = _State(start, ())
    artifacts: dict[bytes, bytes] = {}
    while len(state.steps) < rounds:
        begun = collective.begin(state.root)
        if begun.recovered is not None:
            state = _State.decode(begun.recovered, start.size)
        number, index = len(state.steps), begun.members.index(collective.name)
        share = Share(number, index, begun.members, member_seed(lease_seed, number, index))
        parts = _exchange_work(collective, share, train(share, state.lanes), through, seconds)
        step, lanes = _merge(share, state, parts, through)
        state = _State(lanes, (*state.steps, step))
        pieces = [piece for pair in parts.values() for piece in pair]
        artifacts |= {merkle.root(piece): piece for piece in [*pieces, step.encode()]}
        settled = collective.settle(state.root, state.encode)
        if settled.recovered is not None:
            state = _State.decode(settled.recovered, start.size)
    update: Lanes = (start.astype(np.int64) - state.lanes).astype(np.int32)
    return CellResult(state.lanes, update, state.steps, artifacts)


def replay_step(step: CellStep, before: Lanes, fetch: Callable[[bytes], bytes]) -> Lanes:
    """The lanes after a step, from the lanes before it and the members' update artifacts.

    Raises E1522 when the step names other lanes than its parts give, `EncodingError` for artifacts that are not
    what they claim to be.
    """
    if lanes_root(before) != step.before:
        raise CommonweightError("E1522", f"round {step.round} of the cell does not start from these lanes")
    through = codec(step.codec)
    updates = []
    for part in step.parts:
        wire = fetch(part.update)
        merkle.require_root(wire, part.update, "a member's update")
        updates.append(through.decode_lanes(wire, before.size))
    after = _apply(before, updates)
    if lanes_root(after) != step.after:
        raise CommonweightError("E1522", f"round {step.round} of the cell is merged wrongly")
    return after


@dataclass(frozen=True, slots=True)
class _StepList:
    steps: tuple[CellStep, ...]


@dataclass(frozen=True, slots=True)
class _State:
    """What a joining machine needs."""

    lanes: Lanes
    steps: tuple[CellStep, ...]

    def encode(self) -> bytes:
        listed = canonical.encode(_StepList(self.steps))
        return len(listed).to_bytes(4, "big") + listed + fixed.to_bytes(self.lanes)

    @property
    def root(self) -> bytes:
        return merkle.root(self.encode())

    @staticmethod
    def decode(data: bytes, count: int) -> _State:
        cut = 4 + int.from_bytes(data[:4], "big")
        listed = canonical.decode(_StepList, data[4:cut])
        return _State(fixed.from_bytes(data[cut:], count), listed.steps)


def _apply(before: Lanes, updates: list[Lanes]) -> Lanes:
    after = before.astype(np.int64) - mean_update(updates)
    lanes: Lanes = np.clip(after, -(2**31), 2**31 - 1).astype(np.int32)
    return lanes


def _exchange_work(
    collective: Collective, share: Share, work: MemberWork, through: Codec, seconds: float
) -> dict[int, tuple[bytes, bytes]]:
    """(update bytes, records) by member index: of those whose work reached every machine, so that all agree."""
    wire = through.encode_lanes(work.update)
    message = len(wire).to_bytes(4, "big") + wire + work.records
    others = [m for m in share.members if m != collective.name]
    letters = collective.exchange(share.round + 1, dict.fromkeys(others, message), others, seconds)
    parts = {share.index: (wire, work.records)}
    for name, letter in letters.items():
        cut = 4 + int.from_bytes(letter[:4], "big")
        if through.size(work.update.size) == cut - 4 <= len(letter) - 4:
            parts[share.members.index(name)] = (letter[4:cut], letter[cut:])
    have = sum(1 << index for index in parts)
    common = have
    for mask in collective.gather(have.to_bytes(8, "big")).values():
        common &= int.from_bytes(mask, "big")
    agreed = {index: part for index, part in parts.items() if common >> index & 1}
    if not agreed:
        raise CommonweightError(
            "E1521",
            f"in round {share.round} no member's update reached all machines",
            "raise the time for it",
        )
    return agreed


def _merge(
    share: Share, state: _State, parts: Mapping[int, tuple[bytes, bytes]], through: Codec
) -> tuple[CellStep, Lanes]:
    order = sorted(parts)
    updates = [through.decode_lanes(parts[i][0], state.lanes.size) for i in order]
    after = _apply(state.lanes, updates)
    named = tuple(CellPart(i, merkle.root(parts[i][0]), merkle.root(parts[i][1] or b"\x00")) for i in order)
    return CellStep(share.round, through.name, lanes_root(state.lanes), lanes_root(after), named), after
