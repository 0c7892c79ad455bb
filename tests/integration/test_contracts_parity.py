"""The reference model agrees with the contracts on random lives, action by action (tests/reference/protocol)."""

from __future__ import annotations

import pytest

from tests.reference.protocol.__main__ import play

pytestmark = [pytest.mark.chain, pytest.mark.slow]

EXPECTED = {
    "Panel.sealVotes",
    "Panel.settle",
    "Panel.forfeit",
    "Tasks.openSeal",
    "Tasks.propose",
    "Tasks.proveMerge",
    "Tasks.advance",
    "Court.answer",
    "Court.rule",
}


def test_model_and_contracts_agree() -> None:
    """Every error, event and view of a thousand calls, a third of them refused; a failure names its replay."""
    traces = [play(seed, 300) for seed in (7, 11, 23)]
    assert sum(trace.mirror.refused for trace in traces) > 100, "invalid calls are part of a life"
    assert not EXPECTED - {name for trace in traces for name in trace.done}, "and so is all that is usual"
