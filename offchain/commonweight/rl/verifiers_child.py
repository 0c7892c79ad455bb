"""The process in which a taskset of the `verifiers` library lives: `python -m commonweight.rl.verifiers_child`.

It speaks the lines of `sandbox`: the first one names the taskset, then each is a question about a task. Only tasks that
one turn of text answers and that can be scored without a runtime are served; everything else is refused by name. This
is the only file that knows the library's interface (0.4).
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import sys
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from ..core.seeds import uniform

VERSIONS = ("0.4.",)
MOST_TASKS = 10_000


class Unfit(Exception):
    """Why a taskset cannot be used."""


class Served:
    """The tasks of one taskset, by their keys."""

    def __init__(self, name: str) -> None:
        try:
            version = metadata.version("verifiers")
        except metadata.PackageNotFoundError as error:
            raise Unfit("verifiers is not installed") from error
        if not version.startswith(VERSIONS):
            raise Unfit(f"verifiers {version} is installed, 0.4 is needed")
        from verifiers.v1.utils import loaders

        module = loaders.import_taskset(name)
        taskset = loaders.load_taskset(loaders.taskset_config_type(name)(id=name))
        self.tasks = list(islice(taskset, MOST_TASKS))
        if not self.tasks:
            raise Unfit("it has no tasks")
        for task in self.tasks:
            require_fit(task)
        self.by_key = {task.key: task for task in self.tasks}
        self.digest = digest_of(module, version, self.tasks)

    def task(self, seed: str) -> list[str]:
        """(prompt, key) of the task of a seed."""
        task = self.tasks[uniform(bytes.fromhex(seed), "index", 1, len(self.tasks))[0]]
        system = task.data.system_prompt
        return ["\n\n".join(part for part in (system, task.data.prompt_text) if part), task.key]

    def score(self, key: str, turns: list[str]) -> float:
        """Weighted sum of the task's rewards for the first turn."""
        task = self.by_key[key]
        found = trace_of(task, turns[0])
        asyncio.run(task.score(found))
        return float(found.reward)


def require_fit(task: Any) -> None:
    """Raises `Unfit` for what needs more than one turn of text and a function."""
    from verifiers.v1.task import Task

    kind, data = type(task), task.data
    if task.NEEDS_CONTAINER or data.image is not None or data.skills or data.artifacts:
        raise Unfit("its tasks run in a container")
    for hook in ("setup", "finalize", "stage_verifier"):
        if getattr(kind, hook) is not getattr(Task, hook):
            raise Unfit(f"its tasks need a runtime ({hook})")
    if kind.toolsets(task.config):
        raise Unfit("its tasks offer tools, which takes several turns")
    if task.plugged_judges():
        raise Unfit("its tasks are judged by a model")
    rewards = task.hooks("reward")
    if not rewards:
        raise Unfit("its tasks have no reward")
    for function in (*rewards, *task.hooks("metric")):
        wanted = inspect.signature(function).parameters.get("runtime")
        if wanted is not None and wanted.default is inspect.Parameter.empty:
            raise Unfit(f"its tasks need a runtime ({function.__name__})")
    if not data.prompt_text:
        raise Unfit("its tasks leave the first word to a user")


def trace_of(task: Any, answer: str) -> Any:
    """What a run of the library would have recorded: the prompt, and the policy's one turn."""
    from verifiers.v1.configs.agent import AgentConfig
    from verifiers.v1.graph import MessageNode
    from verifiers.v1.trace import AgentInfo, Trace, TraceTask
    from verifiers.v1.types import AssistantMessage, UserMessage

    prompt = UserMessage(content=task.data.prompt_text)
    return Trace(
        task=TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        agent=AgentInfo(config=AgentConfig.model_construct()),
        nodes=[
            MessageNode(message=prompt),
            MessageNode(parent=0, message=AssistantMessage(content=answer), sampled=True),
        ],
    )


def digest_of(module: Any, version: str, tasks: list[Any]) -> str:
    """One word for what decides prompts and rewards: library version, the taskset's own code, and its tasks."""
    own = Path(module.__file__)
    files = sorted(own.parent.rglob("*.py")) if own.name == "__init__.py" else [own]
    parts = [
        version.encode(),
        *(path.read_bytes() for path in files),
        *(task.hash.encode() for task in tasks),
    ]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def answer(served: Served, ask: dict[str, Any]) -> Any:
    """One question of `sandbox`."""
    if ask["call"] == "task":
        return served.task(ask["seed"])
    return served.score(ask["answer"], ask["turns"])


def main() -> None:
    """Serve one taskset until the input ends."""
    out, sys.stdout = sys.stdout, sys.stderr

    def say(value: dict[str, Any]) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    name = json.loads(sys.stdin.readline())
    try:
        served = Served(name)
    except Unfit as error:
        return say({"error": str(error)})
    except Exception as error:
        return say({"error": f"{type(error).__name__}: {error}"[:300]})
    say({"ok": {"name": f"verifiers:{name}@{served.digest}", "turns": False}})
    for line in sys.stdin:
        try:
            say({"ok": answer(served, json.loads(line))})
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"[:300]})
    return None


if __name__ == "__main__":
    main()
