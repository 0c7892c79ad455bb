"""Environments: where prompts come from and what a completion is worth. Pure: everything random comes from a seed.

The built-in ones are verifiable by arithmetic and small enough to be learnt on a CPU in minutes. One's own environment
is a class with the same four members; see `docs/rl.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..core.errors import CommonweightError
from ..core.hashing import tagged
from ..core.seeds import uniform

UNIT = 1_000_000
"""A reward of one, in the integers that travel: sums and means of rewards are exact."""
MAX_TEXT = 65_536
OWN = "own"
"""What an environment of the publisher's own making is called in a mixture."""


@dataclass(frozen=True, slots=True)
class Task:
    """One question: the prompt that a policy sees, and the answer that only the environment looks at."""

    prompt: str
    answer: str


@runtime_checkable
class Environment(Protocol):
    """What a task kind needs of an environment."""

    @property
    def name(self) -> str:
        """Stable name, with the parameters that change its tasks."""

    def task(self, seed: bytes) -> Task:
        """The task of a 32-byte seed."""

    def score(self, task: Task, turns: Sequence[str]) -> float:
        """Reward of the policy's turns, 0 to 1."""

    def reply(self, task: Task, turns: Sequence[str]) -> str | None:
        """What the environment says after the policy's latest turn; None ends the episode."""


class SingleTurn:
    """Base of environments that answer nothing: reward is half for right positions, half for the exact answer."""

    def __init__(self, name: str, shortest: int, longest: int) -> None:
        if not 1 <= shortest <= longest <= 256:
            raise CommonweightError(
                "E1007", f"environment {name}: sizes {shortest}-{longest} are not within 1..256"
            )
        self._name = f"{name}:{shortest}-{longest}"
        self.shortest, self.longest = shortest, longest

    @property
    def name(self) -> str:
        """Name and sizes."""
        return self._name

    def size(self, seed: bytes) -> int:
        """How long this task is."""
        return self.shortest + uniform(seed, "size", 1, self.longest - self.shortest + 1)[0]

    def task(self, seed: bytes) -> Task:
        """The task of a seed."""
        raise NotImplementedError

    def score(self, task: Task, turns: Sequence[str]) -> float:
        """Half a point for the share of right positions, half for nothing but the right answer."""
        text = turns[-1]
        if text == task.answer:
            return 1.0
        right = sum(a == b for a, b in zip(text, task.answer, strict=False))
        return right / max(len(text), len(task.answer)) / 2

    def reply(self, task: Task, turns: Sequence[str]) -> str | None:
        """One turn is all."""
        return None


def _letters(seed: bytes, count: int, alphabet: str) -> str:
    return "".join(alphabet[i] for i in uniform(seed, "letter", count, len(alphabet)))


class Reverse(SingleTurn):
    """Say a word backwards."""

    def task(self, seed: bytes) -> Task:
        """``r`` and a word of a..j."""
        word = _letters(seed, self.size(seed), "abcdefghij")
        return Task(f"r{word}=", word[::-1])


class Sort(SingleTurn):
    """Put digits into order."""

    def task(self, seed: bytes) -> Task:
        """``s`` and digits."""
        word = _letters(seed, self.size(seed), "0123456789")
        return Task(f"s{word}=", "".join(sorted(word)))


class Add(SingleTurn):
    """Add two numbers with carries."""

    def task(self, seed: bytes) -> Task:
        """``a+b=`` of as many digits each."""
        digits = self.size(seed)
        a, b = uniform(seed, "number", 2, 10**digits)
        return Task(f"{a:0{digits}d}+{b:0{digits}d}=", str(a + b))


class Brackets(SingleTurn):
    """Close what was opened, in the right order."""

    def task(self, seed: bytes) -> Task:
        """``b`` and a prefix of a balanced word over three kinds of brackets."""
        opened: list[str] = []
        text = ""
        for pick in uniform(seed, "bracket", self.size(seed), 5):
            if pick >= 3 and opened:
                text += opened.pop()
            else:
                text += "([{"[pick % 3]
                opened.append(")]}"[pick % 3])
        return Task(f"b{text}=", "".join(reversed(opened)))


class Guess:
    """Multi-turn: find a number of 0..9 in at most three guesses; the environment says higher or lower."""

    name = "guess:3"

    def task(self, seed: bytes) -> Task:
        """A secret digit."""
        return Task("g?", str(uniform(seed, "secret", 1, 10)[0]))

    def score(self, task: Task, turns: Sequence[str]) -> float:
        """One for the first guess, less for later ones."""
        return (4 - len(turns)) / 3 if turns[-1] == task.answer and len(turns) <= 3 else 0.0

    def reply(self, task: Task, turns: Sequence[str]) -> str | None:
        """``<`` or ``>`` until found or three guesses are spent."""
        guess = turns[-1]
        if guess == task.answer or len(turns) >= 3:
            return None
        return ("<" if guess > task.answer else ">") + "?"


BUILTIN: dict[str, type[SingleTurn]] = {"reverse": Reverse, "sort": Sort, "add": Add, "brackets": Brackets}


def make(name: str) -> Environment:
    """A built-in environment from ``name``, ``name:6`` or ``name:4-6``. Raises E1007."""
    kind, _, sizes = name.partition(":")
    if kind == "verifiers":
        from .verifiers_tasks import taskset

        return taskset(sizes)
    if kind == "guess":
        return Guess()
    if kind not in BUILTIN:
        raise CommonweightError(
            "E1007",
            f"unknown environment `{kind}`",
            f"known: {', '.join(sorted([*BUILTIN, 'guess', 'verifiers']))}",
        )
    first, _, last = (sizes or "6").partition("-")
    if not (first.isdigit() and (last or first).isdigit()):
        raise CommonweightError("E1007", f"`{name}` is no environment", "for example reverse:6 or sort:4-8")
    return BUILTIN[kind](kind, int(first), int(last or first))


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several environments with weights: which one a prompt comes from is drawn by its seed."""

    parts: tuple[Environment, ...]
    weights: tuple[int, ...]

    def pick(self, seed: bytes) -> int:
        """Index of the environment of a prompt's seed."""
        at = uniform(seed, "environment", 1, sum(self.weights))[0]
        for index, weight in enumerate(self.weights):
            if at < weight:
                return index
            at -= weight
        raise AssertionError("weights cover their sum")

    def task(self, seed: bytes) -> tuple[int, Task]:
        """(index of the environment, its task)."""
        index = self.pick(seed)
        return index, self.parts[index].task(tagged("task", seed))

    def reward(self, index: int, task: Task, turns: Sequence[str]) -> int:
        """Reward in units of 1 / `UNIT`, clamped to 0..`UNIT`; what is no number counts as nothing."""
        value = self.parts[index].score(task, turns)
        if not isinstance(value, int | float) or not value > 0:
            return 0
        return min(UNIT, round(float(value) * UNIT)) if value < 1 else UNIT


def pinned(text: str) -> str:
    """A mixture's text with the digest of every taskset that others have to install. Raises E1007, E1613."""
    items = []
    for item in text.split(","):
        name, star, weight = item.strip().partition("*")
        if name.startswith("verifiers:"):
            part = make(name.strip())
            name = part.name
            part.close()  # type: ignore[attr-defined]
        items.append(name.strip() + star + weight)
    return ", ".join(items)


def parse_mixture(text: str, own: Environment | None = None) -> Mixture:
    """``reverse:6*2, sort:4-6`` as a mixture; weights default to 1; the name `OWN` stands for ``own``. Raises E1007."""
    parts, weights = [], []
    for item in text.split(","):
        name, _, weight = item.strip().partition("*")
        if weight and not (weight.isdigit() and 0 < int(weight) <= 1000):
            raise CommonweightError("E1007", f"weight `{weight}` of {name} must be 1..1000")
        parts.append(own if own is not None and name.strip() == OWN else make(name.strip()))
        weights.append(int(weight or 1))
    return Mixture(tuple(parts), tuple(weights))
