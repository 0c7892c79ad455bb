"""Collectives: codecs, peers over TCP, ring all-reduce, neighbour exchange, membership and recovery.

Imports core only (the torch.distributed adapter also torch), so that any room above may build on it.
"""
