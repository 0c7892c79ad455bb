"""`commonweight demo-diloco`: a swarm of real processes that loses members, takes in a joiner, and agrees."""
