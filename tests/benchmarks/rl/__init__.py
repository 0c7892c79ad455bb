"""`make bench-rl`: reinforcement learning beside its peers, in one run, with a key per row of the table."""
