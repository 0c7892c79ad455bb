"""TOPLOC (arXiv 2501.16007 and successors): did this model really make these hidden states, and choose these tokens?

Our own interface: `build`, `encode`, `decode`, `verify`, `fault` for activation proofs, `sampling` for tokens. The four
functions of the published `toploc` package are here too, under its names and with its bytes (see `compat`).
"""

from .compat import (
    VerificationResult,
    build_proofs_base64,
    build_proofs_bytes,
    verify_proofs_base64,
    verify_proofs_bytes,
)
from .proofs import Proofs, ProofStats, build, chunk_count, decode, encode, fault, verify

__all__ = [
    "ProofStats",
    "Proofs",
    "VerificationResult",
    "build",
    "build_proofs_base64",
    "build_proofs_bytes",
    "chunk_count",
    "decode",
    "encode",
    "fault",
    "verify",
    "verify_proofs_base64",
    "verify_proofs_bytes",
]
