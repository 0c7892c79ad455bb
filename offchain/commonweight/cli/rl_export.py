"""`commonweight rl export`: what was learnt, by a local run or by a task of a chain, as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import CommonweightError

if TYPE_CHECKING:
    from ..core.spec import Spec
    from ..shardcast.store import Store


def export_run(out: Path, folder: Path) -> None:
    """The newest weights of a local run."""
    from ..models.folder import write_folder
    from ..rl.exchange import Exchange
    from ..tasks import rl_local

    local = rl_local.load(folder)
    exchange = Exchange(folder)
    head = exchange.head()
    flat = exchange.weights(head) if head else local.base
    if flat is None:
        raise CommonweightError("E1404", f"{folder} has no weights of its newest version")
    write_folder(out, local.arch, flat, local.bundle.tokenizer, local.bundle.stop)
    print(f"wrote {out}")


def export_task(
    out: Path, task: int, home: Path, version: str, network: str, deployment: Path | None
) -> None:
    """A model version of a task of the chain, the newest unless named, from the artifacts of a node's home."""
    from ..chain.follower import Follower
    from ..core.fold import fold
    from ..core.spec import Spec
    from ..shardcast.store import Store
    from .commands import connect

    state = fold(Follower(connect(network, deployment)).poll())
    if task not in state.tasks:
        raise CommonweightError(
            "E1902", f"there is no task {task} on this chain", "`commonweight status` lists them"
        )
    try:
        root = bytes.fromhex(version) if version else state.tasks[task].latest
    except ValueError as error:
        raise CommonweightError(
            "E1902", f"`{version}` is no root of a version", "`commonweight versions`"
        ) from error
    store = Store(home / "store")
    write_version(out, Spec.decode(store.get(state.tasks[task].spec)), root, store)


def write_version(out: Path, spec: Spec, root: bytes, store: Store) -> None:
    """One version's weights, and the tokenizer where the task has one. Raises E1408 for what the store lacks."""
    import torch

    from ..core import fixed
    from ..models.architecture import parameter_count
    from ..models.folder import NEWLINE, write_folder
    from ..tasks.grpo import architecture
    from ..tasks.rl_bundle import Bundle

    arch = architecture(spec)
    found = fixed.ModelVersion.decode(store.get(root), parameter_count(arch))
    flat = torch.from_numpy(fixed.dequantise_weights(found.weights, spec.merge.weight_bits))
    bundle = Bundle.decode(store.get(spec.data_root)) if spec.kind == "grpo" else Bundle("")
    write_folder(out, arch, flat, bundle.tokenizer, bundle.stop if bundle.tokenizer else NEWLINE)
    print(f"wrote {out}: version {root.hex()}")
