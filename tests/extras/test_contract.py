"""The adapter against the real library (`make test-extras` installs it in an environment of its own)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from commonweight.core.errors import CommonweightError
from commonweight.core.seeds import uniform
from commonweight.core.spec import parse_task
from commonweight.core.verdict import Outcome
from commonweight.rl.environments import UNIT, make, parse_mixture, pinned
from commonweight.tasks.rl_bundle import Bundle
from tests.leases import Shelf
from tests.rl_leases import KIND, TOML, TinyRl


def test_prompts_and_rewards_are_those_of_the_taskset() -> None:
    environment = make("verifiers:cw-sums")
    for i in range(8):
        seed = bytes([i]) * 32
        task = environment.task(seed)
        assert task == environment.task(seed)
        a, b = divmod(uniform(seed, "index", 1, 100)[0], 10)
        assert task.prompt == f"{a}+{b}="
        assert environment.score(task, [str(a + b)]) == 1.0
        assert environment.score(task, ["77"]) == 0.25
        assert environment.score(task, ["?"]) == 0.0
        assert environment.reply(task, ["?"]) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cw-boxed", "need a runtime (ran)"),
        ("cw-prepared", "need a runtime (setup)"),
        ("cw-missing", "not found"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name: str, why: str) -> None:
    with pytest.raises(CommonweightError) as caught:
        make(f"verifiers:{name}")
    assert caught.value.code == "E1613"
    assert name in caught.value.message
    assert why in caught.value.message


def test_a_task_names_the_taskset_with_a_digest_and_another_one_is_refused() -> None:
    text = pinned("verifiers:cw-sums*2, reverse:4")
    name, _, rest = text.partition("*")
    assert rest == "2, reverse:4"
    assert name == make(name).name
    assert parse_mixture(text).weights == (2, 1)
    with pytest.raises(CommonweightError) as caught:
        make("verifiers:cw-sums@0123456789abcdef")
    assert caught.value.code == "E1613"
    assert "digest" in caught.value.message


def test_a_lease_over_a_taskset_is_trained_and_checked() -> None:
    file = parse_task(TOML.format(source="verifiers:cw-sums, reverse:4"))
    file = replace(file, start=replace(file.start, warm_steps=0))
    data, base = KIND.load_data(file, Path()), KIND.initial_version(file, Path())
    assert "cw-sums@" in Bundle.decode(data).environments
    task = TinyRl(KIND.build_spec(file, data, base), data, base)
    lease = task.lease()
    verdict = task.check(lease, Shelf.of(task.train(lease)))
    assert verdict.outcome is Outcome.VALID, verdict.reason
    forged = task.train(lease, KIND.cheats["inflating"])
    assert task.check(lease, Shelf.of(forged)).outcome is Outcome.INVALID


def test_a_reward_outside_its_range_is_clamped() -> None:
    mixture = parse_mixture("verifiers:cw-sums")
    task = mixture.parts[0].task(bytes(32))
    assert mixture.reward(0, task, [str(sum(int(x) for x in task.prompt[:-1].split("+")))]) == UNIT
