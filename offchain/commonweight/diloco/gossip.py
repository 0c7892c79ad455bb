"""A replica in a sparse swarm: it talks to its neighbours only and mixes inside its own outer step.

Neighbours exchange compressed differences to public copies (CHOCO-SGD, arXiv 1902.00340): everyone who hears node j
keeps the same copy of j's trained state, and a message moves that copy towards the truth, so the codec's error is made
up by the next message. A neighbour that was away is first sent the differences it missed: it takes the mixing steps of
those rounds, without training of its own, and then trains from where the others are. The mixing step is `mixing`'s. Two
defences: a guard drops messages far longer than the others
(sign flips against difference coding amplify themselves), and differences may be clipped (ClippedGossip, arXiv
2202.01545).
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from math import isqrt

import numpy as np

from ..core import fixed
from ..core.errors import EncodingError
from ..core.fixed import ModelVersion
from ..core.spec import MergeSpec
from . import mixing, outer
from .aggregate import ONE, gram_matrix
from .compress import LIMIT, Compressor
from .local import InnerLoop
from .rounds import Int64, Messages, Plan, Report, Round, Tamper, honest
from .topology import Topology

GUARD = 5  # median norms
MOST_MISSED = 7  # differences kept for a neighbour that is away; after more of them it gets the whole copy
WANT_FULL, IS_FULL = 1, 2
_HEAD = struct.Struct("<B8s")
_ROUND = struct.Struct("<I")


def norms(rows: list[Int64]) -> list[int]:
    """Exact integer Euclidean norms (floor) of int64 vectors, clipped to 31 bits."""
    return [isqrt(gram_matrix(np.clip(row, -LIMIT, LIMIT)[None])[0][0]) for row in rows]


def checksum(copy: Int64) -> bytes:
    """Eight bytes that tell whether two nodes hold the same public copy."""
    return sha256(copy.astype("<i8").tobytes()).digest()[:8]


@dataclass(frozen=True, slots=True)
class Copy:
    """A neighbour's public copy after its message, how far the message moved it, and the checksum it must have."""

    lanes: Int64
    move: Int64
    mark: bytes


class GossipWorker:
    """A replica; see the module. ``clip`` bounds what one neighbour can pull, for swarms with liars."""

    def __init__(
        self,
        index: int,
        inner: InnerLoop,
        version: ModelVersion,
        rule: MergeSpec,
        topology: Topology,
        compressor: Compressor,
        *,
        guard: bool = True,
        clip: bool = False,
        tamper: Tamper = honest,
    ) -> None:
        self.index, self.inner, self.version, self.rule = index, inner, version, rule
        self.topology, self.compressor = topology, compressor
        self.guard, self.clip, self.tamper = guard, clip, tamper
        common = version.weights.astype(np.int64)
        self.public: dict[int, Int64] = dict.fromkeys((index, *topology.links[index]), common)
        self._asked: set[int] = set()  # who asked for our full copy
        # Differences that a neighbour was not there to hear, each behind its round.
        self._missed: dict[int, list[bytes]] = {}

    def forget(self, members: Collection[int]) -> None:
        """Copies of these nodes are not to be trusted any more; they are asked for in the next round."""
        for j in members:
            self.public.pop(j, None)

    def round(self, plan: Plan) -> Round:
        """Catch up, train, exchange with neighbours, mix. One that is silent or unusable counts as agreeing."""
        neighbours = self.topology.neighbours(self.index, plan.members)
        arrived = yield self._owed(plan, neighbours)
        if self.index in plan.returning:
            self._catch_up(arrived, plan)
        result = self.inner.run(outer.weights_of(self.version, self.rule), plan.steps, plan.progress)
        delta = outer.pseudo_gradient(self.version, result.trained, self.rule)
        trained = self.version.weights - delta
        arrived = yield self._speak(trained, neighbours, plan.round)
        dropped = self._listen(arrived, neighbours)
        states = {
            j: self.public[j] for j in neighbours if j in self.public and j in arrived and j not in dropped
        }
        self.version = self._mixed(self.public[self.index], states, plan.members, delta)
        return Report(result.tokens, result.loss, self.version.root, tuple(sorted(dropped)))

    def _owed(self, plan: Plan, neighbours: tuple[int, ...]) -> dict[int, bytes]:
        """Between a member that returns and its neighbours: the differences missed, or nothing but a sign of life."""
        concerned = neighbours if self.index in plan.returning else set(neighbours) & set(plan.returning)
        return {j: b"".join(self._missed.pop(j, [])) for j in concerned}

    def _catch_up(self, arrived: Messages, plan: Plan) -> None:
        """Hear what was missed, round by round, and take each round's mixing step without having trained."""
        missed: dict[int, dict[int, bytes]] = {}
        for j, letter in arrived.items():
            if j in self.public:
                for number, payload in self._split(letter, plan.round).items():
                    missed.setdefault(number, {})[j] = payload
        for _, payloads in sorted(missed.items()):
            heard = {}
            for j, payload in payloads.items():
                with contextlib.suppress(EncodingError):
                    heard[j] = self._moved(j, payload)
            far = self._far(heard) if self.guard else set()
            for j in set(heard) - far:
                self.public[j] = heard[j].lanes
            states = {j: self.public[j] for j in sorted(set(heard) - far)}
            own = self.version.weights.astype(np.int64)
            self.version = self._mixed(
                own, states, tuple(sorted({self.index, *payloads})), np.zeros_like(own)
            )

    def _mixed(
        self, own: Int64, states: dict[int, Int64], members: tuple[int, ...], delta: Int64
    ) -> ModelVersion:
        """The version after mixing ``own`` with ``states`` among ``members`` and going down by ``delta``."""
        row, denominator = self.topology.integer_row(self.index, members)
        if self.clip:
            states = self._clipped(states, own)
        return fixed.outer_step(self.version, delta - mixing.pull(own, states, row, denominator), self.rule)

    def _split(self, letter: bytes, before: int) -> dict[int, bytes]:
        """A letter's differences by round, at most `MOST_MISSED` of rounds ``before`` this one; of junk, none."""
        size = _ROUND.size + self.compressor.codec.size(self.version.weights.size)
        if len(letter) % size or len(letter) > MOST_MISSED * size:
            return {}
        pieces = [letter[at : at + size] for at in range(0, len(letter), size)]
        out = {_ROUND.unpack_from(piece)[0]: piece[_ROUND.size :] for piece in pieces}
        return out if len(out) == len(pieces) and max(out, default=-1) < before else {}

    def _speak(self, trained: Int64, neighbours: tuple[int, ...], round_: int) -> dict[int, bytes]:
        """Move the own public copy by one encoded difference; neighbours who asked get the whole copy."""
        own = self.public[self.index]
        payload = self.compressor.encode(self.tamper(trained - own))
        own = np.clip(own + self.compressor.decode(payload, own.size), -(2**31), 2**31 - 1)
        self.public[self.index] = own
        mark, whole, out = checksum(own), b"", {}
        for j in neighbours:
            want = 0 if j in self.public else WANT_FULL
            if j in self._asked:
                whole = whole or own.astype("<i4").tobytes()
                out[j] = _HEAD.pack(want | IS_FULL, mark) + whole
            else:
                out[j] = _HEAD.pack(want, mark) + payload
        self._asked.difference_update(out)
        for j in set(self.topology.links[self.index]) - set(neighbours):
            self._miss(j, _ROUND.pack(round_) + payload)
        return out

    def _miss(self, j: int, entry: bytes) -> None:
        """Remember for a neighbour that is away what it cannot hear now."""
        owed = self._missed.setdefault(j, [])
        owed.append(entry)
        if len(owed) > MOST_MISSED or j in self._asked:
            del self._missed[j]
            self._asked.add(j)

    def _listen(self, arrived: Messages, neighbours: tuple[int, ...]) -> set[int]:
        """Move the copies of neighbours; returns those whose message was unusable this round."""
        heard: dict[int, Copy] = {}
        dropped = set()
        for j in sorted(set(arrived) & set(neighbours)):
            try:
                heard[j] = self._read(j, arrived[j])
            except (EncodingError, struct.error):
                dropped.add(j)
                self.public.pop(j, None)
        far = self._far(heard) if self.guard else set()
        for j, copy in heard.items():
            if j in far:
                dropped.add(j)
            elif checksum(copy.lanes) == copy.mark:
                self.public[j] = copy.lanes
            else:  # an earlier message was lost on the way: ask for the whole
                dropped.add(j)
                self.public.pop(j, None)
        return dropped

    def _far(self, heard: dict[int, Copy]) -> set[int]:
        """Neighbours whose message moves further than `GUARD` times the median one."""
        if len(heard) < 3:
            return set()
        sizes = dict(zip(heard, norms([copy.move for copy in heard.values()]), strict=True))
        middle = sorted(sizes.values())[(len(sizes) - 1) // 2]
        return {j for j, size in sizes.items() if size > GUARD * middle}

    def _read(self, j: int, message: bytes) -> Copy:
        """What a neighbour's message makes of the copy held here."""
        flags, mark = _HEAD.unpack_from(message)
        body, count = message[_HEAD.size :], self.version.weights.size
        if flags & WANT_FULL:
            self._asked.add(j)
        if flags & IS_FULL:
            if len(body) != 4 * count:
                raise EncodingError(f"the full copy of {count} lanes has {4 * count} bytes, not {len(body)}")
            lanes = np.frombuffer(body, dtype="<i4").astype(np.int64)
            return Copy(lanes, lanes - self.public.get(j, self.public[self.index]), mark)
        if j not in self.public:
            raise EncodingError(f"neighbour {j} sent a difference to a copy not held here")
        return self._moved(j, body, mark)

    def _moved(self, j: int, payload: bytes, mark: bytes = b"") -> Copy:
        """The copy of ``j`` after one difference, and what its sender says of it."""
        lanes = self.public[j] + self.compressor.decode(payload, self.version.weights.size)
        lanes = np.clip(lanes, -(2**31), 2**31 - 1)
        return Copy(lanes, lanes - self.public[j], mark)

    def _clipped(self, states: dict[int, Int64], own: Int64) -> dict[int, Int64]:
        """Neighbours' states, drawn towards the own one until no difference is longer than the median one."""
        if len(states) < 3:
            return states
        gaps = {j: np.clip(state - own, -LIMIT, LIMIT) for j, state in states.items()}
        sizes = dict(zip(gaps, norms(list(gaps.values())), strict=True))
        middle = sorted(sizes.values())[(len(sizes) - 1) // 2]
        return {
            j: own + (gap if sizes[j] <= middle else gap * (ONE * middle // sizes[j]) >> 16)
            for j, gap in gaps.items()
        }
