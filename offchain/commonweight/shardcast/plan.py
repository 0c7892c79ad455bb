"""What to ask of whom during one download: rarest first, measured bandwidth, endgame. No clock, no socket.

Shards go by number, sets of shards are bits of an int. The same decisions drive the threads of `job` and the
simulation in virtual time of the benchmarks. The method is BitTorrent's (Cohen, "Incentives Build Robustness in
BitTorrent", 2003) with two changes: a request names several acceptable shards and the source picks the one it has
given least, which spreads a single origin's uploads without repetition; and only the best measured sources are asked.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from .limits import Limits


@dataclass(slots=True)
class Source:
    """One source as this download knows it. Rates in bytes per second, times in seconds of the caller's clock."""

    have: int = 0
    rate: float = 0.0
    asked: tuple[int, ...] = ()
    index: int | None = None
    since: float = 0.0
    moved: int = 0
    progressed: float = 0.0
    tried: int = 0
    pause: float = float("-inf")
    refusals: int = 0

    @property
    def busy(self) -> bool:
        """True while a request of ours is with it."""
        return bool(self.asked)

    @property
    def booked(self) -> tuple[int, ...]:
        """Shards that may come from it: those it was asked for, until it has chosen one."""
        return self.asked if self.index is None else (self.index,)


@dataclass(slots=True)
class Plan:
    """The state of one download of ``sizes`` shards; ``held`` are verified and kept."""

    sizes: list[int]
    held: int
    rng: random.Random
    limits: Limits
    sources: dict[str, Source] = field(default_factory=dict)
    _order: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._order = list(range(len(self.sizes)))
        self.rng.shuffle(self._order)  # ties of rarity fall differently in each node

    @property
    def missing(self) -> int:
        """Bits of the shards not yet held."""
        return ((1 << len(self.sizes)) - 1) & ~self.held

    def useful(self, name: str) -> bool:
        """True when the source has something that is missing here."""
        return bool(self.sources[name].have & self.missing)

    def ranked(self, names: Iterable[str]) -> list[str]:
        """Sources by what they are worth, best first."""
        return sorted(names, key=lambda name: -self._score(self.sources[name]))

    def ask(self, name: str, now: float) -> tuple[int, ...]:
        """Shards to request from an idle source, best first; empty when it should rather wait. Books them."""
        source = self.sources[name]
        if source.busy or now < source.pause or not self._may_ask(name, now):
            return ()
        free = source.have & self.missing & ~self._booked()
        picked = self._rarest(free, name) if free else self._endgame(name, now)
        if picked:
            source.asked, source.since, source.moved = picked, now, 0
        return picked

    def refused(self, name: str, now: float) -> None:
        """The source gave nothing of what it was asked for: others first, for a moment."""
        source = self.sources[name]
        source.pause, source.refusals = now + self.limits.refusal_pause, source.refusals + 1

    def started(self, name: str, index: int) -> bool:
        """The source has chosen ``index``: the other shards are free again. False when it was not asked for that.

        After a lost connection it may choose again.
        """
        source = self.sources[name]
        if index not in source.asked:
            return False
        source.index = index
        return True

    def finished(self, name: str, now: float) -> None:
        """The shard came and was right; measures the source."""
        source = self.sources[name]
        if source.index is not None:
            self.held |= 1 << source.index
            self._measure(source, self.sizes[source.index], now)
        self.released(name)

    def released(self, name: str) -> None:
        """The source is idle again, whatever became of its request."""
        source = self.sources[name]
        source.asked, source.index, source.moved = (), None, 0

    def progress(self, name: str, moved: int, now: float) -> None:
        """The source has sent so many bytes of its present shard."""
        source = self.sources[name]
        if moved != source.moved:
            source.moved, source.progressed = moved, now

    def stalled(self, now: float) -> list[str]:
        """Busy sources that have sent nothing for a while, while others have what they were asked for."""
        old, names = now - self.limits.hedge_seconds, []
        for name, source in self.sources.items():
            if source.busy and max(source.since, source.progressed) < old:
                others = (s.have for n, s in self.sources.items() if n != name and not s.busy)
                if any(have >> index & 1 for have in others for index in source.booked):
                    names.append(name)
        return names

    def overtaken(self, index: int) -> list[str]:
        """Sources that are still sending a shard which has come from elsewhere."""
        return [name for name, source in self.sources.items() if source.index == index]

    def dropped(self, name: str, now: float) -> None:
        """What the source was sending is no longer wanted; that it was slow is remembered."""
        source = self.sources[name]
        if source.index is not None and source.moved:
            self._measure(source, source.moved, now)
        self.released(name)

    # -- inside --------------------------------------------------------------------------------------------

    def _booked(self) -> int:
        bits = 0
        for source in self.sources.values():
            for index in source.booked:
                bits |= 1 << index
        return bits

    def _may_ask(self, name: str, now: float) -> bool:
        """True when a place is free and no better idle source could take it."""
        places = self.limits.in_flight - sum(s.busy for s in self.sources.values())
        if places <= 0:
            return False
        # one that has only what is on its way already cannot take the place
        free = self.missing & ~self._booked()
        wanted = free if self.sources[name].have & free else self.missing
        mine = self._score(self.sources[name])
        better = sum(
            1
            for other, s in self.sources.items()
            if other != name and not s.busy and now >= s.pause and s.have & wanted and self._score(s) > mine
        )
        return better < places

    def _score(self, source: Source) -> float:
        """Unmeasured sources first: measuring them costs one shard. Those that refuse go back, or they, asked again
        and again, would keep a shard from everybody else."""
        rate = source.rate if source.tried else 0.0 if source.refusals else float("inf")
        return rate / (1 + source.refusals)

    def _rarest(self, free: int, name: str) -> tuple[int, ...]:
        indices = [i for i in self._order if free >> i & 1][: self.limits.considered]
        haves = [s.have for n, s in self.sources.items() if n != name]
        copies = {i: sum(h >> i & 1 for h in haves) for i in indices}
        least = min(copies.values())
        rare = [i for i in indices if copies[i] == least]
        # A share of what is left, so that the other sources have something to be asked for meanwhile.
        many = max(1, min(self.limits.choices, len(indices) // self.limits.in_flight))
        return tuple(rare[:many])

    def _endgame(self, name: str, now: float) -> tuple[int, ...]:
        """A shard on its way elsewhere that would come sooner, or that has taken suspiciously long."""
        source = self.sources[name]
        for index in self._order:
            if not (source.have & self.missing) >> index & 1:
                continue
            carriers = [s for s in self.sources.values() if index in s.booked]
            if len(carriers) == 1 and self._slower(carriers[0], source, self.sizes[index], now):
                return (index,)
        return ()

    def _slower(self, carrier: Source, other: Source, size: int, now: float) -> bool:
        """True when the other source would bring a shard in half the time that the carrier still needs."""
        age = now - carrier.since
        if carrier.moved:
            rest = (size - carrier.moved) * age / carrier.moved
        elif carrier.tried:
            rest = max(size / carrier.rate - age, 0.0) if age < self.limits.hedge_seconds else float("inf")
        else:
            rest = 0.0 if age < self.limits.hedge_seconds else float("inf")
        mine = size / other.rate if other.tried else self.limits.hedge_seconds
        return rest > 2 * mine and age > mine

    def _measure(self, source: Source, size: int, now: float) -> None:
        rate = size / max(now - source.since, 1e-6)
        source.rate = rate if not source.tried else 0.5 * source.rate + 0.5 * rate
        source.tried += 1
        source.refusals = 0
