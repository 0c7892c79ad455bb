"""When the compiled kernels of this room are used: see `core.fast`."""

from __future__ import annotations

from types import ModuleType

from ..core.fast import Kernels

_kernels = Kernels("commonweight.toploc.kernels", 1 << 28)


def kernels(work: int) -> ModuleType | None:
    """The kernels if they are to be used for ``work`` more elements (activations read, logits weighed), else None."""
    return _kernels.get(work)
