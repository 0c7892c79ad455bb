"""Coverage-guided fuzzing of every decoder: `make fuzz` (RUNS=10000000 TARGETS="proofs sketch" for a long run)."""
