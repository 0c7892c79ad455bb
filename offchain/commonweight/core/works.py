"""What a lease delivers, committed as one root: the header, its meta record, and one leaf per trajectory and segment.

``work root`` is the name of the header artifact; every other piece is an artifact named inside it. The trace of
steps and the list of trajectories are artifacts whose i-th 1 KiB leaf is the i-th record, so one Merkle opening
shows one record to the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from . import codec, merkle
from .codec import B20, B32, U16, U32, U64
from .errors import EncodingError
from .hashing import word

T = TypeVar("T", "StepLeaf", "TrajectoryLeaf")

TREE_HEADER, TREE_UPDATE, TREE_TRAJECTORIES, TREE_STEPS = range(4)
WITHHELD = 2**32 - 1
META_BYTES = 4096
"""Bound of a meta record, in bytes."""
NONE = bytes(32)
"""In place of a root: there is no such artifact."""


@dataclass(frozen=True, slots=True)
class Header:
    """The ABI struct behind a work root (contracts: ``Types.Header``); ``update_length`` in bytes."""

    update_root: bytes
    update_length: int
    trajectory_root: bytes
    trajectory_count: int
    step_root: bytes
    step_count: int
    meta_root: bytes

    def encode(self) -> bytes:
        """``abi.encode(header)``: 224 bytes."""
        return b"".join(
            word(v)
            for v in (
                self.update_root,
                self.update_length,
                self.trajectory_root,
                self.trajectory_count,
                self.step_root,
                self.step_count,
                self.meta_root,
            )
        )

    @property
    def root(self) -> bytes:
        """The work root: name of the header artifact."""
        return merkle.root(self.encode())

    @staticmethod
    def decode(data: bytes) -> Header:
        """Strict inverse of `encode`."""
        if len(data) != 224:
            raise EncodingError(f"a header has 224 bytes, not {len(data)}")
        words = [data[i : i + 32] for i in range(0, 224, 32)]
        update_length, trajectories, steps = (int.from_bytes(words[i], "big") for i in (1, 3, 5))
        if update_length >= 1 << 64 or trajectories >= 1 << 32 or steps >= 1 << 32:
            raise EncodingError("a count in the header is out of range")
        return Header(words[0], update_length, words[2], trajectories, words[4], steps, words[6])


@dataclass(frozen=True, slots=True)
class Meta:
    """Binds a work to its lease: a copied root is invalid by construction, and ``blinding`` hides the rest.

    ``profile``: the trainer's numeric profile. ``sketches``: the artifact of all segments' sketches, in order.
    ``sources``: accepted rollout works that the lease also learns from.
    Where the spec names a codec for updates: ``wire`` is the update in that codec, ``residual`` the lanes that it
    dropped, ``previous`` the trainer's earlier work whose residual was added before; else zero.
    """

    chain_id: U64
    tasks: B20
    task: U64
    round: U32
    slot: U16
    trainer: B20
    spec: B32
    base: B32
    seed: B32
    end_state: B32
    blinding: B32
    profile: str
    sketches: B32
    sources: tuple[B32, ...] = ()
    wire: B32 = NONE
    residual: B32 = NONE
    previous: B32 = NONE


@dataclass(frozen=True, slots=True)
class StepLeaf:
    """One segment: state roots before and after, the hash of its batches, its mean loss (nats per token)."""

    index: U32
    pre: B32
    post: B32
    batch: B32
    loss: float


@dataclass(frozen=True, slots=True)
class TrajectoryLeaf:
    """The first batch of one segment as an observation: token hash, count, and the TOPLOC proof's artifact."""

    index: U32
    tokens: B32
    count: U32
    proof: B32


def pack(leaves: Sequence[StepLeaf] | Sequence[TrajectoryLeaf]) -> bytes:
    """Artifact with one record per 1 KiB leaf."""
    return b"".join(codec.encode(leaf).ljust(merkle.LEAF, b"\x00") for leaf in leaves)


def unpack(cls: type[T], data: bytes, count: int) -> tuple[T, ...]:
    """Strict inverse of `pack`: exactly ``count`` records, each naming its own index."""
    if len(data) != count * merkle.LEAF:
        raise EncodingError(f"{count} leaves have {count * merkle.LEAF} bytes, not {len(data)}")
    return tuple(unpack_leaf(cls, data[i * merkle.LEAF : (i + 1) * merkle.LEAF], i) for i in range(count))


def unpack_leaf(cls: type[T], leaf: bytes, index: int) -> T:
    """Decode one record leaf; padding must be zero and the record must name ``index``."""
    size = 32 * 3 + 4 + 8 if cls is StepLeaf else 32 * 2 + 4 + 4
    record = codec.decode(cls, leaf[:size])
    if any(leaf[size:]) or record.index != index:
        raise EncodingError(f"leaf {index} is not a canonical {cls.__name__}")
    return record
