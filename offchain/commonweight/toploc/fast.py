"""When the compiled kernels are used: they give the same results as numpy, sooner, but cost a second to load.

``COMMONWEIGHT_NUMBA`` is ``auto`` (the default: once this process has had enough work for them to pay), ``on`` or
``off``. Without numba installed (extra ``fast``) everything runs in numpy.
"""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

PAYS_AFTER = 1 << 28
"""Elements (activations read, logits weighed) after which loading the kernels has paid: about half a second's worth."""

_seen = 0
_module: ModuleType | None = None


def kernels(work: int) -> ModuleType | None:
    """The compiled kernels if they are to be used for ``work`` more elements, else None."""
    global _seen, _module
    mode = os.environ.get("COMMONWEIGHT_NUMBA", "auto")
    if mode == "off":
        return None
    if _module is None:
        _seen += work
        if mode != "on" and _seen < PAYS_AFTER:
            return None
        if importlib.util.find_spec("numba") is None:
            _seen = -(1 << 62)
            return None
        from . import kernels as compiled

        _module = compiled
    return _module
