"""What rollout workers and the learner share: a folder with the newest weights, tickets, and finished units.

A ticket is the right to play one numbered unit; the learner opens only so many as can still be of use, so fast workers
take more of them, slow ones fewer, and nobody plays what would be stale: no number of workers can flood the learner.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.errors import CommonweightError

KEEP_VERSIONS = 12


@dataclass(frozen=True, slots=True)
class Head:
    """``version`` of the newest weights, hash of their file, tickets below ``opened`` may be taken; ``over``: stop."""

    version: int
    weights: str
    opened: int
    over: bool = False


class Exchange:
    """One shared folder; every write is whole or not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("weights", "tickets", "finished"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def head(self) -> Head | None:
        """The newest head; None before the first."""
        try:
            raw = json.loads((self.folder / "head.json").read_text())
            return Head(int(raw["version"]), str(raw["weights"]), int(raw["opened"]), bool(raw["over"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise CommonweightError("E1404", f"{self.folder}/head.json is damaged: {error}") from error

    def publish(self, version: int, flat: Tensor, opened: int) -> None:
        """Weights first, then the head that names them; old ones go."""
        data = np.ascontiguousarray(flat.detach().numpy(), dtype="<f4").tobytes()
        write(self._weights(version), data)
        self.announce(Head(version, sha256(data).hexdigest(), opened))
        self._weights(version - KEEP_VERSIONS).unlink(missing_ok=True)

    def announce(self, head: Head) -> None:
        """Replace the head."""
        write(self.folder / "head.json", json.dumps(asdict(head)).encode())

    def weights(self, head: Head) -> Tensor | None:
        """The flat vector of a head; None when newer ones have replaced it already. Raises E1102 when damaged."""
        try:
            data = self._weights(head.version).read_bytes()
        except FileNotFoundError:
            return None
        if sha256(data).hexdigest() != head.weights:
            raise CommonweightError("E1102", f"the weights of version {head.version} do not match their hash")
        return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))

    def claim(self, opened: int, worker: str, first: int = 0) -> int | None:
        """The lowest free ticket from ``first`` on, now this worker's; None when all are taken."""
        for number in range(first, opened):
            try:
                handle = os.open(self.ticket(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                continue
            with os.fdopen(handle, "w") as file:
                file.write(worker)
            return number
        return None

    def ticket(self, number: int) -> Path:
        """File of a ticket."""
        return self.folder / "tickets" / f"{number:08d}"

    def overdue(self, number: int, after: float) -> bool:
        """True when a ticket was taken at least ``after`` seconds ago."""
        try:
            return time.time() - self.ticket(number).stat().st_mtime >= after
        except FileNotFoundError:
            return False

    def _weights(self, version: int) -> Path:
        return self.folder / "weights" / f"{version:08d}.f32"


def write(path: Path, data: bytes) -> None:
    """Write aside, then rename."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    aside.write_bytes(data)
    aside.replace(path)
