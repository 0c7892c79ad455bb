"""TOPLOC activation proofs (arXiv 2501.16007): did this model really make these hidden states?"""

from .proofs import ProofStats, build, chunk_count, decode, encode, verify

__all__ = ["ProofStats", "build", "chunk_count", "decode", "encode", "verify"]
