"""The `grpo` kind: honest works are valid and the same after any interruption; jurors find what validators find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from commonweight.cli import commands
from commonweight.core import merkle
from commonweight.core.errors import CommonweightError, EncodingError
from commonweight.core.spec import parse_task
from commonweight.core.verdict import Outcome
from commonweight.core.works import TREE_STEPS, TREE_TRAJECTORIES, TREE_UPDATE, WITHHELD
from commonweight.tasks import grpo
from commonweight.tasks.kinds import task_kind
from commonweight.tasks.lease import Product
from commonweight.tasks.rl_bundle import Bundle
from tests.leases import BLINDING, BOB, Shelf, digest
from tests.rl_leases import KIND, TOML, TinyRl, tiny_rl


class Killed(Exception):
    pass


class Notebook:
    """A checkpoint in memory that dies after some segments."""

    def __init__(self, survive: int) -> None:
        self.rows: list[tuple[bytes, bytes]] = []
        self.left = survive

    def save(self, index: int, state: bytes, record: bytes) -> None:
        assert index == len(self.rows)
        self.rows.append((state, record))
        self.left -= 1
        if self.left == 0:
            raise Killed

    def load(self) -> list[tuple[bytes, bytes]]:
        return self.rows


def work(task: TinyRl) -> Product:
    return task.train(task.lease())


@pytest.mark.parametrize(
    ("source", "rl"),
    [
        ("reverse:4", {}),
        ("reverse:4, sort:3*2", {"lag": 0, "algorithm": "grpo", "loss": "dppo"}),
        ("reverse:4", {"lora_rank": 2, "lag": 2, "algorithm": "rloo", "loss": "ratio", "temperature": 0.8}),
        ("guess", {"max_new": 2}),
    ],
)
def test_honest_work_is_valid_whole_and_in_every_leaf(source: str, rl: dict[str, object]) -> None:
    task = tiny_rl(source, **rl)
    lease, product = task.lease(), work(task)
    verdict = task.check(lease, Shelf.of(product))
    assert verdict.outcome is Outcome.VALID, verdict.reason
    evidence = dict(verdict.evidence)
    assert 0 <= product.notes["reward"] <= 1
    assert 0 < product.notes["taught"] <= 96
    assert evidence["segments"] == 3
    assert evidence["rewards"] == 96
    assert evidence["sampled_tokens"] >= 96
    for tree, leaf in ((TREE_TRAJECTORIES, 0), (TREE_TRAJECTORIES, 95), (TREE_STEPS, 2), (TREE_UPDATE, 3)):
        assert task.judge(lease, Shelf.of(product), tree, leaf).outcome is Outcome.VALID
    assert task.judge(lease, Shelf.of(product), 0, WITHHELD - 1).outcome is Outcome.VALID


@pytest.mark.parametrize("survive", [1, 2, 3])
def test_a_killed_trainer_resumes_to_the_same_work(survive: int) -> None:
    task = tiny_rl()
    notebook = Notebook(survive)
    with pytest.raises(Killed):
        KIND.train(task.spec, task.data, task.base, task.lease(), blinding=BLINDING, checkpoint=notebook)
    resumed = KIND.train(
        task.spec, task.data, task.base, task.lease(), blinding=BLINDING, checkpoint=notebook
    )
    assert digest(resumed) == digest(work(task))


def test_a_checkpoint_of_another_lease_is_of_no_use() -> None:
    task, notebook = tiny_rl(), Notebook(0)
    KIND.train(task.spec, task.data, task.base, task.lease(slot=1), blinding=BLINDING, checkpoint=notebook)
    other = Notebook(0)
    other.rows = []
    fresh = grpo.Training(grpo.Setting.of(task.spec, task.data, task.base, task.lease()))
    assert grpo._resume(fresh, notebook) == []
    notebook.rows[0] = (notebook.rows[0][0], notebook.rows[0][1][:-1])
    again = grpo.Training(grpo.Setting.of(task.spec, task.data, task.base, task.lease(slot=1)))
    assert grpo._resume(again, notebook) == []


def test_every_lease_plays_other_prompts_with_other_noise() -> None:
    task = tiny_rl()
    played = []
    for lease in (task.lease(), task.lease(slot=1), task.lease(round_=1), task.lease(trainer=BOB)):
        rows = task.court(lease, Shelf.of(task.train(lease))).columns(0)
        played.append((tuple(rows[0].prompt.tolist()), rows[0].key))
    assert len(set(played)) == 4


def test_the_product_does_not_depend_on_the_process_but_on_the_lease() -> None:
    task = tiny_rl()
    assert digest(work(task)) == digest(work(task))


def test_missing_and_oversized_artifacts_have_verdicts_of_their_own() -> None:
    task = tiny_rl()
    lease, product = task.lease(), work(task)
    opened = task.court(lease, Shelf.of(product)).opened
    shelf = Shelf.of(product)
    del shelf.artifacts[opened.trajectories[0].proof]
    assert task.check(lease, shelf).outcome is Outcome.WITHHELD
    assert task.judge(lease, shelf, 0, WITHHELD - 1).outcome is Outcome.WITHHELD
    shelf = Shelf.of(product)
    shelf.artifacts[opened.trajectories[0].proof] = bytes(1 << 24)
    verdict = task.check(lease, shelf)
    assert (verdict.outcome, verdict.tree, verdict.leaf) == (Outcome.INVALID, TREE_TRAJECTORIES, 0)
    assert (
        KIND.check(task.spec, task.data, task.base, lease, product.root, (), Shelf.of(product).fetch).outcome
        is Outcome.ERROR
    )


def test_units_cover_learning_and_every_rollout_once() -> None:
    spec = tiny_rl().spec
    spec = replace(spec, rl=replace(spec.rl, block=12))
    pieces = [grpo.unit(spec, n) for n in range(grpo.units(spec))]
    assert [index for index, rows in pieces if rows is None] == [0, 1, 2]
    covered = [(index, row) for index, rows in pieces if rows is not None for row in rows]
    assert covered == [(index, row) for index in range(3) for row in range(32)]


def test_learning_raises_the_held_out_accuracy() -> None:
    task = tiny_rl("reverse:2", max_new=5, group=8, lag=0)
    training = replace(task.spec.training, steps=40, lr=2e-3, batch=64)
    longer = replace(task, spec=replace(task.spec, training=training))
    run = grpo.Training(grpo.Setting.of(longer.spec, longer.data, longer.base, longer.lease()))
    before = grpo.accuracy(run.setting.arch, run.states[0].theta, run.setting.scene)
    for index in range(longer.spec.training.segments):
        run.segment(index)
    after = grpo.accuracy(run.setting.arch, run.states[-1].theta, run.setting.scene)
    assert after > before + 0.2


BAD = {
    "group = 4": ("group = 1", "rl.group"),
    "batch = 16": ("batch = 18", "training.batch"),
    "max_new = 6": ("max_new = 24", "rl.max_new"),
    "lag = 1": ("lag = 9", "rl.lag"),
    "topk = 16": ("topk = 33", "verification.topk"),
}


@pytest.mark.parametrize("line", BAD)
def test_a_spec_that_nobody_could_check_is_refused_by_its_key(line: str) -> None:
    bad, key = BAD[line]
    with pytest.raises(CommonweightError) as caught:
        parse_task(TOML.format(source="reverse:4").replace(line, bad))
    assert caught.value.code == "E1004"
    assert key in caught.value.message


@pytest.mark.parametrize(
    "change", [("algorithm", "ppo"), ("loss", "mse"), ("mask", 0.0), ("temperature", 0.0)]
)
def test_unknown_choices_are_refused(change: tuple[str, object]) -> None:
    value = f'"{change[1]}"' if isinstance(change[1], str) else change[1]
    with pytest.raises(CommonweightError) as caught:
        parse_task(TOML.format(source="reverse:4").replace("[start]", f"{change[0]} = {value}\n[start]"))
    assert f"rl.{change[0]}" in caught.value.message


def test_the_bundle_is_canonical_and_strict() -> None:
    bundle = Bundle("reverse:4")
    assert Bundle.decode(bundle.encode()) == bundle
    for bad in (
        b"",
        b"[]",
        b"{}",
        bundle.encode() + b" ",
        bundle.encode().replace(b"10", b'"10"'),
        b"\xff" * 40,
    ):
        with pytest.raises(EncodingError):
            Bundle.decode(bad)


def test_unknown_environments_are_refused_before_publishing() -> None:
    file = parse_task(TOML.format(source="revers:4"))
    with pytest.raises(CommonweightError) as caught:
        KIND.build_spec(file, Bundle("revers:4").encode(), tiny_rl().base)
    assert caught.value.code == "E1007"


def test_the_kind_is_registered() -> None:
    assert task_kind("grpo") is KIND
    assert merkle.root(tiny_rl().data) == tiny_rl().spec.data_root


def test_the_example_task_file_is_a_task(tmp_path: Path) -> None:
    commands.task_init(tmp_path / "task.toml", "grpo")
    assert parse_task((tmp_path / "task.toml").read_text()).kind == "grpo"
    with pytest.raises(CommonweightError, match="unknown task kind"):
        commands.task_init(tmp_path / "other.toml", "grapes")
    assert not (tmp_path / "other.toml").exists()
