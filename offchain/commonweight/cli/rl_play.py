"""`commonweight rl play`: held-out tasks answered by a model or an engine of somebody else, and scored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import CommonweightError

if TYPE_CHECKING:
    from ..rl.engine import Sampling
    from ..rl.rollout import Engine
    from ..rl.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Asked:
    """Who answers: a model ``folder`` here (by transformers, or by ``vllm``), or the engine at ``url``; and how."""

    folder: Path | None = None
    vllm: bool = False
    url: str = ""
    model: str = "default"
    slots: int = 16
    ids: bool = False
    seeded: bool = False
    named: int = 20
    key_file: Path | None = None


def play(task_path: Path, count: int, asked: Asked) -> None:
    """Held-out tasks of a task file's environments, answered by a model of somebody else, and their rewards."""
    from ..core.spec import parse_task
    from ..rl.engine import Sampling
    from ..rl.environments import UNIT
    from ..rl.rollout import Scene
    from ..rl.rollout import play as play_all
    from ..rl.warmup import held_out, solved
    from ..tasks import grpo
    from ..tasks.rl_bundle import Bundle

    task = parse_task(task_path.read_text())
    if task.kind != "grpo":
        raise CommonweightError("E1004", f"`{task.kind}` is no reinforcement-learning task", 'kind = "grpo"')
    bundle = Bundle.decode(grpo.load_data(task, task_path.resolve().parent))
    scene = Scene(bundle.mixture(), bundle.tokens(), task.rl.group, task.rl.max_new, task.model.context)
    rule = Sampling(scene.tokens.stop, scene.max_new, task.rl.temperature)
    with _engine(asked, scene.tokens, rule, task.model.vocab) as engine:
        rows = play_all(engine, scene, held_out(scene, count))
    for row in rows[:3]:
        said = scene.tokens.decode(row.tokens[row.mask == 1].tolist())
        print(f"{scene.tokens.decode(row.prompt.tolist())!r} > {said!r}: {row.reward / UNIT:.3f}")
    mean = sum(row.reward for row in rows) / len(rows) / UNIT
    found = solved(scene, rows)
    print(f"{len(rows)} tasks: mean reward {mean:.3f}, solved {found.pop('all'):.3f}")
    for name, share in found.items() if len(found) > 1 else ():
        print(f"  {name:<20} {share:.3f}")


@contextmanager
def _engine(asked: Asked, tokens: Tokens, rule: Sampling, vocab: int) -> Iterator[Engine]:
    """What was asked for, ready to be asked."""
    if asked.vllm:
        from ..rl.vllm_server import NAME, serving
        from .swarm.plan import free_ports

        if asked.folder is None:
            raise CommonweightError("E1904", "vLLM needs a model folder", "--folder FOLDER --vllm")
        named = min(asked.named, vocab) if asked.seeded else 1
        with serving(asked.folder, free_ports(1)[0], named, Path("vllm.log")) as url:
            here = replace(asked, url=url, model=NAME, folder=None, vllm=False, ids=True)
            with _engine(here, tokens, rule, vocab) as engine:
                yield engine
        return
    if asked.folder is not None:
        from ..models.transformers_policy import TransformersPolicy
        from ..rl.engine import RolloutEngine

        local = RolloutEngine(rule, asked.slots)
        local.load(0, TransformersPolicy.load(asked.folder))
        yield local
        return
    from ..rl.openai_engine import OpenAIEngine
    from ..rl.seeded_engine import SeededEngine

    key = asked.key_file.read_text().strip() if asked.key_file else ""
    server: SeededEngine | OpenAIEngine
    if asked.seeded:
        server = SeededEngine(asked.url, asked.model, rule, vocab, asked.named, asked.slots, key)
    else:
        server = OpenAIEngine(asked.url, asked.model, tokens, rule, asked.slots, key, asked.ids)
    try:
        yield server
    finally:
        server.close()
