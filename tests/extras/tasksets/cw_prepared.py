"""A taskset that prepares the runtime before the first turn."""

import verifiers.v1 as vf


class PreparedTask(vf.Task[vf.TaskData]):
    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        return None

    @vf.reward
    async def fine(self, trace: vf.Trace) -> float:
        return 1.0


class PreparedTaskset(vf.Taskset[PreparedTask]):
    def load(self):
        yield PreparedTask(vf.TaskData(prompt="go"), self.config.task)


__all__ = ["PreparedTaskset"]
