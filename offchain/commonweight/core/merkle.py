"""The one Merkle tree: it names artifacts for transport and opens single leaves for the chain.

SHA-256 over 1 KiB leaves with domain tags; an odd last node is promoted (the shape of RFC 6962), so every
aligned 4 MiB shard is a subtree; the byte length, hence the leaf count, is bound into the root.
``contracts/libraries/Tree.sol`` computes the same; ``tests/vectors/tree.json`` holds both to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from .errors import CommonweightError, EncodingError
from .fast import Kernels

LEAF = 1024
SHARD_LEAVES = 4096
SHARD = LEAF * SHARD_LEAVES
MAX_LENGTH = 1 << 40
MANY = 96
"""From so many rows on, hashing them in one call can be sooner."""
_SHARD_LEVEL = SHARD_LEAVES.bit_length() - 1
_kernels = Kernels("commonweight.core.sha_lanes", 1 << 31)


def leaf_hash(data: bytes) -> bytes:
    """Hash one leaf of at most 1024 bytes, zero-padded."""
    return sha256(b"\x00" + data.ljust(LEAF, b"\x00")).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash an inner node."""
    return sha256(b"\x01" + left + right).digest()


def leaf_count(length: int) -> int:
    """Number of leaves of an artifact of ``length`` bytes."""
    return -(-length // LEAF)


def shard_count(length: int) -> int:
    """Number of 4 MiB shards of an artifact of ``length`` bytes."""
    return -(-length // SHARD)


def _level_up(nodes: Sequence[bytes]) -> list[bytes]:
    paired = [sha256(b"\x01" + nodes[i] + nodes[i + 1]).digest() for i in range(0, len(nodes) - 1, 2)]
    if len(nodes) % 2:
        paired.append(nodes[-1])
    return paired


def fold(nodes: Sequence[bytes]) -> bytes:
    """Reduce one level of nodes to the top of its tree."""
    level = list(nodes)
    while len(level) > 1:
        level = _level_up(level)
    return level[0]


def _many(data: bytes | memoryview, width: int, tag: int) -> bytes | None:
    """Hashes, joined, of all rows of ``width`` bytes in one call of a compiled kernel; None where that is no sooner."""
    if len(data) < MANY * width:
        return None
    kernel = _kernels.get(len(data))
    found: bytes | None = kernel.digests(data, width, tag) if kernel is not None and kernel.sooner else None
    return found


def _fold_joined(level: bytes) -> bytes:
    """`fold` of nodes that stand one behind the other."""
    while (pairs := _many(level[: len(level) // 64 * 64], 64, 1)) is not None:
        level = pairs + level[len(level) // 64 * 64 :]
    return fold([level[i : i + 32] for i in range(0, len(level), 32)])


def shard_hash(data: bytes | memoryview) -> bytes:
    """Top of the subtree over one shard of at most 4 MiB."""
    if not 0 < len(data) <= SHARD:
        raise EncodingError(f"a shard has 1..{SHARD} bytes, not {len(data)}")
    view = memoryview(data)
    full = len(view) // LEAF * LEAF
    joined = _many(view[:full], LEAF, 0)
    if joined is None:
        return fold(_leaves(view))
    return _fold_joined(joined + (leaf_hash(bytes(view[full:])) if full < len(view) else b""))


def _leaves(data: bytes | memoryview) -> list[bytes]:
    view = memoryview(data)
    full = len(view) // LEAF * LEAF
    tagged = sha256(b"\x00")

    def one(chunk: memoryview) -> bytes:
        h = tagged.copy()
        h.update(chunk)
        return h.digest()

    out = [one(view[i : i + LEAF]) for i in range(0, full, LEAF)]
    if full < len(view):
        out.append(leaf_hash(bytes(view[full:])))
    return out


def root_of_shards(length: int, shards: Sequence[bytes]) -> bytes:
    """Root of an artifact of ``length`` bytes from the hashes of its shards."""
    _check_length(length)
    if len(shards) != shard_count(length):
        raise EncodingError(f"{length} bytes have {shard_count(length)} shards, not {len(shards)}")
    return bind(length, fold(shards))


def bind(length: int, top: bytes) -> bytes:
    """Root from the byte length and the top node."""
    return sha256(b"\x02" + length.to_bytes(8, "big") + top).digest()


def root(data: bytes | memoryview) -> bytes:
    """Root of a whole artifact held in memory."""
    _check_length(len(data))
    view = memoryview(data)
    return root_of_shards(len(data), [shard_hash(view[i : i + SHARD]) for i in range(0, len(view), SHARD)])


def _check_length(length: int) -> None:
    if not 0 < length <= MAX_LENGTH:
        raise EncodingError(f"an artifact has 1..{MAX_LENGTH} bytes, not {length}")


@dataclass(frozen=True, slots=True)
class Opening:
    """One leaf of an artifact with its path: what the chain needs to see a leaf."""

    length: int
    index: int
    leaf: bytes
    path: tuple[bytes, ...]


def open_leaf(data: bytes | memoryview, index: int) -> Opening:
    """Open leaf ``index`` of an artifact. Raises `EncodingError` when there is no such leaf."""
    _check_length(len(data))
    level = _leaves(data)
    if not 0 <= index < len(level):
        raise EncodingError(f"no leaf {index} among {len(level)}")
    leaf = bytes(memoryview(data)[index * LEAF : (index + 1) * LEAF]).ljust(LEAF, b"\x00")
    path: list[bytes] = []
    at = index
    while len(level) > 1:
        sibling = at ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _level_up(level)
        at >>= 1
    return Opening(len(data), index, leaf, tuple(path))


def verify_leaf(expected_root: bytes, opening: Opening) -> bool:
    """True when the opening belongs to the root. Total: never raises on hostile values."""
    width, at = leaf_count(opening.length), opening.index
    if not (0 < opening.length <= MAX_LENGTH and 0 <= at < width and len(opening.leaf) == LEAF):
        return False
    path: Iterator[bytes] = iter(opening.path)
    node = leaf_hash(opening.leaf)
    while width > 1:
        if not (at == width - 1 and width % 2):
            sibling = next(path, None)
            if sibling is None or len(sibling) != 32:
                return False
            node = node_hash(sibling, node) if at % 2 else node_hash(node, sibling)
        at >>= 1
        width = (width + 1) // 2
    return next(path, None) is None and bind(opening.length, node) == expected_root


def require_root(data: bytes | memoryview, expected: bytes, what: str) -> None:
    """Raise E1102 unless ``data`` is the artifact named ``expected``."""
    got = root(data)
    if got != expected:
        raise CommonweightError(
            "E1102",
            f"{what} does not match its root: expected {expected.hex()}, got {got.hex()}",
            "fetch it again from another node",
        )
