"""Seeded sampling: one definition by the book, equal in numpy and torch, replayed; every other choice caught."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.core.errors import CommonweightError
from commonweight.core.hashing import tagged
from commonweight.toploc import noise, sampling
from commonweight.toploc.sampling import Sampling, choose, replay, sample

VECTORS = Path(__file__).parent.parent / "vectors" / "toploc-sampling.json"
M = 2**64 - 1


def book_mix(x: int) -> int:
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & M
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & M
    return x ^ x >> 31


def book_bits(key: int, position: int, token: int) -> int:
    golden = 0x9E3779B97F4A7C15
    return book_mix(book_mix(key + (position + 1) * golden & M) + (token + 1) * golden & M) >> 12


def book_gumbel(key: int, position: int, token: int) -> float:
    v = (book_bits(key, position, token) + 0.5) * 2.0**-52
    return -math.log(-math.log(1.0 - v))


def book_choice(logits: list[float], key: int, position: int, rule: Sampling) -> int:
    """The definition in `sampling`, token by token."""
    order = sorted(range(len(logits)), key=lambda t: (-logits[t], t))
    if rule.temperature == 0:
        return order[0]
    weight = [math.exp((logits[t] - logits[order[0]]) / rule.temperature) for t in range(len(logits))]
    nucleus, mass = [], 0.0
    for t in order:
        if rule.top_p < 1 and mass >= rule.top_p * sum(weight):
            break
        nucleus.append(t)
        mass += weight[t]
    return max(sorted(nucleus), key=lambda t: logits[t] / rule.temperature + book_gumbel(key, position, t))


def logits_of(rows: int, vocab: int, scale: float, seed: int) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((rows, vocab))).astype(np.float32)


def keys_of(rows: int, seed: int = 0) -> noise.Keys:
    return noise.sequence_keys([tagged("test", bytes([seed]), i.to_bytes(4, "big")) for i in range(rows)])


def test_first_outputs_are_those_of_splitmix64() -> None:
    """With the row key as the generator's state the tokens get its successive outputs (seed 1234567: known values)."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    got = noise.bits(np.array([1234567], dtype=np.uint64), np.arange(3))
    assert [int(b) for b in got] == [k >> 12 for k in known]


@settings(max_examples=40)
@given(st.integers(0, M), st.integers(0, 2**20), st.integers(0, 2**18))
def test_noise_is_by_the_book(key: int, position: int, token: int) -> None:
    rows = noise.row_keys(np.uint64(key), np.array([position]))
    assert int(noise.bits(rows, np.array([token]))[0]) == book_bits(key, position, token)
    assert noise.gumbel(rows, np.array([token]))[0] == pytest.approx(
        book_gumbel(key, position, token), abs=1e-12
    )


def test_noise_has_the_gumbel_distribution() -> None:
    g = noise.gumbel(noise.row_keys(np.uint64(7), np.arange(64))[:, None], np.arange(4096))
    assert g.mean() == pytest.approx(0.5772, abs=0.01)
    assert g.std() == pytest.approx(math.pi / math.sqrt(6), abs=0.01)
    assert abs(np.corrcoef(g[:-1].ravel(), g[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(g[:, :-1].ravel(), g[:, 1:].ravel())[0, 1]) < 0.01


def test_torch_noise_is_the_same() -> None:
    rows = noise.row_keys(keys_of(5), np.arange(5))
    ours = noise.gumbel(rows[:, None], np.arange(300))
    theirs = noise.gumbel_tensor(rows, 300, torch.device("cpu")).numpy()
    assert np.abs(ours - theirs).max() < 1e-12


RULES = [
    Sampling(),
    Sampling(0.7),
    Sampling(1.3, 0.9),
    Sampling(1.0, 0.3),
    Sampling(0.0),
    Sampling(100, 1e-6),
]


@settings(max_examples=60)
@given(
    st.integers(1, 9),
    st.sampled_from([1, 2, 29, 300]),
    st.sampled_from([0.0, 1.0, 30.0]),
    st.sampled_from(RULES),
    st.integers(0, 99),
)
def test_choice_is_by_the_book(rows: int, vocab: int, scale: float, rule: Sampling, seed: int) -> None:
    logits = logits_of(rows, vocab, scale, seed)
    keys, positions = keys_of(rows, seed), np.arange(rows) * 3
    wanted = [
        book_choice([float(x) for x in row], int(k), int(p), rule)
        for row, k, p in zip(logits, keys, positions, strict=True)
    ]
    assert sample(logits, keys, positions, rule).tolist() == wanted
    assert sample(torch.from_numpy(logits), keys, positions, rule).tolist() == wanted
    on_device = sampling._sample_on_device(torch.from_numpy(logits), noise.row_keys(keys, positions), rule)
    assert on_device.tolist() == wanted


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits = logits_of(70, 1500, 2.0, 1)
    keys, positions = keys_of(70), np.arange(70)
    together = sample(logits, keys, positions, Sampling())
    alone = [
        sample(logits[i : i + 1], keys[i : i + 1], positions[i : i + 1], Sampling())[0] for i in range(70)
    ]
    assert together.tolist() == alone


def test_frequencies_are_the_probabilities() -> None:
    row = np.log(np.array([0.5, 0.25, 0.125, 0.125], dtype=np.float32))
    count = 20_000
    keys = np.full(count, noise.sequence_key(b"frequencies"))
    tokens = sample(np.tile(row, (count, 1)), keys, np.arange(count), Sampling())
    share = np.bincount(tokens, minlength=4) / count
    assert np.abs(share - [0.5, 0.25, 0.125, 0.125]).max() < 0.015


def test_golden_vectors() -> None:
    """Noise bits and tokens, so that another implementation can be held to ours."""
    for case in json.loads(VECTORS.read_text()):
        key = noise.sequence_key(bytes.fromhex(case["seed"]))
        rows = noise.row_keys(np.uint64(key), np.array(case["positions"]))
        assert [int(b) for b in noise.bits(rows, np.array(case["tokens"]))] == case["bits"]
        logits = (np.arange(case["rows"] * case["vocab"]) * 2_654_435_761 % 1009 / 128).astype(np.float32)
        rule = Sampling(case["temperature"], case["top_p"])
        keys = np.full(case["rows"], key)
        got = sample(logits.reshape(case["rows"], -1), keys, np.arange(case["rows"]), rule)
        assert got.tolist() == case["sampled"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("rule", [Sampling(), Sampling(0.0), Sampling(1.0, 0.9)])
def test_logits_that_are_not_finite_are_refused(bad: float, rule: Sampling) -> None:
    logits = logits_of(3, 29, 1.0, 0)
    logits[1, 4] = bad
    with pytest.raises(CommonweightError) as caught:
        sample(logits, keys_of(3), np.zeros(3, dtype=np.int64), rule)
    assert caught.value.code == "E1604"


def test_forbidden_tokens_are_never_chosen() -> None:
    logits = np.full((200, 29), -np.inf, dtype=np.float32)
    logits[:, [3, 17]] = 0
    tokens = sample(logits, keys_of(200), np.zeros(200, dtype=np.int64), Sampling())
    assert set(tokens.tolist()) == {3, 17}
    with pytest.raises(CommonweightError):
        sample(
            np.full((1, 29), -np.inf, dtype=np.float32), keys_of(1), np.zeros(1, dtype=np.int64), Sampling()
        )


@pytest.mark.parametrize("values", [(-1.0, 1.0), (1e-9, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, 1.1)])
def test_impossible_rules_are_refused(values: tuple[float, float]) -> None:
    with pytest.raises(CommonweightError) as caught:
        Sampling(*values)
    assert caught.value.code == "E1004"


# -- replay ----------------------------------------------------------------------------------------------------

KEY = noise.sequence_key(b"replay")
LENGTH, VOCAB = 128, 128


def drawn(logits: np.ndarray, rule: Sampling, key: int = KEY) -> np.ndarray:
    return sample(logits, np.full(len(logits), key, dtype=np.uint64), np.arange(len(logits)), rule)


@pytest.mark.parametrize("rule", [*RULES, Sampling(1.0, 0.95)])
def test_honest_tokens_replay_without_a_mismatch(rule: Sampling) -> None:
    """Also when the verifier's logits differ as much as a prefill differs from decoding."""
    rng = np.random.default_rng(3)
    for seed in range(20):
        logits = logits_of(LENGTH, VOCAB, 3.0, seed)
        tokens = drawn(logits, rule)
        assert replay(logits, tokens, KEY, rule).worst == 0
        noisy = logits + (1e-5 * rng.standard_normal(logits.shape)).astype(np.float32)
        assert replay(noisy, tokens, KEY, rule).honest


def test_margins_of_noisy_logits_stay_within_twice_the_noise() -> None:
    logits = logits_of(2000, 64, 2.0, 5)
    rule = Sampling(0.5)
    off = np.random.default_rng(6).uniform(-0.01, 0.01, logits.shape).astype(np.float32)
    found = replay(logits + off, drawn(logits, rule), KEY, rule)
    assert 0 < found.worst <= 2 * 0.01 / 0.5 + 1e-6


def test_cheats_are_caught_per_sequence() -> None:
    rule = Sampling(1.0, 0.95)
    smaller = 0
    for seed in range(30):
        logits = logits_of(LENGTH, VOCAB, 2.5, seed)
        noisy = logits + logits_of(LENGTH, VOCAB, 0.5, seed + 1000)
        honest = drawn(logits, rule)
        edited = honest.copy()
        edited[seed] = (edited[seed] + 1) % VOCAB
        cheats = {
            "smaller model": drawn(noisy, rule),
            "wrong seed": drawn(logits, rule, KEY + 1),
            "shifted positions": np.roll(drawn(np.roll(logits, 1, axis=0), rule), -1),
            "temperature": drawn(logits, Sampling(0.8, 0.95)),
            "no nucleus": drawn(logits, Sampling(1.0, 1.0)),
            "small nucleus": drawn(logits, Sampling(1.0, 0.8)),
            "greedy": drawn(logits, Sampling(0.0)),
            "one edited token": edited,
        }
        passed = [name for name, tokens in cheats.items() if replay(logits, tokens, KEY, rule).honest]
        assert passed == []
        assert replay(logits, edited, KEY, rule).first == seed
        smaller += replay(logits, cheats["smaller model"], KEY, rule).mismatches
    assert smaller > 30 * LENGTH * 0.1


def test_tokens_outside_the_vocabulary_are_mismatches() -> None:
    logits = logits_of(4, VOCAB, 1.0, 0)
    tokens = drawn(logits, Sampling())
    tokens[1], tokens[3] = VOCAB, -1
    found = replay(logits, tokens, KEY, Sampling())
    assert (found.mismatches, found.first, found.worst) == (2, 1, sampling.MAX_MARGIN)


def test_positions_can_start_later() -> None:
    logits = logits_of(20, VOCAB, 1.0, 0)
    tokens = drawn(logits, Sampling())
    assert replay(logits[12:], tokens[12:], KEY, Sampling(), first_position=12).worst == 0
    assert not replay(logits[12:], tokens[12:], KEY, Sampling()).honest


def test_an_empty_sequence_has_nothing_to_replay() -> None:
    assert replay(np.zeros((0, 8), dtype=np.float32), np.zeros(0, dtype=np.int64), KEY, Sampling()).honest


def test_scores_grow_with_the_vocabulary() -> None:
    """`choose` also tells the winning score: about log-sum-exp plus Gumbel noise."""
    logits = np.zeros((500, 32_000), dtype=np.float32)
    _, scores = choose(logits, noise.row_keys(np.uint64(KEY), np.arange(500)), Sampling())
    assert scores.mean() == pytest.approx(math.log(32_000) + 0.577, abs=0.15)


@pytest.mark.parametrize(
    ("tokens", "ended"),
    [
        ([5, 6, 0], True),
        ([5, 0, 6], False),
        ([0, 0], False),
        ([5, 6, 7, 8], True),
        ([5, 6, 7], False),
        ([5] * 5, False),
    ],
)
def test_termination(tokens: list[int], ended: bool) -> None:
    assert sampling.ended_properly(np.array(tokens), stop=0, limit=4) is ended
