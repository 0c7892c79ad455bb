"""One member of a local swarm: builds model, text and collective from the plan, takes part, and logs JSON lines."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

from ...collectives.session import Rules
from ...collectives.tcp import Settings, TcpCollective
from ...collectives.wire import Credentials
from ...core.errors import CommonweightError, EncodingError
from ...core.fixed import ModelVersion
from ...core.spec import DataSpec, ModelSpec, TrainingSpec
from ...diloco import outer
from ...diloco.cohort_peer import CohortPeer
from ...diloco.gossip_peer import GossipPeer
from ...diloco.local import InnerLoop, InnerSpec, Text
from ...diloco.peer import NO_SESSION, Anchor, SwarmPlan
from ...models import initial_parameters, pin
from ...tasks.data import load
from .plan import STOP, TOKEN, LocalSwarm


def follow_parent() -> None:
    """End this process when the supervisor is gone, however it went: nobody would watch a swarm without one."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


class Log:
    """Appends events to a member's file, whole lines at a time, whichever thread speaks."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __call__(self, event: str, **fields: object) -> None:
        line = json.dumps({"at": round(time.time(), 3), "event": event, **fields}, default=str) + "\n"
        os.write(self._file, line.encode())


def run_member(folder: Path, name: str) -> None:
    """Take part in the swarm of ``folder`` as ``name``. Raises E1911 when the plan does not know the name."""
    swarm = LocalSwarm.load(folder)
    ports = dict(swarm.members)
    if name not in ports:
        raise CommonweightError("E1911", f"the plan has no member {name!r}", f"it has {', '.join(ports)}")
    follow_parent()
    pin()
    path = folder / f"{name}.jsonl"
    lives = path.read_bytes().count(b'"event": "started"') if path.exists() else 0
    log = Log(path)
    log("started", pid=os.getpid(), life=lives)
    inner, version, plan = build(swarm, name, lives)
    kept = folder / f"{name}.anchor"
    start = resume(kept, version, log)
    credentials = Credentials(name, (folder / TOKEN).read_text(encoding="ascii").encode())
    kind = CohortPeer if swarm.mode == "cohort" else GossipPeer
    collective = TcpCollective(credentials, settings(swarm, name), log)
    try:
        final = kind(collective, inner, start, plan, log, (folder / STOP).exists, Keeper(kept, start)).run()
    except CommonweightError as error:
        if error.code == NO_SESSION and (folder / STOP).exists():
            log("too_late")
            return
        raise
    finally:
        collective.close()
    log("finished", model=final.root.hex(), loss=inner.text.loss(outer.weights_of(final, plan.rule)))


def settings(swarm: LocalSwarm, name: str) -> Settings:
    """Where this member listens, whom it asks, and when others are given up."""
    founder = name == swarm.members[0][0]
    return Settings(
        port=dict(swarm.members)[name],
        contacts=tuple(("127.0.0.1", port) for other, port in swarm.members if other != name),
        founder=founder,
        rules=Rules(silence=swarm.silence, expect=swarm.expect if founder else 1, grace=0.5, lag=60.0),
        stall=10.0,
    )


def resume(kept: Path, version: ModelVersion, log: Log) -> Anchor:
    """The anchor of this member's former life, if it left a whole one."""
    try:
        anchor = Anchor.decode(kept.read_bytes(), version.weights.size)
    except FileNotFoundError:
        return Anchor.first(version)
    except EncodingError as error:
        log("anchor_damaged", reason=error.message)
        return Anchor.first(version)
    log("resumed", round=anchor.head.round, root=anchor.root.hex())
    return anchor


class Keeper:
    """Writes each new anchor beside the old one and puts it in its place; that of a history that is left, aside."""

    def __init__(self, path: Path, start: Anchor) -> None:
        self._path, self._last, self._written = path, start, False

    def __call__(self, anchor: Anchor) -> None:
        if self._written and anchor.root == self._last.root:
            return
        if not self._last.leads_to(anchor):
            self._path.with_suffix(".left").write_bytes(self._last.encode())
        partial = self._path.with_suffix(".partial")
        partial.write_bytes(anchor.encode())
        partial.replace(self._path)
        self._last, self._written = anchor, True


def build(swarm: LocalSwarm, name: str, lives: int) -> tuple[InnerLoop, ModelVersion, SwarmPlan]:
    """Inner loop, initial version and plan: everything but the network."""
    model = ModelSpec(
        dim=swarm.dim, layers=1, heads=2, hidden=2 * swarm.dim, context=swarm.context, seed=swarm.seed
    )
    data = load(DataSpec(max_bytes=swarm.text), folder_of_data())
    text = Text.split(model, data, batch=swarm.batch, seed=swarm.seed, windows=64)
    place = [other for other, _ in swarm.members].index(name)
    inner = InnerLoop(text, InnerSpec(swarm.optimizer, TrainingSpec(lr=swarm.lr, batch=swarm.batch)), place)
    # A process that comes back must not see the batches of its former life again.
    inner.drawn = lives * 1_000_000
    plan = SwarmPlan(
        rounds=swarm.rounds,
        steps=swarm.steps,
        epoch=swarm.epoch,
        topology=swarm.topology,
        degree=swarm.degree,
        codec=swarm.codec,
        anchor_codec=swarm.anchor_codec,
        patience=swarm.patience,
        pace=swarm.pace,
        open_ended=swarm.open_ended,
    )
    return inner, outer.start(initial_parameters(model).numpy(), plan.rule), plan


def folder_of_data() -> Path:
    """The built-in text needs no folder."""
    return Path()
