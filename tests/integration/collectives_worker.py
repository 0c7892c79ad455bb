"""One member of a swarm as a process of its own, for tests: rounds of a made-up training, and faults on request.

Prints one JSON object per line: the collective's metrics, and after every round {"event": "round", ...}.
Faults have names: DiesInReduce, HangsInReduce (stops itself, so that only another process can wake it).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time

import numpy as np

from commonweight.collectives import ring
from commonweight.collectives.codecs import codec
from commonweight.collectives.interface import Dropped
from commonweight.collectives.session import Rules
from commonweight.collectives.tcp import Settings, TcpCollective
from commonweight.collectives.wire import Credentials
from commonweight.core import merkle


def say(event: str, **fields: object) -> None:
    line = json.dumps({"at": round(time.monotonic(), 4), "event": event, **fields}) + "\n"
    os.write(sys.stdout.fileno(), line.encode())  # whole lines, from whichever thread


def delta(name: str, number: int, count: int) -> np.ndarray:
    """What a member contributes to a round: known to the test, so that it can check the sum."""
    seed = int.from_bytes(name.encode(), "big") % 2**32 + number
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def arm(options: argparse.Namespace, now: list[int]) -> None:
    """At the ``options.tile``-th tile of the reduction of round ``options.round``, kill or stop this process, once."""
    original = ring.Ring._take
    fatal = {"DiesInReduce": signal.SIGKILL, "HangsInReduce": signal.SIGSTOP}.get(options.fault)

    def take(self: ring.Ring, step: int, low: int, high: int) -> None:
        original(self, step, low, high)
        if fatal is not None and now[0] == options.round and self.received == options.tile:
            now[0] = 0
            os.kill(os.getpid(), fatal)

    ring.Ring._take = take  # type: ignore[method-assign]


def rounds(swarm: TcpCollective, options: argparse.Namespace) -> None:
    state, number = np.zeros(options.count, dtype=np.float32), 0
    now = [0]
    arm(options, now)
    if options.start_with:
        state += options.start_with
    together = 0
    while number < options.rounds or together < options.together:
        try:
            begun = swarm.begin(merkle.root(state.tobytes()))
            if begun.recovered is not None:
                state = np.frombuffer(begun.recovered, dtype=np.float32).copy()
            counters = swarm.gather(number.to_bytes(4, "big"))
            number = max(int.from_bytes(c, "big") for c in counters.values()) + 1
            now[0] = number
            total = swarm.all_reduce(delta(options.name, number, options.count), codec(options.codec))
            state = state + total.values / np.float32(len(total.members))
            if options.fault == "Strays" and number == options.round:
                state = state + 1
            settled = swarm.settle(merkle.root(state.tobytes()), state.tobytes)
            if settled.recovered is not None:
                state = np.frombuffer(settled.recovered, dtype=np.float32).copy()
        except Dropped as error:
            say("rejoining", reason=error.message)
            continue
        together = len(total.members)
        say(
            "round",
            number=number,
            root=settled.root.hex(),
            members=sorted(total.members),
            attempts=total.attempts,
            recovered=begun.recovered is not None,
            first=float(total.values[0]),
        )
        time.sleep(options.pause)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--advertise", type=int, default=0)
    parser.add_argument("--contact", type=int, action="append", required=True)
    parser.add_argument("--founder", action="store_true")
    parser.add_argument("--expect", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", type=int, default=0, help="go on until a round has so many members")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--codec", default="int8")
    parser.add_argument("--silence", type=float, default=2.0)
    parser.add_argument("--stall", type=float, default=10.0)
    parser.add_argument("--start-with", type=float, default=0.0)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--fault", default="")
    parser.add_argument("--round", type=int, default=2)
    parser.add_argument("--tile", type=int, default=2)
    options = parser.parse_args()
    settings = Settings(
        port=options.port,
        advertise=("127.0.0.1", options.advertise) if options.advertise else None,
        contacts=tuple(("127.0.0.1", port) for port in options.contact),
        founder=options.founder,
        stall=options.stall,
        rules=Rules(silence=options.silence, grace=0.5, expect=options.expect, lag=20),
    )
    token = os.environ["SWARM_TOKEN"].encode()
    swarm = TcpCollective(Credentials(options.name, token), settings, say)
    rounds(swarm, options)
    swarm.close()
    say("finished")


if __name__ == "__main__":
    main()
