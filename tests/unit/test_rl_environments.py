"""Environments: pure functions of seeds, exact rewards, strict names; foreign ones are kept in a box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonweight.core.errors import CommonweightError
from commonweight.core.seeds import uniform
from commonweight.core.spec import parse_task
from commonweight.core.verdict import Outcome
from commonweight.rl.environments import UNIT, Environment, Task, make, parse_mixture
from commonweight.rl.sandbox import Sandbox, sandboxed
from commonweight.tasks.rl_bundle import scene
from tests.leases import Shelf
from tests.rl_leases import KIND, TOML, TinyRl

NAMES = ("reverse:6", "sort:4-8", "add:3", "brackets:8", "guess")
SEEDS = st.binary(min_size=32, max_size=32)


@given(seed=SEEDS, name=st.sampled_from(NAMES))
def test_tasks_are_functions_of_their_seed_and_the_answer_is_worth_all(seed: bytes, name: str) -> None:
    environment = make(name)
    assert isinstance(environment, Environment)
    task = environment.task(seed)
    assert make(name).task(seed) == task
    assert environment.score(task, [task.answer]) == 1.0
    assert 0 <= environment.score(task, [task.answer + "x"]) < 1
    assert "\n" not in task.prompt + task.answer


def test_the_answers_are_right() -> None:
    seed = bytes(range(32))
    word = make("reverse:6").task(seed)
    assert word.answer == word.prompt[1:-1][::-1]
    digits = make("sort:5").task(seed)
    assert digits.answer == "".join(sorted(digits.prompt[1:-1]))
    first, second = make("add:3").task(seed).prompt[:-1].split("+")
    assert make("add:3").task(seed).answer == str(int(first) + int(second))
    brackets = make("brackets:8").task(seed)
    closed = brackets.prompt[1:-1] + brackets.answer
    while any(pair in closed for pair in ("()", "[]", "{}")):
        closed = closed.replace("()", "").replace("[]", "").replace("{}", "")
    assert closed == ""


def test_guessing_goes_on_until_it_is_found_or_three_guesses_are_spent() -> None:
    game, task = make("guess"), Task("g?", "4")
    assert game.reply(task, ["7"]) == "<?"
    assert game.reply(task, ["7", "2"]) == ">?"
    assert game.reply(task, ["7", "2", "3"]) is None
    assert game.reply(task, ["4"]) is None
    assert game.score(task, ["4"]) == 1.0
    assert game.score(task, ["7", "4"]) == pytest.approx(2 / 3)
    assert game.score(task, ["1", "2", "3"]) == 0.0


def test_a_mixture_draws_by_weight_and_by_seed_alone() -> None:
    mixture = parse_mixture("reverse:4*3, sort:4")
    picks = [mixture.pick(i.to_bytes(32, "big")) for i in range(2000)]
    assert 0.70 < picks.count(0) / 2000 < 0.80
    assert mixture.task(b"s" * 32) == parse_mixture("reverse:4*3,sort:4").task(b"s" * 32)


@pytest.mark.parametrize("value", [float("nan"), -1.0, None, "1", float("-inf")])
def test_a_reward_that_is_no_number_counts_as_nothing(value: object) -> None:
    class Odd:
        name = "odd"

        def task(self, seed: bytes) -> Task:
            return Task("p", "a")

        def score(self, task: Task, turns: object) -> object:
            return value

        def reply(self, task: Task, turns: object) -> None:
            return None

    mixture = parse_mixture("reverse")
    odd = type(mixture)((Odd(),), (1,))  # type: ignore[arg-type]
    assert odd.reward(0, Task("p", "a"), ["x"]) == 0


@pytest.mark.parametrize(
    "name", ["", "revers", "reverse:", "reverse:0", "reverse:9-4", "sort:x", "sort:4*0", "sort*x"]
)
def test_bad_names_are_refused_with_an_id(name: str) -> None:
    if name == "reverse:":
        assert parse_mixture(name).parts[0].name == "reverse:6-6"
        return
    with pytest.raises(CommonweightError) as caught:
        parse_mixture(name)
    assert caught.value.code == "E1007"


OWN = """
class Environment:
    name = "vowels"
    def task(self, seed):
        word = bytes(97 + b % 26 for b in seed[:6]).decode()
        return f"v{word}=", str(sum(c in "aeiou" for c in word))
    def score(self, prompt, answer, turns):
        return float(turns[-1] == answer)
"""


def test_ten_lines_of_ones_own_are_an_environment() -> None:
    mixture = parse_mixture("own*3, reverse:4", sandboxed(OWN))
    box = mixture.parts[0]
    assert mixture.weights == (3, 1)
    assert isinstance(box, Environment)
    task = box.task(bytes(32))
    assert (task.prompt, task.answer) == ("vaaaaaa=", "6")
    assert mixture.reward(0, task, ["6"]) == UNIT
    assert mixture.reward(0, task, ["5"]) == 0
    assert box.reply(task, ["5"]) is None
    assert isinstance(box, Sandbox)
    box.close()


@pytest.mark.parametrize(
    "body",
    [
        "open('/tmp/x', 'w')",
        "__import__('socket').socket()",
        "__import__('os').system('true')",
        "__import__('os').fork()",
        "__import__('ctypes')",
        "bytearray(1 << 31)",
    ],
)
def test_a_foreign_environment_can_neither_write_nor_call_nor_swallow_memory(body: str) -> None:
    box = Sandbox(OWN.replace("        return float", f"        {body}\n        return float"))
    task = box.task(bytes(32))
    assert box.score(task, ["6"]) == 0.0
    assert box.task(bytes(32)) == task
    box.close()


def test_an_environment_sees_nothing_of_the_nodes_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMONWEIGHT_SECRET", "hush")
    box = Sandbox(OWN.replace("float(turns[-1] == answer)", "float(len(__import__('os').environ) <= 2)"))
    assert box.score(box.task(bytes(32)), ["?"]) == 1.0
    box.close()


@pytest.mark.parametrize(
    "code", ["1 +", "x = 1", "raise ValueError('no')", "import socket\nclass Environment: name='x'"]
)
def test_what_does_not_load_is_said_once(code: str) -> None:
    with pytest.raises(CommonweightError) as caught:
        Sandbox(code)
    assert caught.value.code == "E1010"


def test_one_that_hangs_is_ended_and_one_that_dies_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commonweight.rl.sandbox.CALL_SECONDS", 1.0)
    hanging = "while turns[-1] == 'hang': pass\n        if turns[-1] == 'die': __import__('os')._exit(3)"
    box = Sandbox(OWN.replace("        return float", f"        {hanging}\n        return float"))
    task = box.task(bytes(32))
    for last in ("hang", "die"):
        with pytest.raises(CommonweightError) as caught:
            box.score(task, [last])
        assert caught.value.code == "E1010"
        assert box.score(task, ["6"]) == 1.0
    box.close()


def test_sizes_lie_within_their_bounds() -> None:
    environment = make("reverse:3-5")
    sizes = {len(environment.task(i.to_bytes(32, "big")).answer) for i in range(100)}
    assert sizes == {3, 4, 5}
    assert uniform(b"s", "t", 0, 5) == ()


def test_a_taskset_of_verifiers_without_the_library_is_refused_by_name() -> None:
    """Against the library itself: `make test-extras`."""
    with pytest.raises(CommonweightError) as caught:
        make("verifiers:some-tasks")
    assert caught.value.code == "E1613"
    assert "some-tasks" in caught.value.message
    assert "commonweight[verifiers]" in caught.value.hint
    with pytest.raises(CommonweightError) as caught:
        make("verifiers:../etc")
    assert caught.value.code == "E1007"


def test_the_documented_environment_is_trained_and_checked_in_a_mixture(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rl.md").read_text()
    (tmp_path / "vowels.py").write_text(page.split("```python\n")[1].split("```")[0])
    file = parse_task(TOML.format(source="vowels.py*2, reverse:4"))
    file = replace(file, start=replace(file.start, warm_steps=0))
    data, base = KIND.load_data(file, tmp_path), KIND.initial_version(file, tmp_path)
    spec = KIND.build_spec(file, data, base)
    played = scene(spec, data).mixture
    assert [part.name for part in played.parts] == ["vowels", "reverse:4-4"]
    drawn = [played.pick(bytes([i]) * 32) for i in range(255)]
    assert 0.5 < drawn.count(0) / len(drawn) < 0.8
    task = TinyRl(spec, data, base)
    lease = task.lease()
    verdict = task.check(lease, Shelf.of(task.train(lease)))
    assert verdict.outcome is Outcome.VALID, verdict.reason


def test_two_environments_of_ones_own_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(CommonweightError, match="one environment of your own") as caught:
        KIND.load_data(parse_task(TOML.format(source="a.py, b.py*2")), tmp_path)
    assert caught.value.code == "E1007"
