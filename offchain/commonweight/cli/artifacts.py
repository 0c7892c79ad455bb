"""Commands about artifacts and model versions: keep, serve, fetch and push files; show how versions came about."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import CommonweightError

artifact_app = typer.Typer(no_args_is_help=True, help="Files named by their Merkle root: keep, serve, fetch.")

StoreDir = Annotated[Path, typer.Option("--store", help="Folder of the store.")]
DEFAULT_STORE = Path("runs/artifacts")
JsonOut = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
PROGRESS_SECONDS = 1.0


def parse_root(text: str) -> bytes:
    """32 bytes from 64 hex digits. Raises E1920."""
    from ..shardcast.files import parse_name

    root = parse_name(text.removeprefix("0x").lower())
    if root is None:
        raise CommonweightError("E1920", f"`{text[:80]}` is not an artifact's name", "64 hex digits")
    return root


@artifact_app.command("put")
def put(file: Path, store: StoreDir = DEFAULT_STORE) -> None:
    """Copy a file into a store and print its name."""
    from ..shardcast.store import Store

    print(Store(store).put_file(file).hex())


@artifact_app.command("list")
def list_(store: StoreDir = DEFAULT_STORE, json_: JsonOut = False) -> None:
    """List what a store serves."""
    from ..shardcast.store import Store

    opened = Store(store)
    rows = {root.hex(): opened.length(root) for root in opened.roots()}
    if json_:
        print(json.dumps(rows))
    else:
        for name, length in rows.items():
            print(f"{name}  {length:>15,}")


@artifact_app.command("serve")
def serve(
    store: StoreDir = DEFAULT_STORE,
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.")] = "127.0.0.1:0",
) -> None:
    """Serve a store until Ctrl-C."""
    from ..shardcast.server import ArtifactServer
    from ..shardcast.store import Store
    from ..shardcast.versions import VersionBook
    from .commands import split_listen

    stop = _until_stopped()
    opened = Store(store)
    with ArtifactServer(opened, *split_listen(listen), book=VersionBook(store / "versions")) as server:
        print(f"{len(opened.roots())} artifacts at {server.url}; Ctrl-C stops", flush=True)
        stop.wait()


@artifact_app.command("get")
def get(
    name: str,
    source: Annotated[list[str], typer.Option("--from", help="URL of a node; may be repeated.")],
    store: StoreDir = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(help="Also write the file here.")] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT to serve what has come on, meanwhile.")] = "",
    wait: Annotated[float, typer.Option(help="Seconds to wait for somebody to have it.")] = 0.0,
    public: Annotated[bool, typer.Option("--public", help="Refuse private addresses.")] = False,
    json_: JsonOut = False,
) -> None:
    """Fetch an artifact from many nodes at once; what had come before is not fetched again."""
    from contextlib import nullcontext

    from ..shardcast.address import AddressPolicy
    from ..shardcast.fetch import fetch
    from ..shardcast.server import ArtifactServer
    from ..shardcast.store import Store
    from .commands import split_listen

    root, opened, started = parse_root(name), Store(store), time.monotonic()
    if out is not None and out.exists():
        raise CommonweightError("E1903", f"{out} exists already", "choose another name")
    with ArtifactServer(opened, *split_listen(listen)) if listen else nullcontext(), _progress(opened, root):
        found = None
        if not opened.has(root):
            found = fetch(root, source, opened, policy=AddressPolicy(not public), patience=wait)
    seconds = time.monotonic() - started
    if out is not None:
        opened.export(root, out)
    received = found.bytes_received if found else 0
    blames = [f"{b.source}: {b.kind} ({b.reason})" for b in found.blamed] if found else []
    if json_:
        resumed = found.resumed_shards if found else 0
        facts: dict[str, Any] = {"root": root.hex(), "length": opened.length(root), "seconds": seconds}
        facts |= {"received": received, "resumed_shards": resumed, "blamed": blames}
        facts["by_source"] = dict(found.bytes_by_source) if found else {}
        print(json.dumps(facts))
        return
    for blame in blames:
        print(f"left {blame}", file=sys.stderr)
    print(f"{root.hex()}: {opened.length(root):,} bytes verified, {received:,} received in {seconds:.1f} s")


@artifact_app.command("push")
def push(
    name: str,
    to: Annotated[str, typer.Option(help="URL of the relay.")],
    relay: Annotated[str, typer.Option(help="Address of the relay, as registered on the chain.")],
    key: Annotated[Path, typer.Option(help="Keystore file of the sender, registered on the chain.")],
    store: StoreDir = DEFAULT_STORE,
    network: Annotated[str, typer.Option("--network", "-n", help="Network name or RPC URL.")] = "anvil",
    password_file: Annotated[Path | None, typer.Option(help="File with the keystore's password.")] = None,
    deployment: Annotated[Path | None, typer.Option(help="Deployment file.")] = None,
) -> None:
    """Send an artifact to a relay, for nodes that nobody can reach."""
    from ..chain import keys
    from ..shardcast.address import AddressPolicy
    from ..shardcast.peer import PeerFault
    from ..shardcast.pushing import push as send
    from ..shardcast.signing import Domain
    from ..shardcast.store import Store
    from .commands import connect, parse_address

    chain = connect(network, deployment)
    account = keys.load(key, keys.read_password(password_file))
    domain = Domain(chain.chain_id, chain.addresses["Tasks"])
    try:
        done = send(
            parse_root(name), Store(store), to, parse_address(relay), account, domain, AddressPolicy(True)
        )
    except PeerFault as fault:
        hint = "is this key registered on the chain, and the relay's address right?"
        raise CommonweightError("E1503", f"{to} did not take it: {fault.reason}", hint) from fault
    print(f"{done.shards} shards, {done.skipped} were there already, {done.sent:,} bytes sent")


def versions(network: str, deployment: Path | None, task: int, store: Path | None, json_: bool) -> None:
    """Print the lineage of model versions: the chain's, or the records of a store."""
    from ..shardcast.versions import VersionBook

    if store is not None:
        records = [r for r in VersionBook(store / "versions").all() if task in (0, r.task)]
        rows = [
            {
                "task": r.task,
                "round": r.round,
                "version": r.root.hex(),
                "parent": r.parent.hex() if any(r.parent) else None,
                "parts": [
                    {"update": p.update.hex(), "base": p.base.hex(), "late": p.staleness} for p in r.parts
                ],
            }
            for r in records
        ]
    else:
        from ..chain.follower import Follower
        from ..core.fold import fold
        from ..nodes.lineage import history
        from .commands import connect

        state = fold(Follower(connect(network, deployment)).poll())
        rows = [
            row
            for number, found in sorted(state.tasks.items())
            if task in (0, number)
            for row in history(found)
        ]
    if json_:
        print(json.dumps(rows))
        return
    for row in rows:
        print(_line(row))
    if not rows:
        print("no versions")


def _line(row: dict[str, Any]) -> str:
    parent = row["parent"]
    if parent is None:
        return f"task {row['task']}  {row['version'][:12]}  initial"
    bases = sorted({part["base"][:12] for part in row["parts"]} - {parent[:12]})
    late = sum(part["late"] > 0 for part in row["parts"])
    extra = f", trained from {' '.join(bases)}" if bases else ""
    extra += f", {late} late" if late else ""
    return (
        f"task {row['task']}  {row['version'][:12]}  round {row['round']}: "
        f"{parent[:12]} + {len(row['parts'])} updates{extra}"
    )


class _progress:
    """Says on stderr, now and then, how much of an artifact is here."""

    def __init__(self, store: Any, root: bytes) -> None:
        self._store, self._root, self._stop = store, root, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PROGRESS_SECONDS):
            if (held := self._store.holdings(self._root)) is not None:
                count = len(held[0].shards)
                print(f"{held[1].bit_count()} of {count} shards", file=sys.stderr, flush=True)


def _until_stopped() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
