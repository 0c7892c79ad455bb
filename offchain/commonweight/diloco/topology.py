"""Who exchanges with whom: graphs over the members of a swarm, their mixing matrices and spectral gaps.

Everybody computes the same graph from ``(name, members, seed)``; nobody is asked for a list of neighbours. Random
choices come from hashes, because library generators may change their streams between versions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np
import numpy.typing as npt

from ..core.errors import CommonweightError
from ..core.seeds import shuffled, uniform

Floats = npt.NDArray[np.float64]
Edges = set[tuple[int, int]]
NAMES = ("ring", "expander", "small-world", "exponential", "hypercube", "complete")
ATTEMPTS = 1000


@dataclass(frozen=True, slots=True)
class Topology:
    """An undirected graph over nodes ``0..n-1``; ``links[i]`` are the neighbours of ``i``, ascending."""

    name: str
    links: tuple[tuple[int, ...], ...]

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.links)

    def neighbours(self, node: int, alive: Collection[int] | None = None) -> tuple[int, ...]:
        """Neighbours of ``node`` among the members that are alive (all by default)."""
        return tuple(j for j in self.links[node] if alive is None or j in alive)

    def row(self, node: int, alive: Collection[int] | None = None) -> dict[int, Fraction]:
        """Metropolis weights of ``node``'s neighbours, exact: ``1 / (1 + max(degree_i, degree_j))``.

        Metropolis-Hastings weights (Xiao and Boyd, Systems & Control Letters 53, 2004) make the matrix symmetric and
        doubly stochastic whatever the graph, and need only the degrees of neighbours. A lost member's share falls
        back to the node itself.
        """
        mine = self.neighbours(node, alive)
        return {j: Fraction(1, 1 + max(len(mine), len(self.neighbours(j, alive)))) for j in mine}

    def integer_row(self, node: int, alive: Collection[int] | None = None) -> tuple[dict[int, int], int]:
        """The row as integer numerators over one common denominator, for the integer-exact mixing step."""
        row = self.row(node, alive)
        denominator = lcm(*(w.denominator for w in row.values())) if row else 1
        return {j: int(w * denominator) for j, w in row.items()}, denominator

    def mixing(self, alive: Collection[int] | None = None) -> Floats:
        """Mixing matrix ``W`` of shape ``(n, n)``; rows of dead members are those of the identity."""
        w = np.eye(self.n)
        for i in range(self.n) if alive is None else alive:
            for j, weight in self.row(i, alive).items():
                w[i, j] = float(weight)
                w[i, i] -= float(weight)
        return w

    @property
    def gap(self) -> float:
        """Spectral gap ``1 - max(|lambda_2|, |lambda_n|)`` of the mixing matrix; 1 for a single node."""
        if self.n == 1:
            return 1.0
        values = np.linalg.eigvalsh(self.mixing())
        return float(1.0 - max(abs(values[0]), abs(values[-2])))

    @property
    def least_eigenvalue(self) -> float:
        """Smallest eigenvalue of the mixing matrix. Accelerated mixing needs it above `stable_above`."""
        return float(np.linalg.eigvalsh(self.mixing())[0])

    @property
    def connected(self) -> bool:
        """Whether every node can reach every other."""
        return _connected(self.links)

    def describe(self) -> str:
        """One line for people: size, degrees, gap, and rounds until plain mixing shrinks disagreement 100 times."""
        degrees = [len(row) for row in self.links]
        rounds = 1 if self.gap >= 1 - 1e-9 else int(np.ceil(np.log(0.01) / np.log(1 - self.gap)))
        return (
            f"{self.name} over {self.n} nodes: degree {min(degrees)} to {max(degrees)}, "
            f"spectral gap {self.gap:.4f}, disagreement falls 100 times in {rounds} rounds of mixing"
        )


def stable_above(lr: float, momentum: float) -> float:
    """Smallest eigenvalue of ``W`` below which Nesterov-accelerated mixing diverges.

    With graph eigenvalue ``mu = 1 - lambda`` the recursion of (weights, momentum) is
    ``[[1 - lr (1 + b) mu, -lr b^2], [mu, b]]``: stable iff ``lr mu < 2 (1 + b) / (1 + 2 b)`` (Jury's criterion).
    """
    return 1.0 - 2 * (1 + momentum) / (1 + 2 * momentum) / lr


def build(name: str, n: int, *, degree: int = 4, rewire: float = 0.3, seed: int = 0) -> Topology:
    """Topology ``name`` over ``n`` nodes; ``degree`` is for expander and small-world, ``rewire`` for small-world.

    Degrees are capped at ``n - 1``, so that small swarms work. Raises E1701 on a name or number that names no graph.
    """
    if n < 1 or degree < 2 or not 0 <= rewire <= 1:
        raise _bad(f"no graph has {n} nodes, degree {degree} and rewiring probability {rewire}")
    key = b"%s/%d/%d/%d" % (name.encode(), n, degree, seed)
    if name == "ring":
        edges = _ring(n, 1)
    elif name == "complete":
        edges = {(i, j) for i in range(n) for j in range(i + 1, n)}
    elif name == "expander":
        edges = _expander(n, degree, key)
    elif name == "small-world":
        edges = _small_world(n, degree, rewire, key)
    elif name == "exponential":
        edges = _exponential(n)
    elif name == "hypercube":
        edges = _hypercube(n)
    else:
        raise _bad(f"there is no topology {name!r}")
    return Topology(name, _links(n, edges))


def _bad(message: str) -> CommonweightError:
    return CommonweightError("E1701", message, f"topologies are {', '.join(NAMES)}")


def _edge(i: int, j: int) -> tuple[int, int]:
    return (i, j) if i < j else (j, i)


def _links(n: int, edges: Iterable[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    rows: list[list[int]] = [[] for _ in range(n)]
    for i, j in edges:
        rows[i].append(j)
        rows[j].append(i)
    return tuple(tuple(sorted(row)) for row in rows)


def _connected(links: tuple[tuple[int, ...], ...]) -> bool:
    seen, queue = {0}, [0]
    while queue:
        fresh = set(links[queue.pop()]) - seen
        seen |= fresh
        queue += fresh
    return len(seen) == len(links)


def _ring(n: int, reach: int) -> Edges:
    """Each node with the ``reach`` next ones on either side."""
    return {_edge(i, (i + k) % n) for i in range(n) for k in range(1, reach + 1) if (i + k) % n != i}


def _expander(n: int, degree: int, key: bytes) -> Edges:
    """A connected random regular graph: an expander with high probability (Friedman, arXiv cs/0405020).

    Starts from a circulant graph and swaps endpoints of random pairs of edges, which keeps degrees; of several draws
    the one with the widest gap is taken. An odd ``degree * n`` lowers the degree by one.
    """
    degree = min(degree, n - 1)
    degree -= degree * n % 2
    if degree >= n - 1 or degree < 3:
        return _ring(n, max(1, (degree + 1) // 2)) if degree < n - 1 else _ring(n, n // 2)
    best: tuple[float, Edges] | None = None
    for draw in range(4):
        edges = _swapped(_circulant(n, degree), key + b"/%d" % draw)
        candidate = Topology("expander", _links(n, edges))
        if candidate.connected and (best is None or candidate.gap > best[0]):
            best = (candidate.gap, edges)
    return best[1] if best else _circulant(n, degree)


def _circulant(n: int, degree: int) -> Edges:
    edges = _ring(n, degree // 2)
    if degree % 2:
        edges |= {_edge(i, i + n // 2) for i in range(n // 2)}
    return edges


def _swapped(start: Edges, key: bytes) -> Edges:
    """Random double edge swaps, ten per edge: (a, b), (c, d) become (a, d), (c, b) where that makes no loop or pair."""
    edges = sorted(start)
    present = set(edges)
    draws = uniform(key, "swap", 20 * len(edges), 2 * len(edges) ** 2)
    for draw in draws:
        first, rest = draw % len(edges), draw // len(edges)
        second, flip = rest % len(edges), rest // len(edges)
        (a, b), (c, d) = edges[first], edges[second]
        if flip:
            c, d = d, c
        if len({a, b, c, d}) < 4:
            continue
        new = (_edge(a, d), _edge(c, b))
        if present & set(new):
            continue
        present -= {edges[first], edges[second]}
        present |= set(new)
        edges[first], edges[second] = new
    return present


def _small_world(n: int, degree: int, rewire: float, key: bytes) -> Edges:
    """Watts-Strogatz (Nature 393, 1998): a ring lattice of even degree, each lattice edge rewired with ``rewire``.

    Drawn again until connected: the ring of nearest neighbours may be rewired away, the graph may not fall apart.
    """
    reach = max(1, min(degree, n - 1) // 2)
    for attempt in range(ATTEMPTS):
        edges = _ring(n, reach)
        for k, (i, j) in enumerate(sorted(edges)):
            coin, target = uniform(key + b"/%d/%d" % (attempt, k), "rewire", 2, 2**53)
            new = _edge(i, target % n)
            if coin < rewire * 2**53 and new[0] != new[1] and new not in edges:
                edges.remove((i, j))
                edges.add(new)
        if _connected(_links(n, edges)):
            return edges
    return _ring(n, reach)


def _exponential(n: int) -> Edges:
    """Static exponential graph (Ying et al., arXiv 2110.13363), made undirected: neighbours at distance 1, 2, 4, ..."""
    return {
        _edge(i, (i + (1 << k)) % n)
        for i in range(n)
        for k in range(max(1, (n - 1).bit_length()))
        if (i + (1 << k)) % n != i
    }


def _hypercube(n: int) -> Edges:
    """Nodes whose numbers differ in one bit; for ``n`` that is no power of two, an incomplete hypercube (connected)."""
    return {(i, i ^ (1 << k)) for i in range(n) for k in range(n.bit_length()) if i < i ^ (1 << k) < n}


def epoch_order(seed: bytes, n: int) -> tuple[int, ...]:
    """Which member sits at which node in one epoch: a permutation of ``range(n)`` drawn by hash from the beacon."""
    return shuffled(seed, n)
