"""Publish a task: make its artifacts, escrow its budget, put it on the chain. Repeating it finds the same task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..chain.client import Chain
from ..core import economics, fixed
from ..core.errors import CommonweightError
from ..core.spec import Economy, Spec, TaskFile, check_economy
from ..tasks.kinds import parameters, task_kind
from .node import Node

DEADLINE_S = 120.0


def params_of(e: Economy, spec: Spec) -> tuple[Any, ...]:
    """``Types.Params`` in the order of the ABI."""
    w, m = e.windows, spec.merge
    return (
        e.reward,
        e.bond,
        e.slots,
        e.rounds,
        e.fee_bps,
        e.want,
        e.merge_reward,
        e.merge_bond,
        m.lr_num,
        m.lr_den,
        m.momentum_num,
        m.momentum_den,
        e.quorum,
        e.lag,
        e.decoy_one_in,
        w.claim,
        w.train,
        w.seal,
        w.reveal,
        w.open,
        w.merge,
        4 * fixed.padded(parameters(spec)),
        m.update_shift,
        m.trim,
    )


def host_of(chain: Chain) -> economics.Host:
    """What the deployment fixes."""
    return economics.Host(
        seat_stake=chain.view("Panel", "seatStake"),
        exit_delay=chain.view("Panel", "exitDelay"),
        risk_min=chain.view("Tasks", "riskMin"),
    )


def make_spec(task: TaskFile, base: Path, put: Any) -> Spec:
    """Build data, initial model and spec, and keep them as artifacts with ``put``."""
    kind = task_kind(task.kind)
    data, initial = kind.load_data(task, base), kind.initial_version(task, base)
    spec = kind.build_spec(task, data, initial)
    for artifact in (data, initial.encode(), spec.encode()):
        put(artifact)
    return spec


def publish_task(node: Node, task: TaskFile, base: Path) -> int:
    """Publish with full escrow and return the task's number.

    Raises E1005 when these contracts would refuse the economy, E1307 when the wallet cannot pay the escrow.
    """
    check_economy(task.economy, host_of(node.kit.chain))
    spec = make_spec(task, base, node.kit.store.put)
    effect_id = f"publish:{spec.root.hex()[:16]}"
    effect = node.kit.sender.effect(effect_id)
    if effect is None or not effect.final:
        node.follow()
        _escrow(node, task.economy.escrow)
        url = node.settings.public_url or node.kit.server.url
        args = (params_of(task.economy, spec), spec.root, spec.initial_model, url)
        node.call(effect_id, "Tasks", "publish", *args)
        effect = node.kit.sender.wait(effect_id, DEADLINE_S)
    if not effect.ok:
        raise CommonweightError("E1208", f"publishing failed: {effect.error}")
    return _task_number(node, effect.hash)


def _escrow(node: Node, needed: int) -> None:
    """Deposit what the Vault does not hold yet; each step is a journalled effect."""
    wallet = node.kit.chain.token_balance(node.me)
    free = node.state.free.get(node.me, 0)
    if free + wallet < needed:
        raise CommonweightError(
            "E1307",
            f"publishing locks {needed} token wei, but 0x{node.me.hex()} has {wallet + free}",
            "lower rounds, slots or reward, or get more tokens",
        )
    while not node.fund(needed):
        for effect in node.kit.sender.pending():
            node.kit.sender.wait(effect.effect_id, DEADLINE_S)
        node.follow()


def _task_number(node: Node, tx: bytes | None) -> int:
    node.follow()
    for event in node.kit.follower.events:
        if event.name == "Published" and event.tx == tx:
            return int(event.args["task"])
    raise CommonweightError(
        "E1208", "the chain does not show the published task yet", "run the command again"
    )
