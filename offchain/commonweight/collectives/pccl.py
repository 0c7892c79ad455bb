"""The collective over PCCL (github.com/PrimeIntellect-ai/pccl) where its Python package is installed.

PCCL has a master that admits peers and knows no names, so members are counted, not named; `gather` and `exchange`
have no counterpart there. Its quantisation is 8 bits with one scale and zero point per chunk of the ring.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from ..core import merkle
from ..core.errors import CommonweightError
from .codecs import Codec
from .interface import UNKNOWN, Begun, Settled, Standing, Sum, Values


def library() -> Any:
    """The ``pccl`` package; E1516 where it is not installed."""
    try:
        return importlib.import_module("pccl")
    except (ImportError, AssertionError, OSError) as error:
        raise CommonweightError(
            "E1516",
            f"PCCL is not installed: {error}",
            "build its Python package from source, or use the TCP collective",
        ) from error


class PcclCollective:
    """`interface.Collective` on a PCCL communicator. ``master``: ``ip:port`` of the PCCL master."""

    def __init__(self, master: str, expect: int, seconds: float = 60.0) -> None:
        self._pccl = library()
        self._comm = self._pccl.Communicator(master, 0)
        self._comm.connect(n_attempts=max(int(seconds), 1))
        self._revision = 0
        deadline = time.monotonic() + seconds
        while self._world() < expect:
            if time.monotonic() > deadline:
                raise CommonweightError(
                    "E1514", f"only {self._world()} of {expect} peers came", "start the others"
                )
            if self._comm.are_peers_pending():
                self._comm.update_topology()
            time.sleep(0.01)

    def _world(self) -> int:
        return int(self._comm.get_attribute(self._pccl.Attribute.GLOBAL_WORLD_SIZE))

    @property
    def name(self) -> str:
        """PCCL gives peers no names."""
        return "peer"

    @property
    def members(self) -> tuple[str, ...]:
        """As many placeholders as there are peers."""
        return tuple(f"peer-{i}" for i in range(self._world()))

    def begin(self, root: bytes, standing: Standing = UNKNOWN) -> Begun:
        """Let pending peers in."""
        if self._comm.are_peers_pending():
            self._comm.update_topology()
        return Begun(self.members)

    def all_reduce(self, values: Values, through: Codec, out: Values | None = None) -> Sum:
        """See `interface.Collective.all_reduce`; codecs none, and int8 in PCCL's own quantisation."""
        p = self._pccl
        options = None
        if through.name.startswith("int8"):
            options = p.QuantizationOptions(p.DataType.UINT8, p.QuantizationAlgorithm.ZERO_POINT_SCALE)
        elif through.name != "none":
            raise _missing(f"codec {through.name}")
        result = np.empty_like(values) if out is None else out
        began = time.monotonic()
        info = self._comm.all_reduce(values, result, op=p.ReduceOp.SUM, quantization_options=options)
        seconds = time.monotonic() - began
        return Sum(result, self.members[: info.local_world_size], 1, seconds, int(info.tx_bytes))

    def gather(self, blob: bytes) -> dict[str, bytes]:
        """PCCL has none: E1517."""
        raise _missing("gather")

    def exchange(
        self, tag: int, outgoing: Mapping[str, bytes], senders: Collection[str], seconds: float
    ) -> dict[str, bytes]:
        """PCCL has none: E1517."""
        raise _missing("exchange")

    def settle(self, root: bytes, snapshot: Callable[[], bytes], standing: Standing = UNKNOWN) -> Settled:
        """PCCL's shared-state synchronisation over the snapshot, the most popular content wins."""
        p, before = self._pccl, snapshot()
        state = np.frombuffer(before, dtype=np.uint8).copy()
        shared = p.SharedState([p.TensorInfo.from_numpy(state, "state")])
        shared.revision = self._revision
        self._comm.sync_shared_state(shared)
        self._revision += 1
        after = state.tobytes()
        agreed = merkle.root(after)
        return Settled(agreed, {self.name: root}, after if agreed != root else None)

    def close(self) -> None:
        """Leave: PCCL does so when the communicator is collected."""
        del self._comm


def _missing(what: str) -> CommonweightError:
    return CommonweightError("E1517", f"PCCL has no {what}", "use the TCP collective")
