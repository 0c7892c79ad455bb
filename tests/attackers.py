"""Members of a swarm that lie, each with a name: what they send instead of their pseudo-gradient."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from commonweight.diloco.rounds import Int64, Tamper


def sign_flip(lanes: Int64) -> Int64:
    """Undoes the training of an honest member."""
    return -lanes


def sign_flip_doubled(lanes: Int64) -> Int64:
    """Undoes the training of two honest members, in a message that is not conspicuously long."""
    return -2 * lanes


def scaled(lanes: Int64) -> Int64:
    """Ten times the honest message, the wrong way round."""
    return -10 * lanes


@dataclass
class Noise:
    """Gaussian noise of ten times the honest norm."""

    seed: int = 0
    rounds: int = 0

    def __call__(self, lanes: Int64) -> Int64:
        self.rounds += 1
        noise = np.random.default_rng((self.seed, self.rounds)).normal(size=lanes.size)
        size = 10 * float(np.linalg.norm(lanes.astype(np.float64))) / float(np.linalg.norm(noise))
        return np.rint(noise * size).astype(np.int64)


@dataclass
class Collusion:
    """Members who see every honest message and send three times its mean, the wrong way round.

    `witness` is the tamper of an honest member (it only listens), `attack` that of a colluder; members are run in the
    order of their numbers, so colluders have the highest ones.
    """

    seen: list[Int64] = field(default_factory=list)
    over: bool = False

    def witness(self, lanes: Int64) -> Int64:
        """Pass on unchanged, remembered until the next round."""
        if self.over:
            self.seen.clear()
            self.over = False
        self.seen.append(lanes)
        return lanes

    def attack(self, lanes: Int64) -> Int64:
        """Minus three times the mean of what honest members sent in this round."""
        self.over = True
        return -3 * np.mean(self.seen, axis=0).astype(np.int64) if self.seen else lanes


ATTACKS = ("sign flip", "sign flip x2", "scaled", "noise", "collusion")


def tampers(attack: str, members: int, attackers: int) -> list[Tamper | None]:
    """Tampers of all members: honest first, the last ``attackers`` lie."""
    honest = members - attackers
    if attack == "collusion":
        plot = Collusion()
        return [plot.witness] * honest + [plot.attack] * attackers
    makers = {
        "sign flip": lambda i: sign_flip,
        "sign flip x2": lambda i: sign_flip_doubled,
        "scaled": lambda i: scaled,
        "noise": lambda i: Noise(i),
    }
    return [None] * honest + [makers[attack](i) for i in range(attackers)]
