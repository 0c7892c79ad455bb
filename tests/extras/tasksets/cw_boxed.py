"""A taskset whose reward looks at the runtime that the answer ran in."""

import verifiers.v1 as vf


class BoxedTask(vf.Task[vf.TaskData]):
    @vf.reward
    async def ran(self, trace: vf.Trace, runtime: vf.Runtime) -> float:
        return 1.0


class BoxedTaskset(vf.Taskset[BoxedTask]):
    def load(self):
        yield BoxedTask(vf.TaskData(prompt="run it"), self.config.task)


__all__ = ["BoxedTaskset"]
