"""`commonweight verify`: repeat the check of a work without key or stake, from chain and nodes or from a folder."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..core import merkle
from ..core.errors import CommonweightError
from ..core.verdict import Evidence, Outcome
from ..tasks import evidence
from ..tasks.base import Fetch
from ..tasks.isolation import isolated
from ..tasks.lease import Lease

EXIT = {Outcome.VALID: 0, Outcome.INVALID: 3, Outcome.WITHHELD: 4, Outcome.ERROR: 5}


def verify(
    what: str,
    folder: Path | None,
    network: str | None,
    deployment: Path | None,
    segments: str,
    save: Path | None,
    as_json: bool,
) -> int:
    """Check a work and print the verdict; the exit status says it too: 0 valid, 3 invalid, 4 withheld, 5 error.

    Artifacts come from ``folder`` if there is one, else from the nodes that the chain knows. The lease comes from the
    chain unless only a folder is named: then it is the one that the work claims for itself.
    """
    before = _record(what)
    root = before.work if before else _root(what)
    drawn = _segments(segments) if segments else (before.segments if before else None)
    with tempfile.TemporaryDirectory(prefix="commonweight-verify-") as home:
        if folder is not None and network is None:
            fetch = folder_fetch(folder)
            claimed = (evidence.lease_of(before), before.spec) if before else None
            lease, spec = claimed or evidence.claimed_lease(root, fetch)
            source = f"{folder} (the lease is the one that the work claims; --network confirms it)"
        else:
            disk = None if folder is None else folder_fetch(folder)
            lease, spec, fetch = _from_chain(root, network or "anvil", deployment, Path(home), disk)
            source = f"chain {lease.chain_id}"
            if folder is not None:
                source = f"{folder}, the lease from {source}"
        found = _repeat(lease, spec, root, drawn, fetch)
    if save is not None:
        save.write_bytes(found.encode())
    agrees = None if before is None else evidence.same_verdict(before, found)
    if as_json:
        print(json.dumps(as_plain(found) | {"source": source, "agrees": agrees}))
    else:
        _print(found, source, agrees)
    return EXIT[Outcome(found.outcome)]


def _repeat(lease: Lease, spec: bytes, root: bytes, drawn: tuple[int, ...] | None, fetch: Fetch) -> Evidence:
    print("checking; every drawn segment is trained again", file=sys.stderr, flush=True)
    return evidence.repeat(lease, spec, root, drawn, fetch, isolated().check)


def _record(what: str) -> Evidence | None:
    """An evidence file, if that is what was named."""
    path = Path(what)
    return evidence.read(path.read_bytes()) if path.is_file() else None


def _root(what: str) -> bytes:
    try:
        root = bytes.fromhex(what.removeprefix("0x"))
    except ValueError:
        root = b""
    if len(root) != 32:
        raise CommonweightError(
            "E1907",
            f"`{what}` is neither a work root nor an evidence file",
            "64 hex digits, or a file's name",
        )
    return root


def _segments(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise CommonweightError("E1907", f"`{text}` is no list of segments", "for example 0,3,7") from error


def folder_fetch(folder: Path) -> Fetch:
    """Artifacts of a node's store, or of any folder whose files are named by their roots; nothing is written."""
    if not folder.is_dir():
        raise CommonweightError("E1907", f"{folder} is not a folder", "name a node's home or its store")
    paths: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if len(path.name) >= 64 and path.is_file():
            paths.setdefault(path.name[:64], []).append(path)

    def fetch(root: bytes, limit: int) -> bytes:
        # A node's store has files of other sorts under the same name: the one that hashes to it is meant.
        error = CommonweightError("E1502", f"{folder} does not hold artifact {root.hex()}")
        for path in paths.get(root.hex(), []):
            size = path.stat().st_size
            if size > limit:
                text = f"artifact {root.hex()} has {size} bytes, at most {limit} expected"
                error = CommonweightError("E1103", text)
                continue
            data = path.read_bytes()
            try:
                merkle.require_root(data, root, str(path))
            except CommonweightError as damaged:
                error = damaged
            else:
                return data
        raise error

    return fetch


def _from_chain(
    root: bytes, network: str, deployment: Path | None, home: Path, disk: Fetch | None
) -> tuple[Lease, bytes, Fetch]:
    """Lease and spec root as the chain has them, and a fetch: from ``disk``, else from all announced nodes.

    Raises E1906.
    """
    from ..chain.deployment import LOCAL_CHAINS
    from ..chain.follower import Follower
    from ..core.fold import fold
    from ..core.hashing import abi_sha256
    from ..nodes.leasing import lease_of, place_of, with_rollouts
    from ..nodes.lineage import Lineage
    from ..nodes.replicas import Replicas
    from ..shardcast.fetch import Library, Shelf
    from ..shardcast.store import Store
    from ..shardcast.versions import VersionBook
    from ..tasks.kinds import parameters
    from .commands import connect

    chain = connect(network, deployment)
    state = fold(Follower(chain).poll())
    for task in state.tasks.values():
        for round_ in task.rounds.values():
            for work in round_.works.values():
                if work.root != root:
                    continue
                leased = task.rounds[place_of(round_, work)[0]]
                beacon = leased.seed
                if beacon is None and leased.beacon is not None:
                    block = chain.block_hash(leased.beacon)
                    beacon = block and abi_sha256(block, task.id, leased.index)
                if beacon is None:
                    raise CommonweightError("E1906", "the round's beacon block is not there yet", "try again")
                private = chain.chain_id in LOCAL_CHAINS
                store = Store(home)
                nodes = list(state.endpoints.values()).copy
                library = Shelf(store, disk) if disk else Library(store, nodes, allow_private=private)
                lease = lease_of(chain.chain_id, chain.addresses["Tasks"], task, round_, work, beacon)
                lineage = Lineage(library, VersionBook(home / "versions"), parameters)
                lease, start = Replicas(lineage).lease(task, lease)
                store.put(start.encode())  # nobody ships a replica: everybody derives it
                return with_rollouts(lease, state, task, lineage.spec(task)), task.spec, library.get
    raise CommonweightError(
        "E1906",
        f"no work with root {root.hex()} was submitted on chain {chain.chain_id}",
        "`commonweight status` lists them; `--folder DIR` checks artifacts without a chain",
    )


def as_plain(found: Evidence) -> dict[str, Any]:
    """Evidence as JSON values."""
    return {
        "work": found.work.hex(),
        "task": found.task,
        "round": found.round,
        "slot": found.slot,
        "trainer": "0x" + found.trainer.hex(),
        "spec": found.spec.hex(),
        "segments": list(found.segments),
        "outcome": found.outcome,
        "reason": found.reason,
        "tree": found.tree,
        "leaf": found.leaf,
        "evidence": {c.name: c.value for c in found.counts},
        "measures": {m.name: m.value for m in found.measures},
    }


def _print(found: Evidence, source: str, agrees: bool | None) -> None:
    trees = ("header", "update", "trajectories", "steps")
    at = f" at leaf {found.leaf} of the {trees[found.tree]}" if found.outcome == Outcome.INVALID else ""
    print(f"{found.outcome}{at}: {found.reason}")
    print(f"work      {found.work.hex()}")
    print(f"lease     task {found.task}, round {found.round}, slot {found.slot}, 0x{found.trainer.hex()}")
    print(f"source    {source}")
    print(f"segments  {_list(found.segments)}")
    print(f"looked at {_list(f'{c.value} {c.name}' for c in found.counts)}")
    print(f"measured  {_list(f'{m.name} {m.value:.3g}' for m in found.measures) or 'nothing'}")
    if agrees is not None:
        print("the record says " + ("the same" if agrees else "something else"))


def _list(items: Iterable[Any]) -> str:
    return ", ".join(str(item) for item in items)
