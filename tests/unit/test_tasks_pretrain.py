"""Training a lease: the same product every time, resumed or not; data by seed; specs that fit their text."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commonweight.core import fixed, merkle
from commonweight.core import spec as specs
from commonweight.core.errors import CommonweightError
from commonweight.core.spec import DataSpec, ModelSpec, TrainingSpec, VerificationSpec
from commonweight.core.works import Header, StepLeaf, TrajectoryLeaf, unpack
from commonweight.diloco.inner import TrainState
from commonweight.tasks import data, pretrain
from commonweight.tasks.kinds import task_kind
from commonweight.tasks.lease import Product, batch, require_text
from tests.leases import ALICE, BLINDING, BOB, digest, make, tiny


class Memory:
    """A checkpoint that fails after ``until`` segments, as a killed process does."""

    def __init__(self, until: int = 99) -> None:
        self.rows: list[tuple[bytes, bytes]] = []
        self.until = until

    def save(self, index: int, state: bytes, record: bytes) -> None:
        assert index == len(self.rows)
        self.rows.append((state, record))
        if len(self.rows) >= self.until:
            raise KeyboardInterrupt

    def load(self) -> list[tuple[bytes, bytes]]:
        return list(self.rows)


def train(memory: Memory, **lease: int) -> Product:
    t = tiny()
    return pretrain.train(t.spec, t.text, t.base, t.lease(**lease), blinding=BLINDING, checkpoint=memory)


def reference() -> str:
    return digest(tiny().train(tiny().lease()))


def test_work_is_reproducible_in_another_process() -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import reference; print(reference())"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == reference()


@pytest.mark.parametrize("until", [1, 2, 3, 4])
def test_resumed_work_equals_uninterrupted_work(until: int) -> None:
    memory = Memory(until)
    with pytest.raises(KeyboardInterrupt):
        train(memory)
    memory.until = 99
    assert digest(train(memory)) == reference()


def test_a_checkpoint_that_does_not_belong_is_trained_again() -> None:
    other = Memory()
    train(other, slot=1)
    assert digest(train(replace_rows(other.rows))) == reference(), "another lease's checkpoint"
    own = Memory()
    train(own)
    state, record = own.rows[1]
    for rows in (
        [own.rows[0], (own.rows[0][0], record), *own.rows[2:]],
        [own.rows[0], (state[:-1] + b"\x01", record), *own.rows[2:]],
        [own.rows[0], (state, record[:-1]), *own.rows[2:]],
        [own.rows[0], (state, b""), *own.rows[2:]],
        own.rows[1:],
        own.rows + own.rows,
    ):
        assert digest(train(replace_rows(rows))) == reference()


def replace_rows(rows: list[tuple[bytes, bytes]]) -> Memory:
    """A store that keeps ``rows`` at first, and takes what training then saves without a fuss."""
    memory = Memory()
    memory.load = lambda: list(rows)  # type: ignore[method-assign]
    memory.save = lambda *_: None  # type: ignore[method-assign]
    return memory


def test_the_artifacts_of_a_work_are_named_by_their_roots() -> None:
    t = tiny()
    product = t.train(t.lease())
    assert all(merkle.root(artifact) == root for root, artifact in product.artifacts.items())
    header = Header.decode(product.artifacts[product.root])
    steps = unpack(StepLeaf, product.artifacts[header.step_root], 4)
    trajectories = unpack(TrajectoryLeaf, product.artifacts[header.trajectory_root], 4)
    assert steps[0].pre == pretrain.start_state(t.spec, t.base).root
    assert steps[0].pre not in product.artifacts
    assert [s.pre for s in steps[1:]] == [s.post for s in steps[:-1]]
    assert all(s.post in product.artifacts for s in steps)
    assert all(x.proof in product.artifacts for x in trajectories)
    count = pretrain.parameters(t.spec)
    end = TrainState.decode(product.artifacts[steps[-1].post], count)
    update = fixed.decode_update(product.artifacts[header.update_root], count)
    assert (update == fixed.make_update(t.base.weights, end.theta.numpy(), t.spec.merge)).all()
    assert update.any()
    assert header.update_length == 4 * fixed.padded(count)
    assert not product.cheated
    assert product.loss == steps[-1].loss


def test_blinding_hides_and_the_lease_changes_everything() -> None:
    t = tiny()
    lease = t.lease()
    roots = {
        t.train(lease).root,
        pretrain.train(t.spec, t.text, t.base, lease, blinding=bytes(32)).root,
        t.train(t.lease(slot=1)).root,
        t.train(t.lease(round_=1)).root,
        t.train(t.lease(trainer=BOB)).root,
    }
    assert len(roots) == 5


def test_batches_follow_the_seed_and_stay_inside_the_training_text() -> None:
    t = tiny()
    seed = t.lease(trainer=ALICE).seed
    one = batch(t.spec, t.text, seed, 3)
    assert one.shape == (4, 17)
    assert one.dtype == np.uint8
    assert (one == batch(t.spec, t.text, seed, 3)).all()
    assert (one != batch(t.spec, t.text, seed, 4)).any()
    # In the smallest training text there is exactly one place, and it touches no byte of the validation text.
    small = replace(t.spec, data_length=40, validation_length=23)
    text = bytes(range(40))
    assert all((row == np.arange(17)).all() for row in batch(small, text, seed, 0))


@pytest.mark.parametrize(("length", "validation"), [(40, 24), (40, 16), (17, 1)])
def test_text_shorter_than_a_sequence_is_refused(length: int, validation: int) -> None:
    with pytest.raises(CommonweightError) as caught:
        require_text(replace(tiny().spec, data_length=length, validation_length=validation))
    assert caught.value.code == "E1004"


def test_build_spec_freezes_everything() -> None:
    t = tiny()
    assert t.spec.verification.profile.startswith("torch-")
    assert "/probe-" in t.spec.verification.profile
    assert t.spec.initial_model == t.base.root
    assert t.spec.data_root == merkle.root(t.text)
    assert specs.Spec.decode(t.spec.encode()) == t.spec
    with pytest.raises(CommonweightError) as caught:
        make(ModelSpec(dim=16, heads=2, context=4096), TrainingSpec(batch=1), VerificationSpec())
    assert caught.value.code == "E1004"


def test_another_profile_refuses_to_train() -> None:
    t = tiny()
    foreign = replace(t.spec, verification=replace(t.spec.verification, profile="torch-1/vax"))
    with pytest.raises(CommonweightError) as caught:
        pretrain.train(foreign, t.text, t.base, t.lease(), blinding=BLINDING)
    assert caught.value.code == "E1601"


def test_rounds_reduce_the_validation_loss() -> None:
    """Two rounds of three leases; the second starts from the merged version."""
    t = tiny()
    before = pretrain.evaluate(t.spec, t.text, t.base)
    assert before == pretrain.evaluate(t.spec, t.text, t.base)
    version = t.base
    for round_ in range(2):
        works = [t.train(t.lease(round_, slot, base=version), version) for slot in range(3)]
        version = t.next_version(*works, base=version)
    assert pretrain.evaluate(t.spec, t.text, version) < 0.85 * before


def test_task_kinds_are_those_of_the_spec() -> None:
    assert all(task_kind(name).train for name in specs.KINDS)
    assert task_kind("pretrain").parameters(tiny().spec) == pretrain.parameters(tiny().spec)
    with pytest.raises(CommonweightError) as caught:
        task_kind("knitting")
    assert caught.value.code == "E1004"
    assert "pretrain" in caught.value.hint


# -- the publisher's text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["pydoc-topics", "stdlib"])
def test_built_in_texts_are_deterministic_and_bounded(source: str) -> None:
    spec = DataSpec(source=source, max_bytes=50_000)
    text = data.load(spec, Path())
    assert len(text) == 50_000
    assert text == data.load(spec, Path())


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes(b"once upon " * 1000)
    assert data.load(DataSpec("book.txt", max_bytes=5000), tmp_path) == b"once upon " * 500


@pytest.mark.parametrize("name", ["missing.txt", "short.txt", "."])
def test_an_unusable_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "short.txt").write_bytes(b"too short")
    with pytest.raises(CommonweightError) as caught:
        data.load(DataSpec(name), tmp_path)
    assert caught.value.code == "E1006"
    assert repr(name) in caught.value.message or f"source {name}" in caught.value.message


def test_text_that_repeats_one_character_can_be_trained_and_proven() -> None:
    """Equal tokens have equal hidden states: with fewer values than tokens in a chunk no honest proof was possible."""
    spec, lease = tiny().spec, tiny().lease()
    dull = b"-" * len(tiny().text)
    product = pretrain.train(spec, dull, tiny().base, lease, blinding=BLINDING)
    assert product.header.trajectory_count == spec.training.segments
    few = replace(spec.verification, topk=spec.verification.chunk)
    with pytest.raises(CommonweightError, match="topk"):
        specs.check_training(spec.kind, spec.model, spec.training, spec.merge, few)
