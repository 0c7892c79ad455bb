"""`make bench-collectives`: our all-reduce beside gloo's and PCCL's, and on a slow link."""
