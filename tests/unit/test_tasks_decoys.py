"""Decoys: the lottery, the noise, and that a check sees them while nothing else of the work is wrong."""

from __future__ import annotations

from hashlib import sha256

from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from commonweight.core import merkle, seeds
from commonweight.core.verdict import Outcome
from commonweight.core.works import TREE_TRAJECTORIES, TrajectoryLeaf, unpack
from commonweight.nodes import exhibits
from commonweight.tasks.decoys import NOISE_AT, NOISE_BYTES, decoy_of
from tests.leases import Shelf, tiny

SECRET = b"secret".ljust(32, b"!")
P = 65_497


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(0, 300))
def test_hashes_are_those_of_abi_encode(secret: bytes, seed: bytes, item: int) -> None:
    digest = sha256(encode(["string", "bytes32", "uint256"], ["decoy", secret, item])).digest()
    words = tuple(int.from_bytes(digest[i : i + 2], "big") % P for i in range(0, 32, 2))
    assert seeds.decoy_noise(secret, item) == words
    digest = sha256(encode(["string", "bytes32", "uint256"], ["mandatory", seed, item])).digest()
    assert seeds.mandatory(seed, item, 7) == int.from_bytes(digest, "big") % 7
    drawn = int.from_bytes(sha256(encode(["bytes32", "bytes32"], [secret, seed])).digest(), "big") % 10 == 0
    assert seeds.is_decoy(secret, seed, 10) is drawn
    assert not seeds.is_decoy(secret, seed, 0)


def test_a_check_of_any_segment_finds_a_decoy() -> None:
    task = tiny()
    lease = task.lease()
    honest = task.train(lease)
    decoy = decoy_of(honest, SECRET)
    assert (decoy.header.update_root, decoy.header.step_root) == (
        honest.header.update_root,
        honest.header.step_root,
    )
    shelf = Shelf.of(decoy)
    for index in range(decoy.header.trajectory_count):
        verdict = task.check(lease, shelf, (index,))
        assert (verdict.outcome, verdict.tree, verdict.leaf) == (Outcome.INVALID, TREE_TRAJECTORIES, index)
    assert task.check(lease, Shelf.of(honest), (0,)).outcome is Outcome.VALID


def test_what_the_chain_is_shown_of_a_decoy() -> None:
    task = tiny()
    decoy = decoy_of(task.train(task.lease()), SECRET)
    count = decoy.header.trajectory_count
    leaves = unpack(TrajectoryLeaf, decoy.artifacts[decoy.header.trajectory_root], count)
    for index in range(count):
        (leaf, path), length, (head, proof_path) = exhibits.decoy_proof(
            decoy.header, index, decoy.artifacts.__getitem__
        )
        named = leaf[40:72]
        assert named == leaves[index].proof
        size = count * merkle.LEAF
        assert merkle.verify_leaf(
            decoy.header.trajectory_root, merkle.Opening(size, index, leaf, tuple(path))
        )
        assert merkle.verify_leaf(named, merkle.Opening(length, 0, head, tuple(proof_path)))
        noise = b"".join(w.to_bytes(2, "big") for w in seeds.decoy_noise(SECRET, index))
        assert head[NOISE_AT : NOISE_AT + NOISE_BYTES] == noise
