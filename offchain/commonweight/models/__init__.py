"""The built-in model: a small Llama-shaped decoder over bytes, its parameters one flat vector."""

from .llama import forward, initial_parameters, parameter_count, shapes
from .profile import computing, numeric_profile, pin, require_profile

__all__ = [
    "computing",
    "forward",
    "initial_parameters",
    "numeric_profile",
    "parameter_count",
    "pin",
    "require_profile",
    "shapes",
]
