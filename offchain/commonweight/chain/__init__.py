"""The chain room: typed contract clients, the transaction sender and its journal, the event follower, keys,
local chain.

Nothing is imported here, so that a command which needs no chain does not load web3.
"""
