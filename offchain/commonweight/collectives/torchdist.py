"""The collective over torch.distributed, for an operator's own cluster under torchrun: gloo on CPUs, NCCL on GPUs.

No membership changes: a dead rank ends the job, and torchrun starts it again. Compressed reductions are sharded:
every rank sends each other rank its part encoded, adds what it receives in rank order and sends the encoded sum
back, so a value is quantised twice whatever the number of ranks. Importing this module imports torch.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from ..core import merkle
from ..core.errors import CommonweightError, EncodingError
from .codecs import Codec
from .interface import UNKNOWN, Begun, Dropped, Settled, Standing, Sum, Values
from .messages import BLOB_LIMIT

Buffer = npt.NDArray[np.uint8]


class TorchCollective:
    """`interface.Collective` on the default process group; members are called ``rank-0``, ``rank-1``, ..."""

    def __init__(self) -> None:
        if not dist.is_initialized():
            raise CommonweightError(
                "E1516",
                "torch.distributed is not initialised",
                "start under torchrun and call `from_environment`",
            )
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        nccl = dist.get_backend() == "nccl"
        self._device = (
            torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if nccl else torch.device("cpu")
        )

    @staticmethod
    def from_environment(backend: str = "gloo", seconds: float = 600.0) -> TorchCollective:
        """Join the group that torchrun describes. ``backend``: gloo or nccl."""
        if not dist.is_initialized():
            dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
        return TorchCollective()

    @property
    def name(self) -> str:
        """This member's name."""
        return f"rank-{self._rank}"

    @property
    def members(self) -> tuple[str, ...]:
        """Names in rank order."""
        return tuple(f"rank-{i}" for i in range(self._size))

    def begin(self, root: bytes, standing: Standing = UNKNOWN) -> Begun:
        """Check that all ranks start from the same root; raises `Dropped` where this rank's is not the first's."""
        roots = self._gather_fixed(np.frombuffer(root, dtype=np.uint8))
        if roots[0].tobytes() != root:
            raise Dropped("this rank holds another state than rank 0")
        return Begun(self.members)

    def all_reduce(self, values: Values, through: Codec, out: Values | None = None) -> Sum:
        """See `interface.Collective.all_reduce`."""
        if values.dtype == np.int32 and through.name != "none":
            raise EncodingError("int32 values are summed exactly, with codec none")
        result = np.empty_like(values) if out is None else out
        began = time.monotonic()
        if through.name == "none":
            np.copyto(result, values)
            tensor = torch.from_numpy(result).to(self._device)
            dist.all_reduce(tensor)
            if self._device.type != "cpu":
                np.copyto(result, tensor.cpu().numpy())
            sent = 2 * result.nbytes * (self._size - 1) // self._size
        else:
            sent = self._sharded(values, through, result)
        return Sum(result, self.members, 1, time.monotonic() - began, sent)

    def gather(self, blob: bytes) -> dict[str, bytes]:
        """See `interface.Collective.gather`."""
        if len(blob) > BLOB_LIMIT:
            raise EncodingError(f"a gathered blob has at most {BLOB_LIMIT} bytes, not {len(blob)}")
        framed = np.zeros(2 + BLOB_LIMIT, dtype=np.uint8)
        framed[: 2 + len(blob)] = np.frombuffer(len(blob).to_bytes(2, "big") + blob, dtype=np.uint8)
        out = {}
        for name, part in zip(self.members, self._gather_fixed(framed), strict=True):
            raw = part.tobytes()
            out[name] = raw[2 : 2 + int.from_bytes(raw[:2], "big")]
        return out

    def exchange(
        self, tag: int, outgoing: Mapping[str, bytes], senders: Collection[str], seconds: float
    ) -> dict[str, bytes]:
        """See `interface.Collective.exchange`; the group's own timeout holds, a dead neighbour ends the job."""
        lengths = {s: np.zeros(8, dtype=np.uint8) for s in senders}
        heads = {n: np.frombuffer(len(m).to_bytes(8, "big"), dtype=np.uint8) for n, m in outgoing.items()}
        self._swap(heads, lengths)
        bodies = {s: np.zeros(int.from_bytes(h.tobytes(), "big"), dtype=np.uint8) for s, h in lengths.items()}
        self._swap({n: np.frombuffer(m, dtype=np.uint8) for n, m in outgoing.items()}, bodies)
        return {s: b.tobytes() for s, b in bodies.items()}

    def settle(self, root: bytes, snapshot: Callable[[], bytes], standing: Standing = UNKNOWN) -> Settled:
        """See `interface.Collective.settle`; strays get the state by a broadcast of its first holder."""
        parts = [p.tobytes() for p in self._gather_fixed(np.frombuffer(root, dtype=np.uint8))]
        agreed = Counter(parts).most_common(1)[0][0]
        roots = dict(zip(self.members, parts, strict=True))
        if all(p == agreed for p in parts):
            return Settled(agreed, roots)
        holder = parts.index(agreed)
        data = np.frombuffer(snapshot(), dtype=np.uint8) if self._rank == holder else np.zeros(0, np.uint8)
        length = torch.tensor([data.size], dtype=torch.int64, device=self._device)
        dist.broadcast(length, holder)
        body = (
            torch.from_numpy(data.copy())
            if self._rank == holder
            else torch.empty(int(length), dtype=torch.uint8)
        )
        body = body.to(self._device)
        dist.broadcast(body, holder)
        if root == agreed:
            return Settled(agreed, roots)
        state = body.cpu().numpy().tobytes()
        merkle.require_root(state, agreed, "the recovered state")
        return Settled(agreed, roots, state)

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()

    def _gather_fixed(self, part: Buffer) -> list[Buffer]:
        """Every rank's buffer of the same size."""
        mine = torch.from_numpy(part.copy()).to(self._device)
        parts = [torch.empty_like(mine) for _ in range(self._size)]
        dist.all_gather(parts, mine)
        return [p.cpu().numpy() for p in parts]

    def _swap(self, outgoing: Mapping[str, Buffer], incoming: Mapping[str, Buffer]) -> None:
        """Point-to-point messages of known size, all at once; fills ``incoming``."""
        sends = {n: torch.from_numpy(b.copy()).to(self._device) for n, b in outgoing.items() if b.size}
        takes = {n: torch.from_numpy(b).to(self._device) for n, b in incoming.items() if b.size}
        work = [dist.P2POp(dist.isend, t, self.members.index(n)) for n, t in sends.items()]
        work += [dist.P2POp(dist.irecv, t, self.members.index(n)) for n, t in takes.items()]
        if work:
            for job in dist.batch_isend_irecv(work):
                job.wait()
        for name, tensor in takes.items():
            np.copyto(incoming[name], tensor.cpu().numpy())

    def _sharded(self, values: Values, through: Codec, out: Values) -> int:
        """Encoded reduce-scatter and all-gather; returns the bytes sent."""
        edges = [values.size * i // self._size for i in range(self._size + 1)]
        bounds = dict(zip(self.members, itertools.pairwise(edges), strict=True))
        floats = values.astype(np.float32, copy=False)
        wires = {n: np.frombuffer(through.encode(floats[a:b]), np.uint8) for n, (a, b) in bounds.items()}
        low, high = bounds[self.name]
        taken = {n: np.zeros(through.size(high - low), np.uint8) for n in self.members if n != self.name}
        self._swap({n: w for n, w in wires.items() if n != self.name}, taken)
        taken[self.name] = wires[self.name]
        total = np.zeros(high - low, dtype=np.float32)
        for name in self.members:
            total += through.decode(taken[name].tobytes(), high - low)
        final = np.frombuffer(through.encode(total), np.uint8)
        others = {
            n: np.zeros(through.size(b - a), np.uint8) for n, (a, b) in bounds.items() if n != self.name
        }
        self._swap(dict.fromkeys(others, final), others)
        for name, (a, b) in bounds.items():
            out[a:b] = through.decode(others.get(name, final).tobytes(), b - a)
        return sum(w.size for n, w in wires.items() if n != self.name) + final.size * (self._size - 1)
