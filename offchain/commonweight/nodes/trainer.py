"""A trainer: claims a lease per round, trains on what the chain's seed gives, submits one root, opens it, is paid."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain as chained
from typing import Any

from ..core import duties
from ..core.duties import Duty, Todo
from ..core.errors import CommonweightError
from ..core.rollouts import is_rollout
from ..core.seeds import is_decoy, mandatory, seal_of
from ..core.spec import Spec
from ..core.state import Round, Task, Work, WorkState
from ..core.works import NONE, Header
from ..tasks.base import TaskKind, TrainFunction
from ..tasks.decoys import decoy_of
from ..tasks.kinds import task_kind
from ..tasks.lease import Lease, Product
from ..tasks.rl_sources import gathered
from . import exhibits
from .leasing import place_of
from .node import Kit, Node, Settings

log = logging.getLogger("commonweight.node")


class Trainer(Node):
    """The trainer role in one task; ``settings.attack`` names a cheat for demonstrations and tests."""

    role = "trainer"

    def __init__(self, kit: Kit, settings: Settings) -> None:
        super().__init__(kit, settings)
        self._told = False
        self.handlers |= {
            Duty.CLAIM: self.do_claim,
            Duty.TRAIN: self.do_train,
            Duty.DEFER: self.do_defer,
            Duty.PUBLISH: self.do_publish,
            Duty.OPEN: self.do_open,
            Duty.ANSWER: self.do_answer,
            Duty.APPEAL: self.do_appeal,
        }

    def duties(self) -> Iterator[Todo]:
        """A trainer's own duties in its task, then the cranks."""
        task = self.task
        leases = self.settings.leases
        own = duties.trainer(self.state, self.me, task, self.now, leases, self._wants) if task else iter(())
        return chained(own, super().duties())

    def _wants(self, slot: int) -> bool:
        """A small device that was told so takes rollout leases only; others take what comes."""
        return not self.settings.rollouts or self._is_rollout(slot) is True

    def _is_rollout(self, slot: int) -> bool | None:
        """None while the spec is not to be had."""
        task = self.task
        try:
            return (
                None if task is None else is_rollout(self.lineage.spec(task).rl, task.params["slots"], slot)
            )
        except CommonweightError:
            return None

    def prepare(self) -> None:
        """Announce where artifacts are served, and move the bonds into the Vault."""
        task = self.task
        if task is None or task.finished:
            return
        self.announce()
        self._give_back(task)
        leases = self.settings.leases
        wanted = duties.trainer(self.state, self.me, task, self.now, leases, self._wants)
        begins = not task.closed and len(task.rounds) < task.params["rounds"]
        if begins or any(todo.duty is Duty.CLAIM for todo in wanted):
            self.fund(task.params["bond"] * leases)

    def _give_back(self, task: Task) -> None:
        """A learning lease that a small device got because somebody claimed in the same block."""
        if not self.settings.rollouts:
            return
        if not self._told and self._is_rollout(task.params["slots"] - 1) is False:
            self._told = True
            log.warning("task %d has no rollout leases: a trainer without --rollouts can work on it", task.id)
        if not task.rounds:
            return
        last = task.rounds[max(task.rounds)]
        half = (last.begun_at + last.claim_end) // 2
        for work in last.works.values():
            free = work.state is WorkState.CLAIMED and last.beacon is None and self.now < half
            if work.trainer == self.me and free and self._is_rollout(work.slot) is False:
                name = f"relinquish:{task.id}:{last.index}:{work.slot}"
                self.call(name, "Tasks", "relinquish", task.id, last.index, work.slot)

    def do_claim(self, task: int, index: int) -> None:
        """Claim every lease that is wanted and free, each with a sealed secret of its own."""
        found = self.state.tasks[task]
        round_ = found.rounds.get(index)
        works = round_.works.values() if round_ else ()
        mine = [w for w in works if w.trainer == self.me and w.origin is None]
        vacant = found.params["slots"] - (round_.claimed if round_ else 0)
        affordable = self.state.free.get(self.me, 0) // found.params["bond"]
        missing = self.settings.leases - sum(self._wants(w.slot) for w in mine)
        # Who is choosy about slots cannot know more than the next one.
        most = min(missing, vacant, affordable, 1 if self.settings.rollouts else missing)
        for nth in range(len(mine), len(mine) + most):
            self._claim(task, index, nth)

    def _claim(self, task: int, index: int, nth: int) -> None:
        """Claim with a sealed secret that is journalled before the chain can see its hash."""
        name = _nth(f"{task}:{index}", nth)
        secret = self.kit.journal.recall(f"secret:{name}") or secrets.token_bytes(32)
        self.kit.journal.remember(f"secret:{name}", secret)
        self.call(f"claim:{name}", "Tasks", "claim", task, index, seal_of(secret, self.me))

    def _secret(self, task: Task, round_: Round, work: Work) -> bytes | None:
        """The secret behind a work's seal."""
        index = place_of(round_, work)[0]
        names = (_nth(f"secret:{task.id}:{index}", nth) for nth in range(task.params["slots"]))
        known = (self.kit.journal.recall(name) for name in names)
        return next((s for s in known if s is not None and seal_of(s, self.me) == work.seal), None)

    def do_train(self, task: int, index: int, slot: int) -> None:
        """Train the lease (resuming what a killed process left), keep the work unpublished, submit its root; after the
        round's training window it enters the next round."""
        found, round_, work = self.work_of(task, index, slot)
        key = f"{task}:{index}:{slot}"
        root = self.kit.journal.recall(f"work:{key}")
        if root is None:
            lease = self.lease(found, round_, work)
            if lease is None:
                return
            root = self.jobs.result(("train", key), lambda: self._train(found, round_, work, lease))
        if root is not None and self.now < (round_.train_end or 0):
            self.call(f"submit:{key}", "Tasks", "submit", task, index, slot, root)
        elif root is not None and duties.enterable(found, index, self.now):
            self.call(f"late:{key}", "Tasks", "submitLate", task, index, slot, root)

    def do_defer(self, task: int, index: int, slot: int) -> None:
        """Say that this lease may be late, unless its work is ready."""
        if self.kit.journal.recall(f"work:{task}:{index}:{slot}") is None:
            self.call(f"defer:{task}:{index}:{slot}", "Tasks", "defer", task, index, slot)

    def _train(self, task: Task, round_: Round, work: Work, lease: Lease) -> bytes:
        key = f"{task.id}:{round_.index}:{work.slot}"
        spec, data = self.lineage.spec(task), self.lineage.data(task)
        lease, base = self.replicas.lease(task, lease)
        blinding = self.kit.journal.recall(f"blinding:{key}") or secrets.token_bytes(32)
        self.kit.journal.remember(f"blinding:{key}", blinding)
        kind = task_kind(spec.kind)
        train = self._train_function(kind)
        lease = gathered(spec, lease, self.get)
        with self.kit.metrics.timed("train", task=task.id, round=round_.index, slot=work.slot) as extra:
            extra |= {"rollout": lease.rollout, "sources": len(lease.sources)}
            lease = self._carrying(task, spec, lease)
            product = train(
                spec, data, base, lease, blinding=blinding, checkpoint=self._checkpoint(key, spec)
            )
            decoy = self._is_decoy(task, round_, work)
            if decoy is not None:
                product = decoy_of(product, decoy)
                extra["decoy"] = True
            extra |= {"loss": product.loss, "cheated": product.cheated, "root": product.root, **product.notes}
        self._keep(key, product)
        return product.root

    def _train_function(self, kind: TaskKind) -> TrainFunction:
        """Honest, with the cell's machines where there is a cell, or the cheat that this trainer is told to be."""
        if self.settings.attack in kind.cheats:
            return kind.cheats[self.settings.attack]
        cell = self.settings.cell
        if cell is None:
            return kind.train
        if kind.share is None:
            self.kit.metrics.write(
                "problem", error="this kind of task is not shared out: the trainer works alone"
            )
            return kind.train
        return partial(kind.share, cell=cell)

    def _carrying(self, task: Task, spec: Spec, lease: Lease) -> Lease:
        """The lease with what the update's codec dropped of the work before it; without, where that is lost."""
        if spec.merge.codec == "none" or lease.previous == NONE or lease.rollout:
            return lease
        try:
            return replace(lease, carried=self.lineage.residual(task, lease.previous))
        except CommonweightError as error:
            self.kit.metrics.write("problem", residual=lease.previous, error=str(error))
            return lease

    def _is_decoy(self, task: Task, round_: Round, work: Work) -> bytes | None:
        """The secret of this trainer's work when the lottery makes it a decoy."""
        secret, leased = self._secret(task, round_, work), task.rounds[place_of(round_, work)[0]]
        seed = self.round_seed(task, leased)
        if secret is None or seed is None or not is_decoy(secret, seed, task.params["decoyOneIn"]):
            return None
        return secret

    def _keep(self, key: str, product: Product) -> None:
        """Store every artifact unpublished, then remember the root: after that only this root can be submitted."""
        roots = [self.kit.store.put(data, published=False).hex() for data in product.artifacts.values()]
        self.kit.journal.put(f"artifacts:{key}", json.dumps(roots).encode())
        self.kit.journal.remember(f"work:{key}", product.root)
        for name in self.kit.journal.entries(f"segment:{key}:"):
            self.kit.journal.delete(name)

    def _checkpoint(self, key: str, spec: Spec) -> Any:
        return StoreCheckpoint(self.kit, key, task_kind(spec.kind).units(spec))

    def do_publish(self, task: int, index: int, slot: int) -> None:
        """Serve the work's artifacts from the moment the poll is open: nobody could copy them before."""
        _, round_, work = self.work_of(task, index, slot)
        index, slot = place_of(round_, work)
        name = f"artifacts:{task}:{index}:{slot}"
        listed = self.kit.journal.get(name)
        if listed is None:
            return
        for root in json.loads(listed):
            self.kit.store.publish(bytes.fromhex(root))
        self.kit.journal.delete(name)

    def do_open(self, task: int, index: int, slot: int) -> None:
        """Open the seal: the chain checks secret and header, and pays. A decoy is shown to be one."""
        found, round_, work = self.work_of(task, index, slot)
        leased = found.rounds[place_of(round_, work)[0]]
        secret = self._secret(found, round_, work)
        if secret is None or work.root is None:
            return
        header = Header.decode(self.kit.store.get(work.root))
        name, shown = f"open:{task}:{index}:{slot}", exhibits.fields(header)
        if not is_decoy(secret, leased.seed or b"", found.params["decoyOneIn"]):
            self.call(name, "Tasks", "openSeal", task, index, slot, secret, shown)
            return
        seed = self.state.polls[round_.poll or 0].seed
        at = mandatory(seed, slot, header.trajectory_count)
        proof = exhibits.decoy_proof(header, at, self.kit.store.get)
        name += f":{(seed or b'').hex()[:8]}"
        self.call(name, "Tasks", "openDecoy", task, index, slot, secret, shown, proof)

    # -- accused ----------------------------------------------------------------------------------------------

    def do_answer(self, dispute: int) -> None:
        """Show the accused leaf. A decoy is opened instead; who cheated lets silence concede."""
        task, round_, work = self.state.accused(self.state.disputes[dispute])
        if self.settings.attack == "none" and self._is_decoy(task, round_, work) is None:
            self.answer(dispute)

    def do_appeal(self, dispute: int) -> None:
        """Have a ruling against honest work judged again."""
        if self.settings.attack == "none":
            self.appeal(dispute)


def _nth(name: str, nth: int) -> str:
    """A journal name of a round's n-th own lease."""
    return f"{name}:{nth}" if nth else name


class StoreCheckpoint:
    """Where a kind's `train` saves each finished segment, and finds it again after a crash."""

    def __init__(self, kit: Kit, key: str, units: int) -> None:
        self._kit = kit
        self._place = dict(zip(("task", "round", "slot"), map(int, key.split(":")), strict=True))
        self._units = units
        self._prefix = f"segment:{key}:"

    def save(self, index: int, state: bytes, record: bytes) -> None:
        """Keep the state after segment ``index`` and its record."""
        root = self._kit.store.put(state, published=False)
        self._kit.journal.put(f"{self._prefix}{index:04d}", root + record)
        self._kit.metrics.write("segment", **self._place, done=index + 1, of=self._units)

    def load(self) -> list[tuple[bytes, bytes]]:
        """(state, record) of the finished segments, in order."""
        rows = self._kit.journal.entries(self._prefix)
        return [(self._kit.store.get(row[:32]), row[32:]) for _, row in sorted(rows.items())]
