"""The role loops: each is a fold of the chain, a list of duties, and idempotent acts."""
