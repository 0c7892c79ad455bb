"""The command tree. Each command imports what it needs when it runs, so `--help` is quick and needs no torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from commonweight import __version__

from ..core.errors import CommonweightError
from .artifacts import artifact_app
from .rl import commands as rl_commands

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train one model with strangers and get paid for work that checks out.",
)


def _group(name: str, help_: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, help=help_)
    app.add_typer(group, name=name)
    return group


key_app = _group("key", "Key files (Web3 keystore v3).")
devnet_app = _group("devnet", "A local chain with its state on disk.")
contracts_app = _group("contracts", "Deploy and check the contracts.")
network_app = _group("network", "Chains that are known by name.")
task_app = _group("task", "Write, check and publish training tasks.")
rl_commands(_group("rl", "Reinforcement learning on this machine, without a chain."))
app.add_typer(artifact_app, name="artifact")

Network = Annotated[str, typer.Option("--network", "-n", help="Network name or RPC URL.")]
Key = Annotated[Path, typer.Option(help="Keystore file of the sender.")]
Password = Annotated[
    Path | None, typer.Option(help="File with the keystore's password; asked for if absent.")
]
Deployment = Annotated[
    Path | None, typer.Option(help="Deployment file; deployments/<chain id>.json if absent.")
]
Home = Annotated[Path, typer.Option(help="Folder of this node's journal, artifacts and logs.")]
Listen = Annotated[str, typer.Option(help="HOST:PORT to serve artifacts on; port 0 takes a free one.")]
PublicUrl = Annotated[str, typer.Option(help="URL others reach this node at, if not the one it listens on.")]
TaskId = Annotated[int, typer.Option("--task", "-t", help="Number of the task.")]
Done = Annotated[bool, typer.Option("--exit-when-done", help="Stop once the task is over and paid out.")]
Seats = Annotated[int, typer.Option(min=1, max=64, help="Seats that a validator holds.")]
StoreGib = Annotated[
    float, typer.Option(min=0.0001, help="Room for artifacts, in GiB; what was used longest ago goes first.")
]
Leases = Annotated[int, typer.Option(min=1, max=64, help="Leases that a trainer takes of each round.")]
Attack = Annotated[str, typer.Option(hidden=True)]
Rollouts = Annotated[
    bool, typer.Option("--rollouts", help="A small device's trainer: take leases of rollouts only.")
]
JsonOut = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command()
def demo(
    attack: Annotated[
        str, typer.Option(help="What trainer-1 does: none, skip-steps, stale, wrong-data, random.")
    ] = ("skip-steps"),
    rounds: Annotated[int, typer.Option(min=1, max=64)] = 4,
    trainers: Annotated[int, typer.Option(min=1, max=16)] = 4,
    validators: Annotated[int, typer.Option(min=1, max=16)] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the initial model.")] = 7,
    runs: Annotated[Path, typer.Option(help="Where the run's folder is made.")] = Path("runs"),
    json_: JsonOut = False,
) -> None:
    """Run the whole cycle on this machine: chain, publisher, trainers, validators, one of them cheating."""
    from .demo.run import DemoPlan, run_demo

    plan = DemoPlan(
        attack=attack, rounds=rounds, trainers=trainers, validators=validators, seed=seed, runs=runs
    )
    raise typer.Exit(run_demo(plan, json_))


@app.command("demo-rl")
def demo_rl(
    attack: Annotated[
        str, typer.Option(help="What trainer-1 does: none, resampling, editing, inflating, ...")
    ] = "none",
    rounds: Annotated[int, typer.Option(min=1, max=64)] = 6,
    trainers: Annotated[int, typer.Option(min=1, max=16)] = 3,
    validators: Annotated[int, typer.Option(min=1, max=16)] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the first run.")] = 7,
    seeds: Annotated[int, typer.Option(min=1, max=16, help="How many runs, one after the other.")] = 2,
    runs: Annotated[Path, typer.Option(help="Where the run's folder is made.")] = Path("runs"),
    json_: JsonOut = False,
) -> None:
    """Learn a task by reinforcement on a local chain: rollouts, learning and checking in real processes."""
    from .demo_rl import RlPlan, run_demo_rl

    plans = [
        RlPlan(attack=attack, rounds=rounds, trainers=trainers, validators=validators, seed=s, runs=runs)
        for s in range(seed, seed + seeds)
    ]
    raise typer.Exit(run_demo_rl(plans, json_))


@app.command("demo-diloco")
def demo_diloco(
    members: Annotated[int, typer.Option(min=4, max=32, help="Processes at the start.")] = 6,
    rounds: Annotated[int, typer.Option(min=8, max=10_000)] = 48,
    topology: Annotated[str, typer.Option(help="Graph of the swarm.")] = "small-world",
    seed: Annotated[int, typer.Option(help="Seed of the initial model.")] = 7,
    runs: Annotated[Path, typer.Option(help="Where the run's folder is made.")] = Path("runs"),
    json_: JsonOut = False,
) -> None:
    """Train across processes that talk to neighbours only, while two are killed and one joins."""
    from .swarm.run import SwarmDemo, run_swarm_demo

    plan = SwarmDemo(members=members, rounds=rounds, topology=topology, seed=seed, runs=runs)
    raise typer.Exit(run_swarm_demo(plan, json_))


@app.command()
def topology(
    name: Annotated[
        str, typer.Argument(help="ring, expander, small-world, exponential, hypercube, complete, all.")
    ],
    nodes: Annotated[int, typer.Option("--nodes", "-n", min=1, max=1024)] = 8,
    degree: Annotated[int, typer.Option(min=2, help="Of expander and small-world.")] = 4,
    seed: Annotated[int, typer.Option(help="Of expander and small-world.")] = 0,
    matrix: Annotated[bool, typer.Option("--matrix", help="Print the mixing matrix.")] = False,
) -> None:
    """Print a swarm's graph: degrees, spectral gap, mixing time, stability, neighbours."""
    from .swarm.graphs import print_topology

    print_topology(name, nodes, degree, seed, matrix)


@app.command("swarm-member", hidden=True)
def swarm_member(folder: Path, name: str) -> None:
    """Take part in the swarm whose plan is in FOLDER (demo-diloco starts these)."""
    from .swarm.member import run_member

    run_member(folder, name)


@key_app.command("new")
def key_new(path: Path, password_file: Password = None) -> None:
    """Make a new key and write its keystore file (0600)."""
    from ..chain import keys

    address = keys.create(path, keys.read_password(password_file, "New password: "))
    print(f"0x{address.hex()}  {path}")


@key_app.command("show")
def key_show(path: Path) -> None:
    """Print the address of a keystore file; needs no password."""
    from ..chain import keys

    print(f"0x{keys.address_of(path).hex()}")


@devnet_app.command("up")
def devnet_up(
    directory: Annotated[Path, typer.Option("--dir", help="Where the chain's state is kept.")] = Path(
        "runs/devnet"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8545,
    block_time: Annotated[int, typer.Option(min=1, help="Seconds per block.")] = 1,
) -> None:
    """Start a local chain in the foreground; Ctrl-C stops it and keeps its state."""
    from .commands import devnet_up as run

    run(directory, port, block_time)


@devnet_app.command("faucet")
def devnet_faucet(
    address: str,
    ether: Annotated[float, typer.Option(help="Ether for gas.")] = 10.0,
    tokens: Annotated[float, typer.Option(help="Test tokens.")] = 10_000.0,
    network: Network = "anvil",
    deployment: Deployment = None,
) -> None:
    """Give an address ether and test tokens (local chain only)."""
    from .commands import faucet as run

    run(network, deployment, address, ether, tokens)


@contracts_app.command("deploy")
def contracts_deploy(
    key: Key,
    network: Network = "anvil",
    password_file: Password = None,
    token: Annotated[str, typer.Option(help="Address of the reward token.")] = "",
    test_token: Annotated[
        bool, typer.Option("--test-token", help="Create a token that anybody can mint.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Deployment file to write.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its maximum cost; send nothing.")
    ] = False,
) -> None:
    """Deploy the contracts and write the deployment file."""
    from .commands import deploy, deploy_plan

    if dry_run:
        deploy_plan(network, key, token, test_token, out)
    else:
        deploy(network, key, password_file, token, test_token, out)


@contracts_app.command("check")
def contracts_check(
    network: Network = "anvil",
    deployment: Deployment = None,
    arguments: Annotated[
        bool,
        typer.Option("--arguments", help="Print constructor arguments, as block explorers ask for them."),
    ] = False,
) -> None:
    """Compare chain id and code with the deployment file and with this package."""
    from .commands import check as run

    run(network, deployment, arguments)


@network_app.command("list")
def network_list() -> None:
    """Known networks: chain id, confirmations, and the variable that holds the RPC address."""
    from .commands import network_list as run

    run()


@network_app.command("brownie")
def network_brownie(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("build/brownie-networks.yaml"),
) -> None:
    """Write the known networks for `brownie networks import`."""
    from .commands import network_brownie as run

    run(path)


@task_app.command("init")
def task_init(
    path: Annotated[Path, typer.Argument(help="File to write; never over an existing one.")] = Path(
        "task.toml"
    ),
    kind: Annotated[str, typer.Option(help="pretrain, or grpo for reinforcement learning.")] = "pretrain",
) -> None:
    """Write a commented example task."""
    from .commands import task_init as run

    run(path, kind)


@task_app.command("lint")
def task_lint(path: Path) -> None:
    """Check a task file and print what it would cost; sends nothing."""
    from .commands import task_lint as run

    run(path)


@task_app.command("publish")
def task_publish(
    path: Path,
    key: Key,
    home: Home = Path("runs/publisher"),
    network: Network = "anvil",
    password_file: Password = None,
    deployment: Deployment = None,
    listen: Listen = "127.0.0.1:0",
    public_url: PublicUrl = "",
    serve: Annotated[bool, typer.Option(help="Keep serving the task's artifacts.")] = True,
    exit_when_done: Done = False,
) -> None:
    """Publish a task with full escrow, then serve its artifacts."""
    from .commands import publish as run

    config = _node(
        "publisher", home, key, password_file, network, deployment, 0, listen, public_url, exit_when_done
    )
    run(path, config, serve)


def _role_command(role: str, help_: str) -> typer.Typer:
    group = _group(role, help_)

    def run(
        key: Key,
        task: TaskId = 1,
        home: Home = Path("runs") / role,
        network: Network = "anvil",
        password_file: Password = None,
        deployment: Deployment = None,
        listen: Listen = "127.0.0.1:0",
        public_url: PublicUrl = "",
        exit_when_done: Done = False,
        attack: Attack = "none",
        seats: Seats = 1,
        store_gib: StoreGib = 64.0,
    ) -> None:
        from ..nodes.wiring import run_node

        where = (network, deployment, task, listen, public_url, exit_when_done)
        run_node(_node(role, home, key, password_file, *where, attack, seats, 1, False, store_gib))

    group.command("run", help=f"Run a {role} until Ctrl-C, or until the task is done.")(run)
    return group


trainer_app = _group("trainer", "Claim leases, train, be paid.")


@trainer_app.command("run")
def trainer_run(
    key: Key,
    task: TaskId = 1,
    home: Home = Path("runs/trainer"),
    network: Network = "anvil",
    password_file: Password = None,
    deployment: Deployment = None,
    listen: Listen = "127.0.0.1:0",
    public_url: PublicUrl = "",
    exit_when_done: Done = False,
    attack: Attack = "none",
    leases: Leases = 1,
    rollouts: Rollouts = False,
    cell: Annotated[int, typer.Option(min=1, max=64, help="Processes here that share each lease.")] = 1,
    cell_peers: Annotated[
        str, typer.Option(help="HOST:PORT,... of assistants on other machines (`trainer assist`).")
    ] = "",
    cell_token: Annotated[Path | None, typer.Option(help="File with the cell's token.")] = None,
    store_gib: StoreGib = 64.0,
) -> None:
    """Run a trainer until Ctrl-C, or until the task is done."""
    from dataclasses import replace

    from ..nodes.cell import CellPlan
    from ..nodes.wiring import run_node
    from .commands import split_listen

    if cell_peers and cell_token is None:
        raise CommonweightError(
            "E1526", "--cell-peers needs the cell's token", "--cell-token FILE; `trainer assist` makes one"
        )
    peers = tuple(split_listen(peer.strip()) for peer in cell_peers.split(",") if peer.strip())
    where = (network, deployment, task, listen, public_url, exit_when_done)
    config = _node("trainer", home, key, password_file, *where, attack, 1, leases, rollouts, store_gib)
    run_node(replace(config, cell=CellPlan(cell, peers, cell_token, attack)))


@trainer_app.command("assist")
def trainer_assist(
    listen: Annotated[str, typer.Option(help="HOST:PORT at which the trainer reaches this machine.")],
    token: Annotated[Path, typer.Option(help="File with the cell's token; made if absent.")] = Path(
        "cell.token"
    ),
    attack: Attack = "none",
    with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Compute segments for an own trainer elsewhere, until Ctrl-C. Needs no key and no chain."""
    from ..nodes.cell import assist, until_stopped
    from .commands import split_listen

    assist(split_listen(listen), token, attack, until_stopped(with_parent))


_role_command("validator", "Hold a seat, re-check drawn pieces, be paid.")
_role_command("relay", "Store and serve artifacts without a stake.")


@trainer_app.command("relinquish")
def trainer_relinquish(
    round_: Annotated[int, typer.Argument(metavar="ROUND", help="The round of the lease.")],
    key: Key,
    task: TaskId = 1,
    home: Home = Path("runs/trainer"),
    network: Network = "anvil",
    password_file: Password = None,
    deployment: Deployment = None,
) -> None:
    """Give an own lease back while its round can still be claimed (stop the trainer first)."""
    from .commands import relinquish as run

    config = _node("trainer", home, key, password_file, network, deployment, task, "127.0.0.1:0", "", False)
    run(config, task, round_)


@app.command()
def versions(
    task: Annotated[int, typer.Option("--task", "-t", help="Number of the task; 0 for all.")] = 0,
    network: Network = "anvil",
    deployment: Deployment = None,
    store: Annotated[Path | None, typer.Option(help="Show a store's records instead of the chain's.")] = None,
    json_: JsonOut = False,
) -> None:
    """How model versions came about: parents, merged updates, late ones. Needs no key."""
    from .artifacts import versions as run

    run(network, deployment, task, store, json_)


@app.command()
def status(
    network: Network = "anvil",
    deployment: Deployment = None,
    json_: JsonOut = False,
) -> None:
    """What the chain says: tasks, rounds, works, verdicts, payouts. Needs no key."""
    from .commands import status as run

    run(network, deployment, json_)


@app.command()
def verify(
    work: Annotated[str, typer.Argument(help="Root of a work (64 hex digits), or a file that --save wrote.")],
    folder: Annotated[
        Path | None,
        typer.Option(help="Take artifacts from this folder; asks no chain unless --network is given."),
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", "-n", help="Network name or RPC URL; anvil without --folder.")
    ] = None,
    deployment: Deployment = None,
    segments: Annotated[str, typer.Option(help="Segments to train again, such as 0,3; all if absent.")] = "",
    save: Annotated[Path | None, typer.Option(help="Write the verdict's evidence to this file.")] = None,
    json_: JsonOut = False,
) -> None:
    """Repeat the check of a work. Needs no key and no stake. Exit status: 0 valid, 3 invalid, 4 withheld, 5 error."""
    from .verify import verify as run

    raise typer.Exit(run(work, folder, network, deployment, segments, save, json_))


@app.command()
def calibrate(
    spec: Annotated[Path, typer.Argument(help="A task file.")],
    segment: Annotated[
        int, typer.Option(min=0, max=1000, help="Steps per segment to try; the task's own if 0.")
    ] = 0,
    arithmetic: Annotated[str, typer.Option(help="f32 or bf16; the task's own if absent.")] = "",
    loss: Annotated[
        str, typer.Option(help="supervised or rl; what the task's kind trains with if absent.")
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="One state and no other instruction sets.")] = False,
    json_: JsonOut = False,
) -> None:
    """Measure honest differences and cheats for a task; refuse thresholds that cannot tell them apart."""
    from .calibrate import calibrate as run

    run(spec, segment, arithmetic, loss, quick, json_)


def _node(
    role: str,
    home: Path,
    key: Path,
    password_file: Path | None,
    network: str,
    deployment: Path | None,
    task: int,
    listen: str,
    public_url: str,
    exit_when_done: bool,
    attack: str = "none",
    seats: int = 1,
    leases: int = 1,
    rollouts: bool = False,
    store_gib: float = 64.0,
) -> Any:
    """Node configuration from command-line options."""
    from ..chain.networks import resolve
    from ..nodes.wiring import NodeConfig
    from .commands import deployment_path, split_listen

    net = resolve(network)
    host, port = split_listen(listen)
    return NodeConfig(
        role=role,
        home=home,
        key=key,
        password_file=password_file,
        rpc=net.rpc_url,
        deployment=deployment_path(deployment, net),
        task=task,
        host=host,
        port=port,
        confirmations=net.confirmations,
        exit_when_done=exit_when_done,
        attack=attack,
        public_url=public_url,
        seats=seats,
        leases=leases,
        rollouts=rollouts,
        store_bytes=int(store_gib * (1 << 30)),
    )


def main() -> NoReturn:
    """Entry point. Errors are one line: exit status 1, or 2 when the command line itself is wrong."""
    try:
        status = app(standalone_mode=False)
    except CommonweightError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except typer.TyperException as error:
        print(_usage(error), file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _usage(error: typer.TyperException) -> str:
    """One line for a wrong command line; a group named without a command gets its help instead."""
    context = getattr(error, "ctx", None)
    message = str(getattr(error, "message", error)).strip()
    if context is None or "\n" in message:
        return message
    if isinstance(error, typer.BadParameter):
        message = error.format_message()
    hint = f"see `{context.command_path} --help`"
    return str(CommonweightError("E1908", " ".join(message.split()), hint))
