"""`commonweight topology`: what a graph is like before anybody trains over it."""

from __future__ import annotations

from ...diloco.profiles import PROFILES
from ...diloco.topology import NAMES, Topology, build, stable_above

SHOWN = 16


def print_topology(name: str, nodes: int, degree: int, seed: int, matrix: bool) -> None:
    """Gap, mixing time, stability under the outer step, and on request neighbours and weights. Raises E1701."""
    for each in NAMES if name == "all" else (name,):
        graph = build(each, nodes, degree=degree, seed=seed)
        print(graph.describe())
        if name != "all":
            _details(graph)
            if matrix:
                _matrix(graph)


def _details(graph: Topology) -> None:
    least = graph.least_eigenvalue
    for chosen in PROFILES.values():
        if chosen.gossip:
            rule = chosen.outer
            bound = stable_above(rule.lr_num / rule.lr_den, rule.momentum_num / rule.momentum_den)
            word = "stable" if least > bound else "DIVERGES"
            print(f"profile {chosen.name}: {word} (least eigenvalue {least:.3f}, must lie above {bound:.3f})")
    for i, row in enumerate(graph.links[:SHOWN]):
        print(f"{i:4d}: {' '.join(map(str, row))}")
    if graph.n > SHOWN:
        print(f"      ... {graph.n - SHOWN} more")


def _matrix(graph: Topology) -> None:
    for row in graph.mixing():
        print(" ".join(f"{w:6.4f}" if w else "     ." for w in row))
