"""Low-communication training: the inner loop of a lease. The outer step is `core.fixed.merge`."""

from .inner import TrainState, run_segment

__all__ = ["TrainState", "run_segment"]
