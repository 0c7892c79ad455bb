"""The `grpo` kind as one object behind the interface of `base.TaskKind`."""

from __future__ import annotations

from . import grpo, rl_cheats, rl_checking


class Grpo:
    """Reinforcement learning from rollouts that others can replay."""

    train = staticmethod(grpo.train)
    share = None
    cheats = rl_cheats.CHEATS
    parameters = staticmethod(grpo.parameters)
    units = staticmethod(grpo.units)
    load_data = staticmethod(grpo.load_data)
    initial_version = staticmethod(grpo.initial_version)
    build_spec = staticmethod(grpo.build_spec)
    evaluate = staticmethod(grpo.evaluate)
    check = staticmethod(rl_checking.check)
    judge_leaf = staticmethod(rl_checking.judge_leaf)


KIND = Grpo()
