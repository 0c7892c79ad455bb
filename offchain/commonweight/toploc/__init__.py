"""TOPLOC (arXiv 2501.16007 and successors): did this model really make these hidden states, and choose these tokens?"""

from .proofs import ProofStats, build, chunk_count, decode, encode, verify

__all__ = ["ProofStats", "build", "chunk_count", "decode", "encode", "verify"]
