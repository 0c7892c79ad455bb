"""What every role shares: follow the chain, fold it, do the duties it leaves, serve artifacts.

A tick never blocks on training or on a transaction: long work runs beside it (`jobs`), transactions are journalled
effects with deterministic names (`chain.sender`). Killing the process at any point loses nothing but time.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..chain.client import Chain, Head
from ..chain.deployment import LOCAL_CHAINS
from ..chain.follower import Follower
from ..chain.journal import Journal
from ..chain.sender import Refused, Sender
from ..collectives.cell import Cell
from ..core.duties import Duty, Todo, cranks, mask_final
from ..core.errors import CommonweightError
from ..core.fold import fold
from ..core.hashing import abi_sha256, tagged
from ..core.state import JURIES, Poll, Round, State, Task, Work
from ..core.works import TREE_UPDATE
from ..shardcast.address import AddressPolicy
from ..shardcast.fetch import Library
from ..shardcast.server import ArtifactServer
from ..shardcast.store import Store
from ..shardcast.versions import VersionBook, retain
from ..tasks.kinds import parameters
from ..tasks.lease import Lease
from .exhibits import LANES, accused_leaf, fields, first_difference, merge_proof
from .farewell import Farewell
from .jobs import Jobs
from .leasing import lease_of, place_of, with_rollouts
from .lineage import Lineage
from .metrics import Metrics
from .replicas import Replicas
from .story import own_line

log = logging.getLogger("commonweight.node")
TRANSIENT = ("E1203", "E1206")
"""The chain's node is away or hiccups: nothing is lost by waiting."""

REFUSED_PAUSE = 2
"""Seconds of chain time before a transaction that the chain refused in simulation is asked for again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator decides about a node."""

    home: Path
    task: int
    poll_seconds: float = 0.25
    exit_when_done: bool = False
    attack: str = "none"
    public_url: str = ""
    seats: int = 1
    leases: int = 1
    cell: Cell | None = None
    rollouts: bool = False
    window: int = 4
    """Newest versions that are never evicted."""


@dataclass(frozen=True, slots=True)
class Kit:
    """The parts a node is wired from (see `wiring`)."""

    chain: Chain
    follower: Follower
    sender: Sender
    journal: Journal
    store: Store
    server: ArtifactServer
    library: Library
    metrics: Metrics
    state: State
    book: VersionBook
    say: Callable[[str], None]
    """Tells the operator what the node does, a line at a time."""


class Node:
    """A participant in one task. Subclasses add duties and handlers."""

    role = "relay"

    def __init__(self, kit: Kit, settings: Settings) -> None:
        self.kit = kit
        self.settings = settings
        self.me: bytes = kit.sender.address
        self.now = 0
        self.block = 0
        self._seen = b""
        self._said = False
        self.jobs = Jobs(self._job_failed)
        self.lineage = Lineage(kit.library, kit.book, parameters)
        self.replicas = Replicas(self.lineage)
        self.versions: dict[int, bytes] = {}
        self.farewell = Farewell(AddressPolicy(kit.chain.chain_id in LOCAL_CHAINS))
        self.stop = threading.Event()
        self._paused: dict[str, int] = {}
        self.handlers: dict[Duty, Callable[..., None]] = {
            Duty.TOUCH: self.do_touch,
            Duty.EXPIRE: self.do_expire,
            Duty.PROPOSE: self.do_propose,
            Duty.REFUTE: self.do_refute,
            Duty.CLEAR: self.do_clear,
            Duty.ADVANCE: self.do_advance,
            Duty.RULE: self.do_rule,
            Duty.FORFEIT: self.do_forfeit,
            Duty.RECLAIM: self.do_reclaim,
        }

    # -- the loop ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The folded chain state."""
        return self.kit.state

    @property
    def task(self) -> Task | None:
        """The task this node works on, once the chain shows it."""
        return self.state.tasks.get(self.settings.task)

    def run(self) -> None:
        """Tick until stopped, or until there is nothing left to do when ``exit_when_done`` is set."""
        self.kit.metrics.write("start", role=self.role, address=self.me, attack=self.settings.attack)
        while not self.stop.is_set():
            try:
                self.tick()
            except CommonweightError as error:
                if error.code not in TRANSIENT:
                    raise
                self.kit.metrics.write("problem", error=str(error))
                log.warning("%s", error)
            if self.settings.exit_when_done and self.done():
                self.write_result()
                break
            self.stop.wait(self.settings.poll_seconds)
        store = self.kit.store
        self.kit.metrics.write("stop", role=self.role, stored=store.held, evicted=store.evicted)
        self.jobs.close()

    def tick(self) -> None:
        """One turn: new events, transactions in flight, duties. Without a new block or a finished job nothing can have
        changed, and nothing is done."""
        head = self.kit.chain.head()
        if head.hash == self._seen and not self.jobs.collected():
            return
        self._seen = head.hash
        self.follow(head)
        for effect in self.kit.sender.pump(head):
            self.kit.metrics.write(
                "effect", id=effect.effect_id, state=effect.state, gas=effect.gas_used, error=effect.error
            )
        self._say_what_is_missing()
        self.prepare()
        self.keep_up()
        self.collect()
        for todo in self.duties():
            if self.stop.is_set():
                return
            self.attempt(todo)

    def _say_what_is_missing(self) -> None:
        """Once: a person who started a node for a task that nobody has published waits for nothing."""
        if self.task is None and not self._said and self.settings.task:
            self._said = True
            known = ", ".join(map(str, sorted(self.state.tasks))) or "none"
            log.warning(
                "waiting for task %d: it is not published yet (published: %s)", self.settings.task, known
            )

    def follow(self, head: Head | None = None) -> None:
        """Fold what is new on the chain; a reorg folds everything again."""
        head = head or self.kit.chain.head()
        caught_up = self.block > 0  # what happened before this process is not news
        self.now, self.block = head.timestamp, head.number
        try:
            events = self.kit.follower.poll(head)
        finally:
            # Also when reading on failed: what was cut off must not stay in the state.
            if self.kit.follower.rewound:
                self._fold_anew()
        if self.kit.follower.rewound:
            return
        for event in events:
            fold([event], self.state)
            ours = event.args.get("task", self.settings.task) == self.settings.task
            told = own_line(event, self.me, self.state) if caught_up and ours else None
            if told:
                self.kit.say(told)

    def _fold_anew(self) -> None:
        """After a reorg: the state is the fold of what is left, kept in the same object for those who hold it."""
        self.kit.metrics.write("reorg", block=self.block)
        fresh = fold(self.kit.follower.events)
        for name in State.__slots__:
            setattr(self.state, name, getattr(fresh, name))
        self.versions.clear()

    def attempt(self, todo: Todo) -> None:
        """Carry out one duty; what goes wrong is recorded and tried again at a later tick."""
        try:
            self.handlers[todo.duty](*todo.subject)
        except CommonweightError as error:
            self.kit.metrics.write("problem", duty=todo.duty.value, subject=todo.subject, error=str(error))
            log.warning("%s %s: %s", todo.duty.value, todo.subject, error)

    def prepare(self) -> None:
        """Preconditions of the role, such as funds or a seat."""

    def keep_up(self) -> None:
        """Recompute each round's version when its mask is final, while everybody still serves what it takes."""
        task = self.task
        if task is None:
            return
        self.kit.store.task = task.id
        for index, round_ in sorted(task.rounds.items()):
            if index in self.versions:
                continue
            known = round_.settled or mask_final(self.state, task, round_, self.now)
            if not known or task.model_before(index) is None:
                return
            if round_.model is not None and self._needless(task, index):
                self.versions[index] = round_.model
                continue
            root = self.merged_root(task.id, index)
            if root is None:
                return
            if round_.settled:
                self.versions[index] = root
                self._retain(task)

    def _retain(self, task: Task) -> None:
        """Keep the newest versions, which leases and merges may need, whatever else has to make room."""
        settled = (r.model for _, r in sorted(task.rounds.items()))
        line = [task.initial, *(root for root in settled if root is not None)]
        bases = {r.base for r in task.rounds.values() if not r.settled}
        retain(self.kit.store, line, {*line[-self.settings.window :], *bases})

    def _needless(self, task: Task, index: int) -> bool:
        try:
            return self.lineage.needless(task, index)
        except CommonweightError:
            return False  # the spec is not here yet

    def collect(self) -> None:
        """Pull what the Vault owes us once the task is over and we mean to leave."""
        task, free = self.task, self.state.free.get(self.me, 0)
        if self.settings.exit_when_done and task is not None and task.finished and free:
            count = self.state.withdrawals.get(self.me, 0)
            self.call(f"withdraw:{count}:{free}", "Vault", "withdraw", free)

    def duties(self) -> Iterator[Todo]:
        """What to do now; every participant turns the cranks."""
        yield from cranks(self.state, self.me, self.now, self.block)

    def done(self) -> bool:
        """The task is over, its versions are verified, what we earned is in our wallet, nothing of ours is in
        flight, and nobody needs us any more."""
        task = self.task
        if task is None or not task.finished or self.kit.sender.pending() or self.state.free.get(self.me, 0):
            return False
        return len(self.versions) == len(task.rounds) and not self.jobs.busy and self._said_farewell(task)

    def _said_farewell(self, task: Task) -> bool:
        if self.farewell.over():
            return True
        if not self.farewell.due():
            return False
        mine = {work.trainer for round_ in task.rounds.values() for work in round_.works.values()}
        mine |= {task.publisher, *(seat.owner for seat in self.state.seats.values())}
        others = [url for who, url in self.state.endpoints.items() if who in mine - {self.me}]
        return not self.farewell.lacking(task.latest, others)

    def _job_failed(self, key: Hashable, error: BaseException) -> None:
        self.kit.metrics.write("problem", job=str(key), error=str(error))
        level = logging.WARNING if isinstance(error, CommonweightError) else logging.ERROR
        log.log(level, "%s: %s", key, error, exc_info=None if isinstance(error, CommonweightError) else error)

    # -- helpers for handlers ---------------------------------------------------------------------------------

    def call(self, effect: str, contract: str, function: str, *args: Any) -> None:
        """Ask for a transaction once; the effect's name makes a repetition harmless."""
        if self._paused.get(effect, 0) > self.now:
            return
        answer = self.kit.sender.request(effect, contract, function, args)
        if isinstance(answer, Refused):
            self._paused[effect] = self.now + REFUSED_PAUSE
            log.debug("%s refused: %s%s", effect, answer.error, answer.args)

    def get(self, root: bytes, limit: int) -> bytes:
        """Verified artifact bytes from the own store or from any node that has them."""
        return self.kit.library.get(root, limit)

    def round_of(self, task: int, index: int) -> tuple[Task, Round]:
        """Task and round by number."""
        return self.state.tasks[task], self.state.tasks[task].rounds[index]

    def work_of(self, task: int, index: int, slot: int) -> tuple[Task, Round, Work]:
        """Task, round and work by number."""
        found, round_ = self.round_of(task, index)
        return found, round_, round_.works[slot]

    def round_seed(self, task: Task, round_: Round) -> bytes | None:
        """A round's data seed: from the chain's event, or from the beacon block before anybody stored it."""
        if round_.seed is None and round_.beacon is not None and self.block > round_.beacon:
            block_hash = self.kit.chain.block_hash(round_.beacon)
            return block_hash and abi_sha256(block_hash, task.id, round_.index)
        return round_.seed

    def lease(self, task: Task, round_: Round, work: Work) -> Lease | None:
        """The lease behind a work; None while its seed is not known."""
        beacon = self.round_seed(task, task.rounds[place_of(round_, work)[0]])
        if beacon is None:
            return None
        chain = self.kit.chain
        lease = lease_of(chain.chain_id, chain.addresses["Tasks"], task, round_, work, beacon)
        return with_rollouts(lease, self.state, task, self.lineage.spec(task))

    def poll_seed(self, poll: Poll) -> bytes | None:
        """The poll's sortition seed, likewise."""
        if poll.seed is None and self.block > poll.beacon:
            block_hash = self.kit.chain.block_hash(poll.beacon)
            return block_hash and abi_sha256(block_hash, poll.id)
        return poll.seed

    def fund(self, needed: int) -> bool:
        """Move tokens from the wallet into the Vault until ``needed`` wei are free; True when they are."""
        free = self.state.free.get(self.me, 0)
        if free >= needed:
            return True
        wallet = self.kit.chain.token_balance(self.me)
        if wallet < needed - free:
            self.kit.metrics.write(
                "problem", error="not enough tokens", needed=needed, free=free, wallet=wallet
            )
            return False
        vault = self.kit.chain.addresses["Vault"]
        self.call("approve", "Token", "approve", vault, 2**256 - 1)
        approval = self.kit.sender.effect("approve")
        if approval is not None and approval.ok:
            count = self.state.deposits.get(self.me, 0)
            # Two duties may lack money at once: the second asks again when the first one's deposit is there.
            if not any(e.effect_id.startswith(f"deposit:{count}:") for e in self.kit.sender.pending()):
                self.call(f"deposit:{count}:{needed - free}", "Vault", "deposit", needed - free)
        return False

    def announce(self) -> None:
        """Tell the chain once where this node serves its artifacts."""
        url = self.settings.public_url or self.kit.server.url
        if self.state.endpoints.get(self.me) != url:
            self.call(f"announce:{url}", "Tasks", "announce", url)

    # -- cranks -----------------------------------------------------------------------------------------------

    def do_touch(self, task: int, index: int) -> None:
        self.call(f"touch:{task}:{index}:{self.now // 10}", "Tasks", "touch", task, index)

    def do_expire(self, task: int, index: int, slot: int) -> None:
        self.call(f"expire:{task}:{index}:{slot}", "Tasks", "expire", task, index, slot)

    def do_rule(self, dispute: int) -> None:
        found = self.state.disputes[dispute]
        self.call(f"rule:{dispute}:{found.level}:{found.phase.name}", "Court", "rule", dispute)

    def do_forfeit(self, poll: int, seat: int) -> None:
        self.call(f"forfeit:{poll}:{seat}", "Panel", "forfeit", poll, seat)

    def do_reclaim(self, task: int) -> None:
        self.call(f"reclaim:{task}", "Tasks", "reclaim", task)

    def do_advance(self, task: int, index: int) -> None:
        _, round_ = self.round_of(task, index)
        self.call(f"advance:{task}:{index}:{round_.moved_at}", "Tasks", "advance", task, index)

    def do_propose(self, task: int, index: int) -> None:
        root = self.merged_root(task, index)
        if root is not None:
            self.propose(task, index, root)

    def propose(self, task: int, index: int, root: bytes) -> None:
        """Propose ``root`` as the model after a round, bonded."""
        found, round_ = self.round_of(task, index)
        if self.fund(found.params["aggBond"]):
            name = f"propose:{task}:{index}:{root.hex()[:8]}:{len(round_.fines)}"
            self.call(name, "Tasks", "propose", task, index, root)

    def do_refute(self, task: int, index: int) -> None:
        """Prove a wrong proposal wrong at one lane; where it cannot be fetched, have a lane of it shown."""
        found, round_ = self.round_of(task, index)
        proposal, root = round_.proposal, self.merged_root(task, index)
        if root is None or proposal is None or proposal.root == root:
            return
        key = ("refute", task, index, proposal.root)
        proof = self.jobs.result(key, lambda: self._refutation(found, round_, root, proposal.root))
        if proof is None:
            return
        where = f"{task}:{index}:{proposal.at}"
        if proof:
            self.call(f"refute:{where}", "Tasks", "proveMerge", task, index, *proof)
        elif proposal.contest is None and self.fund(found.params["aggBond"]):
            draw = tagged("contest", proposal.root, proposal.moved_at.to_bytes(8, "big"))
            lane = int.from_bytes(draw[:8], "big") % (found.rule["length"] // 2)
            asked = divmod(lane, LANES)
            self.call(f"contest:{where}:{proposal.moved_at}", "Tasks", "contestMerge", task, index, *asked)

    def _refutation(self, task: Task, round_: Round, right: bytes, wrong: bytes) -> tuple[Any, ...]:
        """A proof that ``wrong`` is not the version after the round; empty when nobody shows that version."""
        limit = 2 * task.rule["length"]
        self.kit.metrics.write("wrong-merge", task=task.id, round=round_.index, proposed=wrong, right=right)
        try:
            proposed = self.get(wrong, limit)
        except CommonweightError as error:
            log.warning("cannot see the proposed version %s: %s", wrong.hex(), error)
            return ()
        apart = first_difference(self.get(right, limit), proposed)
        return () if apart is None else merge_proof(self.lineage, task, round_, proposed, *apart)

    def do_clear(self, task: int, index: int) -> None:
        """Show the contested lane of a right proposal."""
        found, round_ = self.round_of(task, index)
        proposal, root = round_.proposal, self.merged_root(task, index)
        if root is None or proposal is None or proposal.contest is None or proposal.root != root:
            return
        asked = (proposal.contest.leaf, proposal.contest.lane)

        def work() -> tuple[Any, ...]:
            version = self.get(root, 2 * found.rule["length"])
            return merge_proof(self.lineage, found, round_, version, *asked)

        proof = self.jobs.result(("clear", task, index, root, asked), work)
        if proof is not None:
            name = f"clear:{task}:{index}:{proposal.contest.until}"
            self.call(name, "Tasks", "proveMerge", task, index, *proof)

    # -- disputes ---------------------------------------------------------------------------------------------

    def answer(self, dispute: int) -> None:
        """Show the accused leaf to the chain, which calls a jury."""
        found = self.state.disputes[dispute]
        task, _, work = self.state.accused(found)
        header = self.lineage.header(work)
        lanes = self.lineage.update(task, work) if found.tree == TREE_UPDATE else b""

        def read(root: bytes, limit: int) -> bytes:
            return lanes if lanes and root == header.update_root else self.get(root, limit)

        shown = accused_leaf(header, found.tree, found.leaf, read)
        self.call(f"answer:{dispute}", "Court", "answer", dispute, fields(header), shown)

    def appeal(self, dispute: int) -> None:
        """Put up the bond of the next level, unless everybody has judged already."""
        found = self.state.disputes[dispute]
        bond = (self.state.tasks[found.task].params["bond"] << (found.level + 1)) // 4
        if found.level + 1 < len(JURIES) and self.fund(bond):
            self.call(f"appeal:{dispute}:{found.level}", "Court", "appeal", dispute)

    def merged_root(self, task: int, index: int) -> bytes | None:
        """Root of the version after a round, recomputed here; None while the job runs."""
        found, round_ = self.round_of(task, index)
        mask = None if round_.skipped else sum(1 << w.slot for w in round_.included)

        def work() -> bytes:
            with self.kit.metrics.timed("merge", task=task, round=index) as extra:
                made = self.lineage.merged(found, round_)
                extra |= {"via": made.via, "received": made.received, "full": made.full}
                extra |= {"root": made.root, "problems": made.problems}
            return made.root

        return self.jobs.result(("merge", task, index, mask), work)

    # -- the end ----------------------------------------------------------------------------------------------

    def write_result(self) -> None:
        """Leave ``result.json``: the final model root as recomputed here, and whether the chain says the same."""
        task = self.task
        if task is None:
            return
        own = {i: root.hex() for i, root in sorted(self.versions.items())}
        result = {
            "role": self.role,
            "address": "0x" + self.me.hex(),
            "task": task.id,
            "versions": own,
            "final": own[max(own)] if own else task.initial.hex(),
            "agrees": all(r.model is not None and r.model.hex() == own[i] for i, r in task.rounds.items()),
            "free": self.state.free.get(self.me, 0),
        }
        path = self.settings.home / "result.json"
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(result, indent=1) + "\n")
        scratch.replace(path)
