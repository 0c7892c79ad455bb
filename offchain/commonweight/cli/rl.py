"""`commonweight rl`: reinforcement learning without a chain, its two kinds of processes, and Hugging Face folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import CommonweightError
from .rl_export import export_run, export_task
from .rl_play import Asked, play

Folder = Annotated[Path, typer.Option(help="The run's folder.")]
Steps = Annotated[int, typer.Option(min=1, help="Learning steps.")]
Lag = Annotated[int, typer.Option(min=0, max=8, help="How many versions old rollouts may be.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of prompts and noise.")]
Patience = Annotated[float, typer.Option(min=0.1, help="Seconds until a unit that was begun counts as lost.")]
TICK_SECONDS = 0.2
RESTARTS = 5
STOP_SECONDS = 10.0


def run(task: Path, folder: Path, workers: int, steps: int, lag: int, seed: int) -> None:
    """One learner and some workers as processes; one that dies is started again. Repeating the command goes on."""
    from ..tasks import rl_local

    print(f"preparing {folder}", flush=True)
    rl_local.prepare(task, folder)
    common = ["--folder", str(folder), "--steps", str(steps), "--lag", str(lag), "--seed", str(seed)]
    commands = {"learner": ["learner", *common]}
    for i in range(1, workers + 1):
        commands[f"worker-{i}"] = ["rollout", *common, "--worker", f"worker-{i}"]
    children: dict[str, subprocess.Popen[bytes]] = {}
    restarts = 0
    try:
        for name, command in commands.items():
            children[name] = _spawn(command, folder / f"{name}.log")
        told = _told(folder)
        while True:
            told = _tell(folder, told)
            if children["learner"].poll() == 0:
                break
            for name, child in list(children.items()):
                if child.poll() not in (None, 0):
                    restarts += 1
                    if restarts > RESTARTS:
                        raise CommonweightError(
                            "E1905", f"{name} keeps dying", f"see {folder / f'{name}.log'}"
                        )
                    print(f"{name} died ({child.returncode}); starting it again", flush=True)
                    children[name] = _spawn(commands[name], folder / f"{name}.log")
            time.sleep(TICK_SECONDS)
        _tell(folder, told)
    finally:
        for child in children.values():
            child.terminate()
        for child in children.values():
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
    _evaluate(folder)


def _spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "commonweight", "rl", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
        )


def _records(folder: Path) -> list[dict[str, object]]:
    path = folder / "learner.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    out = []
    for line in lines:
        try:
            out.append(json.loads(line))
        except ValueError:
            continue
    return [r for r in out if r.get("event") == "step"]


def _told(folder: Path) -> int:
    return len(_records(folder))


def _tell(folder: Path, told: int) -> int:
    """A line per step that was not told yet."""
    records = _records(folder)
    for r in records[told:]:
        print(
            f"version {r['version']:>4}  reward {r['reward']:.3f}  exact {r['exact']:.3f}  age {r['age']:.2f}  "
            f"kl {r['kl']:+.4f}  ratio max {r['ratio_max']:.2f}  dropped {r['dropped'] or 'none'}",
            flush=True,
        )
    return len(records)


def _evaluate(folder: Path) -> None:
    from ..rl.exchange import Exchange
    from ..rl.warmup import greedy, solved
    from ..tasks import rl_local

    local = rl_local.load(folder)
    exchange = Exchange(folder)
    head = exchange.head()
    flat = exchange.weights(head) if head else None
    if flat is not None:
        before, after = (solved(local.scene, greedy(local.arch, f, local.scene)) for f in (local.base, flat))
        print(f"held-out greedy accuracy {before['all']:.3f} > {after['all']:.3f}")
        for name in [n for n in before if n != "all"] if len(before) > 2 else []:
            print(f"  {name:<20} {before[name]:.3f} > {after[name]:.3f}")


def describe(folder: Path, context: int) -> None:
    """The sections of a task file that fit a Hugging Face folder."""
    from ..core.spec import DecoderSpec
    from ..models.folder import read_config

    arch = read_config(folder, context)
    m = arch.model
    print("[model]")
    for name in ("vocab", "dim", "layers", "heads", "hidden", "context"):
        print(f"{name} = {getattr(m, name)}")
    print("\n[decoder]")
    extra = arch.spec()
    for field in fields(DecoderSpec):
        value = getattr(extra, field.name)
        if isinstance(value, bool):
            print(f"{field.name} = {str(value).lower()}")
        elif value != field.default:
            print(f"{field.name} = " + (f"'{value}'" if isinstance(value, str) else f"{value!r}"))
    print(f'\n[start]\nfolder = "{folder}"')


def commands(app: typer.Typer) -> None:
    """Add the group's commands."""

    @app.command("run", help="Learn a grpo task on this machine: one learner, some workers, no chain.")
    def _run(
        task: Path,
        folder: Folder = Path("runs/rl"),
        workers: Annotated[int, typer.Option(min=1, max=64)] = 2,
        steps: Steps = 60,
        lag: Lag = 2,
        seed: Seed = 1,
    ) -> None:
        run(task, folder, workers, steps, lag, seed)

    @app.command("learner", help="Only the learner of a prepared run.")
    def _learner(
        folder: Folder = Path("runs/rl"),
        steps: Steps = 60,
        lag: Lag = 2,
        seed: Seed = 1,
        patience: Patience = 60.0,
    ) -> None:
        from ..tasks.rl_local import run_learner

        run_learner(folder, steps, lag, seed, patience)

    @app.command("rollout", help="Only one rollout worker of a prepared run.")
    def _rollout(
        folder: Folder = Path("runs/rl"),
        steps: Steps = 60,
        lag: Lag = 2,
        seed: Seed = 1,
        worker: Annotated[str, typer.Option(help="Name of this worker.")] = "worker-1",
        patience: Patience = 60.0,
        slowness: Annotated[float, typer.Option(min=0.0, help="Least seconds per unit, to simulate.")] = 0.0,
    ) -> None:
        from ..tasks.rl_local import run_rollout

        if not worker.replace("-", "").isalnum() or len(worker) > 64:
            raise CommonweightError("E1904", f"`{worker}` is no name", "letters, digits and dashes")
        run_rollout(folder, steps, lag, seed, worker, slowness, patience)

    @app.command(
        "play", help="Let a model folder or an OpenAI-compatible engine answer held-out tasks, and score it."
    )
    def _play(
        task: Path,
        folder: Annotated[Path | None, typer.Option(help="A folder that transformers can load.")] = None,
        vllm: Annotated[bool, typer.Option("--vllm", help="Serve the folder with vLLM meanwhile.")] = False,
        engine: Annotated[str, typer.Option(help="Or an engine, such as http://127.0.0.1:8000/v1.")] = "",
        model: Annotated[str, typer.Option(help="The model's name at the engine.")] = "default",
        count: Annotated[int, typer.Option(min=1, max=100_000, help="Tasks.")] = 64,
        slots: Annotated[int, typer.Option(min=1, max=1024, help="Questions at a time.")] = 16,
        ids: Annotated[bool, typer.Option("--ids", help="Exchange token ids, as vLLM can.")] = False,
        seeded: Annotated[
            bool, typer.Option("--seeded", help="Choose tokens here, by replayable noise (implies --ids).")
        ] = False,
        named: Annotated[int, typer.Option(min=1, help="Alternatives that the engine tells.")] = 20,
        key_file: Annotated[Path | None, typer.Option(help="File with the engine's API key.")] = None,
    ) -> None:
        if (folder is None) == (not engine):
            raise CommonweightError("E1904", "name one of --folder and --engine", "see --help")
        play(task, count, Asked(folder, vllm, engine, model, slots, ids, seeded, named, key_file))

    @app.command(
        "describe",
        help="Print the sections of a task file that fit a Hugging Face folder.",
    )
    def _describe(
        folder: Path, context: Annotated[int, typer.Option(min=8, help="Longest sequence.")] = 256
    ) -> None:
        describe(folder, context)

    @app.command(
        "export", help="Write what a run or a task of the chain has learnt as a Hugging Face folder."
    )
    def _export(
        out: Path,
        folder: Folder = Path("runs/rl"),
        task: Annotated[int, typer.Option(min=0, help="A task of the chain instead of a run.")] = 0,
        home: Annotated[Path | None, typer.Option(help="Home of a node that has its artifacts.")] = None,
        version: Annotated[str, typer.Option(help="Root of a version; the newest if absent.")] = "",
        network: Annotated[str, typer.Option("--network", "-n", help="Network name or RPC URL.")] = "anvil",
        deployment: Annotated[Path | None, typer.Option(help="Deployment file.")] = None,
    ) -> None:
        if not task:
            export_run(out, folder)
            return
        if home is None:
            raise CommonweightError("E1904", "a task's versions are read from a node's home", "--home FOLDER")
        export_task(out, task, home, version, network, deployment)
