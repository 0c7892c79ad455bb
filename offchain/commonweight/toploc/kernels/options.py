"""How all kernels are compiled: once, without the interpreter's lock, and without checks that never fire."""

EXACT = {"cache": True, "nogil": True, "boundscheck": False, "error_model": "numpy"}
WHOLE = {**EXACT, "fastmath": {"contract", "reassoc"}}
"""For float64 that only ever holds whole numbers below 2**53: sums and fused products are exact in any order."""
