"""Decoys: works whose activation proofs are visibly wrong, made when a lease's secret says so.

Whoever accepts one did not look. All else of a decoy is honest work. Which trajectory the chain will ask for is not
known yet when the work is submitted, so each of them names a proof that begins with its own noise (contracts:
``Exact.decoy``). The same for every kind: what a trajectory leaf names is spoilt where activation proofs stand.
"""

from __future__ import annotations

from dataclasses import replace

from ..core import merkle
from ..core.seeds import decoy_noise
from ..core.works import TrajectoryLeaf, pack, unpack
from .lease import Product

NOISE_AT = 2
NOISE_BYTES = 32


def spoilt(proof: bytes, secret: bytes, index: int) -> bytes:
    """An activation proof with the noise of ``index`` behind its modulus, in place of its first coefficients."""
    noise = b"".join(word.to_bytes(2, "big") for word in decoy_noise(secret, index))
    return proof[:NOISE_AT].ljust(NOISE_AT, b"\x00") + noise + proof[NOISE_AT + NOISE_BYTES :]


def decoy_of(product: Product, secret: bytes) -> Product:
    """The same work with each activation proof spoilt as ``secret`` says."""
    header, artifacts = product.header, dict(product.artifacts)
    listed = artifacts.pop(header.trajectory_root)
    del artifacts[header.root]
    leaves = []
    for leaf in unpack(TrajectoryLeaf, listed, header.trajectory_count):
        proof = spoilt(product.artifacts[leaf.proof], secret, leaf.index)
        artifacts.pop(leaf.proof, None)
        root = merkle.root(proof)
        artifacts[root] = proof
        leaves.append(replace(leaf, proof=root))
    packed = pack(leaves)
    header = replace(header, trajectory_root=merkle.root(packed))
    artifacts |= {header.trajectory_root: packed, header.root: header.encode()}
    return replace(product, header=header, artifacts=artifacts)
