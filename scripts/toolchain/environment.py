"""Lets every program of the virtual environment find this checkout's compiler and chain.

Set-up copies this file into the environment and has Python load it at each start, so that a plain
`.venv/bin/brownie` or `.venv/bin/commonweight` works without any variable being set first.
"""

import os
import sys

_COMPILERS = os.path.join(sys.prefix, "solcx")
_TOOLS = os.path.join(os.path.dirname(sys.prefix), "node_modules", ".bin")

if os.path.isdir(_COMPILERS):
    os.environ.setdefault("SOLCX_BINARY_PATH", _COMPILERS)  # a user's own choice wins
if os.path.isdir(_TOOLS) and _TOOLS not in (_path := os.environ.get("PATH", "")).split(os.pathsep):
    os.environ["PATH"] = _TOOLS + os.pathsep + _path
