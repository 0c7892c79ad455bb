"""A second implementation of Vault, Panel, Tasks and Court, to be compared with the contracts action by action.

It decides in plain Python what a call emits or with which error it is refused. What the events make of the world is
not written again: that is `core.fold`, which every node uses, so the comparison tests the fold as well. Terms are
`core.economics`, the draws `core.seeds`, trees `core.merkle`, the merge `tests.reference.merge`.
"""

from .world import Contract, Revert, World

__all__ = ["Contract", "Revert", "World"]
