"""What a run of a local swarm is: written to a file by the supervisor, read by every member."""

from __future__ import annotations

import json
import random
import secrets
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...core.errors import CommonweightError

PLAN, TOKEN, STOP = "plan.json", "token", "stop"


@dataclass(frozen=True, slots=True)
class LocalSwarm:
    """A swarm on this machine. ``members``: name and port, the founder first; ``text``: bytes of the built-in text."""

    members: tuple[tuple[str, int], ...]
    rounds: int = 32
    steps: int = 6
    epoch: int = 4
    mode: str = "gossip"
    topology: str = "small-world"
    degree: int = 4
    codec: str = "int4:1024"
    anchor_codec: str = "int8"
    optimizer: str = "adamw"
    lr: float = 4e-3
    batch: int = 4
    dim: int = 32
    context: int = 64
    text: int = 600_000
    seed: int = 7
    silence: float = 3.0
    patience: float = 4.0
    pace: float = 0.0
    open_ended: bool = False
    expect: int = 1

    def save(self, folder: Path) -> None:
        """Write plan and session token; only this user can read the token."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        token = folder / TOKEN
        if not token.exists():
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32), encoding="ascii")

    @staticmethod
    def load(folder: Path) -> LocalSwarm:
        """Read a plan. Raises E1910 when there is none."""
        try:
            fields = json.loads((folder / PLAN).read_text(encoding="utf-8"))
            members = tuple((str(name), int(port)) for name, port in fields.pop("members"))
            return LocalSwarm(members, **fields)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CommonweightError(
                "E1910", f"{folder / PLAN} is no plan of a swarm: {error}", "start it with demo-diloco"
            ) from error

    def with_member(self, name: str) -> LocalSwarm:
        """The same swarm with one more place."""
        return replace(self, members=(*self.members, (name, free_ports(1)[0])))


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different, and below those that systems give to outgoing connections: one of these
    may be gone before a member listens on it."""
    draw, ports = random.SystemRandom(), set[int]()
    while len(ports) < count:
        port = draw.randrange(12_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return sorted(ports)
