"""A cell over real connections: machines share a lease, some fail, and the work is the one that anybody can check."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commonweight.cli.commands import split_listen
from commonweight.cli.main import main
from commonweight.collectives import cell as cells
from commonweight.collectives.cell import Assistant, Cell, Job, Work
from commonweight.collectives.wire import Credentials, dial
from commonweight.core import merkle
from commonweight.core.errors import CommonweightError
from commonweight.core.spec import ExchangeSpec
from commonweight.core.verdict import Outcome
from commonweight.core.works import TREE_STEPS, TREE_UPDATE, StepLeaf, unpack
from commonweight.nodes.cell import CellPlan, open_cell
from commonweight.tasks import opening, pretrain, sharing
from commonweight.tasks.cheats import ASSISTANTS
from commonweight.tasks.lease import Lease, Product
from tests.integration.collectives_swarm import free_port
from tests.leases import BLINDING, Shelf, Tiny, tiny, with_header

TOKEN = b"c" * 32
HELLO = b"an artifact that jobs name"


@contextmanager
def cell_of(*works: Work, more: tuple[tuple[str, int], ...] = ()) -> Iterator[tuple[Cell, list[dict]]]:
    """A leader with one assistant for each of ``works``, and what it tells of them."""
    told: list[dict] = []
    assistants = [
        Assistant(Credentials("box", TOKEN), ("127.0.0.1", 0), w, lambda *_, **__: None) for w in works
    ]
    for assistant in assistants:
        assistant.start()
    addresses = (*(a.address for a in assistants), *more)
    leader = Cell(Credentials("ada", TOKEN), addresses, lambda event, **f: told.append({"event": event, **f}))
    try:
        yield leader, told
    finally:
        leader.close()
        for assistant in assistants:
            assistant.close()


def echo(body: bytes, artifacts: Mapping[bytes, bytes]) -> Iterator[bytes]:
    for artifact in artifacts.values():
        yield body + artifact
    yield b""


def jobs(count: int) -> tuple[list[Job], dict[bytes, bytes]]:
    root = merkle.root(HELLO)
    return [Job(b"job %d: " % i, (root,)) for i in range(count)], {root: HELLO}


def wanted(count: int) -> list[list[bytes]]:
    return [[b"job %d: " % i + HELLO, b""] for i in range(count)]


def test_jobs_are_shared_and_answered_in_order() -> None:
    begun = threading.Event()

    def own(body: bytes, artifacts: Mapping[bytes, bytes]) -> Iterator[bytes]:
        assert begun.wait(timeout=20)  # the leader does not do all of it before an assistant has begun
        yield from echo(body, artifacts)

    def helps(body: bytes, artifacts: Mapping[bytes, bytes]) -> Iterator[bytes]:
        begun.set()
        yield from echo(body, artifacts)

    with cell_of(helps, helps) as (cell, told):
        assert cell.size == 3
        assert cell.run(*jobs(6), own) == wanted(6)
        assert cell.run(*jobs(2), echo) == wanted(2)  # over the same connections
        assert any(t["event"] == "assisted" for t in told)


def refuses(body: bytes, artifacts: Mapping[bytes, bytes]) -> Iterator[bytes]:
    raise CommonweightError("E1601", "another numeric profile")
    yield b""


def breaks(body: bytes, artifacts: Mapping[bytes, bytes]) -> Iterator[bytes]:
    yield b"half a job"
    raise cells.LinkError("the power failed")


@pytest.mark.parametrize("bad", [refuses, breaks])
def test_a_job_that_an_assistant_does_not_finish_is_done_by_another(bad: Work) -> None:
    nobody = (("127.0.0.1", free_port()),)
    failed = threading.Event()

    def own(body: bytes, artifacts: Mapping[bytes, bytes]) -> Iterator[bytes]:
        assert failed.wait(timeout=20)
        yield from echo(body, artifacts)

    with cell_of(bad, more=nobody) as (cell, told):
        seen = cell.metric

        def metric(event: str, **fields: object) -> None:
            seen(event, **fields)
            if sum(t["event"] == "assistant_failed" for t in told) == 2:
                failed.set()

        cell.metric = metric
        assert cell.run(*jobs(3), own) == wanted(3)


def test_an_assistant_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "SILENCE_S", 0.3)
    monkeypatch.setattr(cells, "BEAT_S", 60.0)
    over = threading.Event()

    def hangs(body: bytes, artifacts: Mapping[bytes, bytes]) -> Iterator[bytes]:
        over.wait(timeout=30)
        yield b""

    def own(body: bytes, artifacts: Mapping[bytes, bytes]) -> Iterator[bytes]:
        yield from echo(body, artifacts)

    with cell_of(hangs) as (cell, _):
        assert cell.run(*jobs(2), own) == wanted(2)
        over.set()


def test_an_assistant_that_beats_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "BEAT_S", 0.05)
    over = threading.Event()

    def dawdles(body: bytes, artifacts: Mapping[bytes, bytes]) -> Iterator[bytes]:
        over.wait(timeout=30)
        yield b""

    with cell_of(dawdles) as (cell, _):
        cell.patience = 0.5
        assert cell.run(*jobs(2), echo) == wanted(2)
        over.set()


def test_who_does_not_know_the_token_gets_no_work_done() -> None:
    with cell_of(echo) as (cell, _), pytest.raises(CommonweightError):
        dial(Credentials("eve", b"e" * 32), *cell.assistants[0], cells.PURPOSE, "")


def shared(*works: Work) -> tuple[Shelf, Tiny, Lease, list[dict]]:
    t = tiny()
    lease = t.lease()
    with cell_of(*works) as (cell, told):
        product = sharing.train(t.spec, t.text, t.base, lease, blinding=BLINDING, cell=cell)
    return Shelf.of(product), t, lease, told


ALL = (0, 1, 2, 3)


@pytest.mark.parametrize("assistants", [1, 3])
def test_a_shared_lease_is_valid_to_the_last_segment(assistants: int) -> None:
    shelf, t, lease, _ = shared(*[sharing.work] * assistants)
    verdict = t.check(lease, shelf, ALL)
    assert verdict.outcome is Outcome.VALID, verdict
    assert dict(verdict.evidence)["cell_members"] == assistants + 1
    assert dict(verdict.evidence)["segments"] == 4


def test_who_computes_which_share_changes_no_bit() -> None:
    t = tiny()
    lease = t.lease()
    roots = set()
    for works in ([sharing.work], [breaks]):
        with cell_of(*works) as (cell, _):
            roots.add(sharing.train(t.spec, t.text, t.base, lease, blinding=BLINDING, cell=cell).root)
    assert len(roots) == 1
    assert roots != {t.train(lease).root}


def test_a_member_that_sends_junk_costs_time_only() -> None:
    def junk(body: bytes, artifacts: Mapping[bytes, bytes]) -> Iterator[bytes]:
        yield b"\x00" * 9

    shelf, t, lease, _ = shared(junk)
    assert t.check(lease, shelf, ALL).outcome is Outcome.VALID


def test_a_cheating_member_is_found_at_its_own_segment() -> None:
    shelf, t, lease, told = shared(ASSISTANTS["frozen-member"])
    assert [x["event"] for x in told if x["event"] == "assisted"]
    found = {i: t.check(lease, shelf, (i,)) for i in ALL}
    bad = {i for i, v in found.items() if v.outcome is Outcome.INVALID}
    assert bad in ({0, 1}, {2, 3})  # the share that it took, and not the other
    for i in ALL:
        verdict = t.judge(lease, shelf, TREE_STEPS, i)
        assert (verdict.outcome is Outcome.INVALID) == (i in bad)
        if i in bad:
            assert (found[i].tree, found[i].leaf) == (TREE_STEPS, i)


def test_an_update_that_is_not_the_mean_of_the_members_is_found_at_its_leaf() -> None:
    shelf, t, lease, _ = shared(sharing.work)
    product = shelf.product
    right = np.frombuffer(product.artifacts[product.header.update_root], dtype="<i4")
    own = t.train(lease)  # one machine's way is no mean of two
    wrong = right.copy()
    wrong[300] += 1
    for update in (wrong.tobytes(), own.artifacts[own.header.update_root]):
        lie = with_header(product, update_root=merkle.root(update))
        lie = replace(lie, artifacts={**lie.artifacts, merkle.root(update): update})
        at = int((np.frombuffer(update, dtype="<i4") != right).argmax()) // 256
        for verdict in (t.check(lease, Shelf.of(lie), ALL), t.judge(lease, Shelf.of(lie), TREE_UPDATE, at)):
            assert (verdict.outcome, verdict.tree, verdict.leaf) == (Outcome.INVALID, TREE_UPDATE, at)


def test_a_task_may_allow_fewer_machines_and_more_are_found_out() -> None:
    t = tiny()
    lease = t.lease()
    shelf, *_ = shared(sharing.work, sharing.work)
    narrow = replace(t, spec=replace(t.spec, exchange=ExchangeSpec(cell=2)))
    verdict = narrow.check(lease, shelf, ALL)
    assert verdict.outcome is Outcome.INVALID  # bound to another spec, to begin with
    assert [s.start for s in opening.layout(narrow.spec, steps_of(shelf.product), start_of(t))] == [0]
    assert [s.start for s in opening.layout(t.spec, steps_of(shelf.product), start_of(t))] == [0, 1, 2]
    with cell_of(sharing.work, sharing.work) as (cell, _):
        product = sharing.train(narrow.spec, t.text, t.base, lease, blinding=BLINDING, cell=cell)
    assert dict(narrow.check(lease, Shelf.of(product), ALL).evidence)["cell_members"] == 2


def start_of(t: Tiny) -> bytes:
    return pretrain.start_state(t.spec, t.base).root


def steps_of(product: Product) -> list[StepLeaf]:
    return list(unpack(StepLeaf, product.artifacts[product.header.step_root], 4))


class Kept:
    """A checkpoint in memory; after ``most`` segments the process dies."""

    def __init__(self, most: int) -> None:
        self.rows: dict[int, tuple[bytes, bytes]] = {}
        self.most = most

    def save(self, index: int, state: bytes, record: bytes) -> None:
        if len(self.rows) == self.most:
            raise KeyboardInterrupt
        self.rows[index] = (state, record)

    def load(self) -> list[tuple[bytes, bytes]]:
        return [self.rows[i] for i in sorted(self.rows)]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_leader_that_was_killed_goes_on_with_the_shares_it_had(most: int) -> None:
    t = tiny()
    lease, kept = t.lease(), Kept(most)
    with cell_of(sharing.work) as (cell, _told):
        with pytest.raises(KeyboardInterrupt):
            sharing.train(t.spec, t.text, t.base, lease, blinding=BLINDING, cell=cell, checkpoint=kept)
        kept.most = 9
        product = sharing.train(t.spec, t.text, t.base, lease, blinding=BLINDING, cell=cell, checkpoint=kept)
        whole = sharing.train(t.spec, t.text, t.base, lease, blinding=BLINDING, cell=cell)
    assert product.root == whole.root


def test_an_assistant_of_another_machine_is_a_process_of_its_own(tmp_path: Path) -> None:
    token = tmp_path / "cell.token"
    command = [sys.executable, "-m", "commonweight", "trainer", "assist", "--listen", "127.0.0.1:0"]
    child = subprocess.Popen([*command, "--token", str(token)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        peer = split_listen(child.stdout.readline().removeprefix("assists at ").strip())
        assert token.stat().st_mode & 0o777 == 0o600
        told: list[str] = []
        t = tiny()
        lease = t.lease()
        plan = CellPlan(peers=(peer,), token=token)
        with open_cell(plan, tmp_path, "ada", lambda event, **_: told.append(event)) as cell:
            assert cell is not None
            product = sharing.train(t.spec, t.text, t.base, lease, blinding=BLINDING, cell=cell)
        assert t.check(lease, Shelf.of(product), ALL).outcome is Outcome.VALID
        assert told == ["cell", "assisted"]
        child.terminate()
        assert child.wait(timeout=20) == 0
    finally:
        child.kill()
        child.wait(timeout=10)
        child.stdout.close()


def test_children_end_with_their_cell(tmp_path: Path) -> None:
    with open_cell(CellPlan(size=2), tmp_path, "ada", lambda *_, **__: None) as cell:
        assert cell is not None
        assert cell.size == 2
        address = cell.assistants[0]
        dial(cell.me, *address, cells.PURPOSE, "").close()
    with pytest.raises(CommonweightError):
        dial(cell.me, *address, cells.PURPOSE, "")


def test_a_cell_without_its_token_or_with_too_many_machines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("abcd")
    (tmp_path / "text").write_text("not hexadecimal")
    peer = (("127.0.0.1", 1),)
    for plan, code in (
        (CellPlan(peers=peer, token=tmp_path / "none"), "E1526"),
        (CellPlan(peers=peer, token=tmp_path / "short"), "E1526"),
        (CellPlan(peers=peer, token=tmp_path / "text"), "E1526"),
        (CellPlan(size=40, peers=peer * 40), "E1525"),
    ):
        with (
            pytest.raises(CommonweightError) as caught,
            open_cell(plan, tmp_path, "ada", lambda *_, **__: None),
        ):
            pass
        assert caught.value.code == code
    with open_cell(CellPlan(), tmp_path, "ada", lambda *_, **__: None) as cell:
        assert cell is None


def test_cell_peers_need_a_token(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["commonweight", "trainer", "run", "--key", "none.json", "--cell-peers", "127.0.0.1:1"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        main()
    assert "error[E1526]" in capsys.readouterr().err
