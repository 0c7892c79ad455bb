"""The named profiles: each is buildable as it stands and learns; what would diverge or not fit is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from commonweight.core.errors import CommonweightError
from commonweight.core.spec import ModelSpec, TrainingSpec
from commonweight.diloco import outer
from commonweight.diloco.local import InnerLoop, InnerSpec, Text
from commonweight.diloco.plot import Series, plot
from commonweight.diloco.profiles import PROFILES, make_worker, profile, require_size, topology_of
from commonweight.diloco.rounds import Plan
from commonweight.diloco.swarm import Traffic, run_round
from commonweight.models import initial_parameters, pin

MODEL = ModelSpec(dim=16, layers=1, heads=2, hidden=24, context=16)
TEXT = Text.split(MODEL, bytes(range(97, 123)) * 80, batch=2, seed=3, windows=8)
N = 5


def test_there_are_four() -> None:
    assert list(PROFILES) == ["cohort", "gossip", "thin", "edge"]
    with pytest.raises(CommonweightError) as caught:
        profile("mesh")
    assert caught.value.code == "E1708"


@pytest.mark.parametrize("name", PROFILES)
def test_a_swarm_of_each_profile_learns(name: str) -> None:
    pin()
    chosen = profile(name)
    graph, version = topology_of(chosen, N), outer.start(initial_parameters(MODEL).numpy(), chosen.outer)
    spec = InnerSpec(chosen.optimizer, TrainingSpec(lr=0.01, batch=2))
    workers = {i: make_worker(chosen, i, InnerLoop(TEXT, spec, i), version, graph) for i in range(N)}
    plans = [Plan(r, tuple(range(N)), 4, (r / 3, (r + 1) / 3)) for r in range(3)]
    for plan in plans:
        run_round(workers, dict.fromkeys(range(N), plan), Traffic())
    before = TEXT.loss(outer.weights_of(version, chosen.outer))
    assert TEXT.loss(outer.weights_of(workers[0].version, chosen.outer)) < before - 0.15


def test_topk_and_two_bits_stay_out_of_gossip_and_momentum_out_of_topk() -> None:
    for chosen in PROFILES.values():
        if chosen.gossip:
            assert chosen.up.startswith(("int4", "int8"))
        if chosen.up.startswith("topk"):
            assert chosen.outer.momentum_num == 0


def test_a_graph_on_which_mixing_diverges_is_refused() -> None:
    wild = replace(profile("gossip"), topology="hypercube", outer=replace(outer.NESTEROV, lr_num=10))
    with pytest.raises(CommonweightError) as caught:
        topology_of(wild, 8)
    assert caught.value.code == "E1711"


def test_the_edge_profile_is_for_small_models() -> None:
    require_size(profile("edge"), 1_000_000)
    require_size(profile("cohort"), 10**9)
    with pytest.raises(CommonweightError) as caught:
        require_size(profile("edge"), 1_000_001)
    assert caught.value.code == "E1709"


def test_plots_are_svg_whatever_the_points() -> None:
    import xml.etree.ElementTree as ElementTree

    for series in (
        [],
        [Series("a<b", ())],
        [Series("x", ((1.0, float("nan")), (0.0, 2.0), (10.0, 3.0)), dots=True)],
    ):
        for log in (False, True):
            root = ElementTree.fromstring(plot("t & t", "x", "y", series, log_x=log))
            assert root.tag.endswith("svg")
