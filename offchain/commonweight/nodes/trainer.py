"""A trainer: claims a lease per round, trains on what the chain's seed gives, submits one root, opens it, is paid."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from itertools import chain as chained
from typing import Any

from ..core import duties
from ..core.duties import Duty, Todo
from ..core.seeds import lease_seed, seal_of
from ..core.state import Round, Task, Work
from ..core.works import Header
from ..tasks.kinds import task_kind
from ..tasks.lease import Lease, Product
from .node import Kit, Node, Settings


def lease_of(chain_id: int, tasks: bytes, task: Task, round_: Round, work: Work, beacon: bytes) -> Lease:
    """The lease as everybody can derive it from the chain."""
    seed = lease_seed(chain_id, tasks, task.id, round_.index, work.slot, round_.base, beacon, work.trainer)
    return Lease(
        chain_id=chain_id,
        tasks=tasks,
        task=task.id,
        round=round_.index,
        slot=work.slot,
        trainer=work.trainer,
        base=round_.base,
        seed=seed,
    )


class Trainer(Node):
    """The trainer role in one task; ``settings.attack`` names a cheat for demonstrations and tests."""

    role = "trainer"

    def __init__(self, kit: Kit, settings: Settings) -> None:
        super().__init__(kit, settings)
        self.handlers |= {
            Duty.CLAIM: self.do_claim,
            Duty.TRAIN: self.do_train,
            Duty.PUBLISH: self.do_publish,
            Duty.OPEN: self.do_open,
        }

    def duties(self) -> Iterator[Todo]:
        """A trainer's own duties in its task, then the cranks."""
        task = self.task
        own = duties.trainer(self.state, self.me, task, self.now) if task else iter(())
        return chained(own, super().duties())

    def prepare(self) -> None:
        """Announce where artifacts are served, and move the bonds into the Vault."""
        task = self.task
        if task is None or task.finished:
            return
        self.announce()
        if task.closed or len(task.rounds) == task.params["rounds"]:
            return
        self.fund(task.params["bond"])

    def do_claim(self, task: int, index: int) -> None:
        """Claim with a sealed secret that is journalled before the chain can see its hash."""
        found = self.state.tasks[task]
        if self.state.free.get(self.me, 0) < found.params["bond"]:
            return
        secret = self.kit.journal.recall(f"secret:{task}:{index}") or secrets.token_bytes(32)
        self.kit.journal.remember(f"secret:{task}:{index}", secret)
        self.call(f"claim:{task}:{index}", "Tasks", "claim", task, index, seal_of(secret, self.me))

    def do_train(self, task: int, index: int, slot: int) -> None:
        """Train the lease (resuming what a killed process left), keep the work unpublished, submit its root."""
        found, round_, work = self.work_of(task, index, slot)
        key = f"{task}:{index}:{slot}"
        root = self.kit.journal.recall(f"work:{key}")
        if root is None:
            beacon = self.round_seed(found, round_)
            if beacon is None:
                return
            root = self.jobs.result(("train", key), lambda: self._train(found, round_, work, beacon))
        if root is not None:
            self.call(f"submit:{key}", "Tasks", "submit", task, index, slot, root)

    def _train(self, task: Task, round_: Round, work: Work, beacon: bytes) -> bytes:
        key = f"{task.id}:{round_.index}:{work.slot}"
        lease = lease_of(
            self.kit.chain.chain_id, self.kit.chain.addresses["Tasks"], task, round_, work, beacon
        )
        spec, data = self.lineage.spec(task), self.lineage.data(task)
        base = self.lineage.version(task, round_.base)
        blinding = self.kit.journal.recall(f"blinding:{key}") or secrets.token_bytes(32)
        self.kit.journal.remember(f"blinding:{key}", blinding)
        kind = task_kind(spec.kind)
        train = kind.cheats[self.settings.attack] if self.settings.attack != "none" else kind.train
        with self.kit.metrics.timed("train", task=task.id, round=round_.index, slot=work.slot) as extra:
            product = train(spec, data, base, lease, blinding=blinding, checkpoint=self._checkpoint(key))
            extra |= {"loss": product.loss, "cheated": product.cheated, "root": product.root}
        self._keep(key, product)
        return product.root

    def _keep(self, key: str, product: Product) -> None:
        """Store every artifact unpublished, then remember the root: after that only this root can be submitted."""
        roots = [self.kit.store.put(data, published=False).hex() for data in product.artifacts.values()]
        self.kit.journal.put(f"artifacts:{key}", json.dumps(roots).encode())
        self.kit.journal.remember(f"work:{key}", product.root)
        for name in self.kit.journal.entries(f"segment:{key}:"):
            self.kit.journal.delete(name)

    def _checkpoint(self, key: str) -> Any:
        return StoreCheckpoint(self.kit, key)

    def do_publish(self, task: int, index: int, slot: int) -> None:
        """Serve the work's artifacts from the moment the poll is open: nobody could copy them before."""
        name = f"artifacts:{task}:{index}:{slot}"
        listed = self.kit.journal.get(name)
        if listed is None:
            return
        for root in json.loads(listed):
            self.kit.store.publish(bytes.fromhex(root))
        self.kit.journal.delete(name)

    def do_open(self, task: int, index: int, slot: int) -> None:
        """Open the seal: the chain checks secret and header, and pays."""
        _, _, work = self.work_of(task, index, slot)
        secret = self.kit.journal.recall(f"secret:{task}:{index}")
        if secret is None or work.root is None:
            return
        header = Header.decode(self.kit.store.get(work.root))
        fields = (
            header.update_root,
            header.update_length,
            header.trajectory_root,
            header.trajectory_count,
            header.step_root,
            header.step_count,
            header.meta_root,
        )
        self.call(f"open:{task}:{index}:{slot}", "Tasks", "openSeal", task, index, slot, secret, fields)


class StoreCheckpoint:
    """Where a kind's `train` saves each finished segment, and finds it again after a crash."""

    def __init__(self, kit: Kit, key: str) -> None:
        self._kit = kit
        self._prefix = f"segment:{key}:"

    def save(self, index: int, state: bytes, record: bytes) -> None:
        """Keep the state after segment ``index`` and its record."""
        root = self._kit.store.put(state, published=False)
        self._kit.journal.put(f"{self._prefix}{index:04d}", root + record)

    def load(self) -> list[tuple[bytes, bytes]]:
        """(state, record) of the finished segments, in order."""
        rows = self._kit.journal.entries(self._prefix)
        return [(self._kit.store.get(row[:32]), row[32:]) for _, row in sorted(rows.items())]
