"""Small artifacts for traces: model versions of one leaf, updates, headers and decoys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from commonweight.core import merkle, seeds
from commonweight.core.hashing import abi_sha256
from commonweight.core.state import Dispute
from commonweight.core.works import Header
from tests.reference import merge

Opening = tuple[bytes, list[bytes]]
LANES = merkle.LEAF // 4
TRAJECTORIES = 3
NOTHING: Opening = (b"", [])


def lanes(seed: bytes, span: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """256 lanes in ``-span..span``."""
    return np.random.default_rng(int.from_bytes(seed[:8], "big")).integers(-span, span + 1, LANES)


@dataclass(slots=True)
class Artifacts:
    """Every artifact of a trace by its root, and the (leaf, lane) in which a proposed version is wrong."""

    data: dict[bytes, bytes] = field(default_factory=dict)
    faults: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def put(self, artifact: bytes) -> bytes:
        """Its root."""
        root = merkle.root(artifact)
        self.data[root] = artifact
        return root

    def get(self, root: bytes) -> bytes:
        """The artifact, or one that is not it when nobody has it."""
        return self.data.get(root, bytes(2 * merkle.LEAF))

    def version(self, rng: Random) -> bytes:
        """A random model version."""
        parts = [lanes(rng.randbytes(8), 2 ** rng.choice((0, 8, 24, 31)) - 1) for _ in range(2)]
        return self.put(np.concatenate(parts).astype("<i4").tobytes())

    def merge(
        self, base: bytes, roots: Sequence[bytes], late: Sequence[bool], rule: Mapping[str, int]
    ) -> bytes:
        """Root of the right merge."""
        both = np.frombuffer(base, dtype="<i4").astype(np.int64)
        updates = [np.frombuffer(self.data[root], dtype="<i4").astype(np.int64) for root in roots]
        terms = [rule[name] for name in ("shift", "trim", "lrNum", "lrDen", "momentumNum", "momentumDen")]
        new = merge.merge(both[:LANES], both[LANES:], updates, late, merge.Rule(*terms))
        return self.put(np.concatenate(new).astype("<i4").tobytes())

    def wrong(self, right: bytes | None, rng: Random) -> bytes:
        """Root of a version that differs in one lane, or of one that nobody knows."""
        if right is None or rng.random() < 0.3:
            return b"w" * 32
        both = np.frombuffer(self.data[right], dtype="<i4").copy()
        leaf, lane = rng.randrange(2), rng.randrange(LANES)
        both[leaf * LANES + lane] ^= 1
        root = self.put(both.tobytes())
        self.faults[root] = (leaf, lane)
        return root


def plain_header(artifacts: Artifacts, secret: bytes, decoy: bool, odd: bool) -> Header:
    """The header of the work that belongs to a secret, with all that it names; odd: its update is too long."""
    update = lanes(abi_sha256(secret, 2), 40_000).astype("<i4").tobytes() * (2 if odd else 1)
    steps = b"".join(abi_sha256(secret, 3, i) + bytes(992) for i in range(5))
    listed = b"".join(_trajectory(artifacts, secret, i, decoy) for i in range(TRAJECTORIES))
    roots = artifacts.put(update), artifacts.put(listed), artifacts.put(steps)
    return Header(roots[0], len(update), roots[1], TRAJECTORIES, roots[2], 5, abi_sha256(secret, 4))


def _trajectory(artifacts: Artifacts, secret: bytes, index: int, decoy: bool) -> bytes:
    words = seeds.decoy_noise(secret if decoy else bytes(32), index)
    proof = b"\0\0" + b"".join(x.to_bytes(2, "big") for x in words) + bytes(10)
    return (bytes(40) + artifacts.put(proof)).ljust(merkle.LEAF, b"\0")


def decoy_of(artifacts: Artifacts, header: Header, index: int) -> tuple[Opening, int, Opening]:
    """``Types.DecoyProof`` of the trajectory ``index``."""
    listed = merkle.open_leaf(artifacts.data[header.trajectory_root], index)
    proof = artifacts.data[listed.leaf[40:72]]
    first = merkle.open_leaf(proof, 0)
    return (listed.leaf, list(listed.path)), len(proof), (first.leaf, list(first.path))


def some_leaf(artifacts: Artifacts, header: Header, d: Dispute) -> Opening:
    """The leaf that a dispute is about; nothing where the work has none."""
    roots = {1: header.update_root, 2: header.trajectory_root, 3: header.step_root}
    artifact = artifacts.data[roots[d.tree]] if d.tree in roots else b""
    if d.leaf >= merkle.leaf_count(len(artifact)):
        return NOTHING
    shown = merkle.open_leaf(artifact, d.leaf)
    return shown.leaf, list(shown.path)
