"""When compiled kernels are used: they give the same results as Python and numpy, sooner, but cost a second to load.

``COMMONWEIGHT_NUMBA`` is ``auto`` (the default: once this process has had enough work for them to pay), ``on`` or
``off``. Without numba installed (extra ``fast``) nothing is compiled.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType


class Kernels:
    """One module of kernels, imported when it pays; ``pays_after`` counts work in the caller's own unit."""

    def __init__(self, module: str, pays_after: int) -> None:
        self._name, self._left = module, pays_after
        self._module: ModuleType | None = None

    def get(self, work: int) -> ModuleType | None:
        """The kernels if they are to be used for ``work`` more, else None."""
        mode = os.environ.get("COMMONWEIGHT_NUMBA", "auto")
        if mode == "off":
            return None
        if self._module is None:
            self._left -= work
            if mode != "on" and self._left > 0:
                return None
            if importlib.util.find_spec("numba") is None:
                self._left = 1 << 62
                return None
            self._module = importlib.import_module(self._name)
        return self._module
