"""Task files: strict parsing with stable error ids; specs: canonical bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonweight.cli.commands import template
from commonweight.core.errors import CommonweightError, EncodingError
from commonweight.core.spec import (
    TOKEN,
    MergeSpec,
    ModelSpec,
    Spec,
    TrainingSpec,
    VerificationSpec,
    parse_task,
)

HEAD = '[task]\nname = "t"\nkind = "pretrain"\n'


def spec(**change: object) -> Spec:
    values: dict[str, object] = {
        "name": "t",
        "kind": "pretrain",
        "model": ModelSpec(),
        "training": TrainingSpec(),
        "merge": MergeSpec(),
        "verification": VerificationSpec(profile="p"),
        "data_root": bytes(32),
        "data_length": 1000,
        "validation_length": 100,
        "initial_model": bytes(32),
    }
    return Spec(**(values | change))  # type: ignore[arg-type]


def test_the_packaged_template_is_valid() -> None:
    task = parse_task(template())
    assert task.economy.rounds == 4
    assert task.economy.escrow == 4 * (4 * 11 * TOKEN + 5 * TOKEN // 2)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("[task", "E1001", "not TOML"),
        ("", "E1002", "no [task] section"),
        (HEAD + "[modle]\n", "E1002", "unknown section `modle`"),
        (HEAD + "[training]\nstep = 4\n", "E1002", "unknown key `training.step`"),
        ('[task]\nname = "t"\nkind = "pretrain"\ncolour = 1\n', "E1002", "unknown key `task.colour`"),
        (HEAD + '[training]\nsteps = "40"\n', "E1003", "`training.steps` must be an integer"),
        (HEAD + "[training]\nsteps = true\n", "E1003", "`training.steps` must be an integer"),
        (HEAD + '[training]\nlr = "fast"\n', "E1003", "`training.lr` must be a number"),
        (HEAD + "[economy]\nreward = 1.5\n", "E1003", "an amount of tokens"),
        (HEAD + '[economy]\nreward = "many"\n', "E1003", "an amount of tokens"),
        # Found by fuzzing: a number whose product with 10**18 has too large an exponent for the decimal library.
        (HEAD + '[economy]\nreward = "3333e3333333670"\n', "E1003", "an amount of tokens"),
        (HEAD + "[economy]\nwindows = 3\n", "E1003", "must be a section"),
        (HEAD + "[merge]\nrule = 7\n", "E1003", "must be a string"),
        (HEAD + "[economy]\nslots = -1\n", "E1004", "must fit 16 bits"),
        (HEAD + "[training]\nlr = nan\n", "E1004", "training.lr"),
        (HEAD + "[training]\nsegment = 11\nsteps = 22\n", "E1004", "cannot be audited"),
        (HEAD + "[training]\nsteps = 41\n", "E1004", "multiple of training.segment"),
        (HEAD + '[merge]\nrule = "median"\n', "E1004", "merge.rule"),
        (HEAD + "[verification]\nchecks = 9\n", "E1004", "verification.checks"),
        ('[task]\nname = "t"\nkind = "poetry"\n', "E1004", "task.kind"),
        (HEAD + '[economy]\nbond = "1"\n', "E1005", "cheating would pay"),
        (HEAD + "[economy]\nquorum = 6\n", "E1005", "quorum"),
        (HEAD + "[economy]\nfee_bps = 0\n", "E1005", "fee_bps"),
        (HEAD + '[economy]\nreward = "0"\n', "E1005", "reward must be above 0"),
        (HEAD + "[economy]\nlag = 5\n", "E1005", "lag"),
        (HEAD + "[economy.windows]\ntrain = 0\n", "E1005", "window"),
        (HEAD + '[economy]\nreward = "0.0000000000000000001"\n', "E1004", "18 decimals"),
    ],
)
def test_bad_task_files_get_a_stable_error_id(text: str, code: str, words: str) -> None:
    with pytest.raises(CommonweightError) as caught:
        parse_task(text)
    assert caught.value.code == code
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_key_gets_a_suggestion() -> None:
    with pytest.raises(CommonweightError, match="did you mean `steps`"):
        parse_task(HEAD + "[training]\nstepps = 4\n")


def test_spec_round_trip_and_name() -> None:
    one = spec()
    assert Spec.decode(one.encode()) == one
    assert spec(name="u").root != one.root


@given(st.binary(max_size=300))
def test_spec_decoder_is_total(data: bytes) -> None:
    with pytest.raises((EncodingError, CommonweightError)):
        Spec.decode(data)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"validation_length": 1000},
        {"training": TrainingSpec(segment=20)},
        {"model": ModelSpec(heads=0)},
    ],
)
def test_specs_nobody_could_train_are_refused_on_receipt(change: dict[str, object]) -> None:
    with pytest.raises(CommonweightError):
        Spec.decode(spec(**change).encode())
