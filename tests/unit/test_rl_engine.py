"""The rollout engine: the cache changes nothing, lengths and lanes change nothing, noise decides, proofs fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from commonweight import models, toploc
from commonweight.core.errors import CommonweightError
from commonweight.core.spec import DecoderSpec, ModelSpec
from commonweight.models.architecture import Architecture, parameter_count
from commonweight.models.decoder import Llama
from commonweight.rl.engine import Completion, Proving, Request, RolloutEngine, Sampling
from commonweight.toploc import sampling as seeded

MODEL = ModelSpec(vocab=32, dim=32, layers=2, heads=4, hidden=48, context=64)
PLAIN = Architecture.of(MODEL, DecoderSpec())
QWEN2 = Architecture.of(MODEL, DecoderSpec(kv_heads=2, qkv_bias=True, rope_base=1e6))
QWEN3 = Architecture.of(MODEL, DecoderSpec(kv_heads=1, head_dim=16, qk_norm=True, tied=False))
STOP = 10


def policy(arch: Architecture = PLAIN, seed: int = 1) -> Llama:
    generator = torch.Generator().manual_seed(seed)
    return Llama(arch, torch.randn(parameter_count(arch), generator=generator) * 0.3)


def prompts(count: int, longest: int = 9) -> list[Request]:
    return [
        Request(tuple((7 * i + j) % 30 + (2 if j else 1) for j in range(1 + i % longest)), key=1000 + i)
        for i in range(count)
    ]


def engine(
    slots: int = 256, max_new: int = 20, temperature: float = 1.0, arch: Architecture = PLAIN
) -> RolloutEngine:
    made = RolloutEngine(Sampling(STOP, max_new, temperature), slots, Proving(16, 8))
    made.load(0, policy(arch))
    return made


def one_by_one(requests: list[Request], max_new: int, arch: Architecture) -> list[list[int]]:
    """What the full pass without a cache samples: the definition."""
    model, out = policy(arch), []
    for request in requests:
        tokens: list[int] = []
        while len(tokens) < (request.max_new or max_new) and (not tokens or tokens[-1] != STOP):
            hidden = model.hidden_states(torch.tensor([[*request.prompt, *tokens]]))
            key, at = np.array([request.key], dtype=np.uint64), np.array([request.position + len(tokens)])
            tokens.append(int(seeded.sample(model.logits(hidden[:, -1]), key, at, seeded.Sampling())[0]))
        out.append(tokens)
    return out


@pytest.mark.parametrize("arch", [PLAIN, QWEN2, QWEN3], ids=["builtin", "qwen2", "qwen3"])
def test_cache_lanes_and_dropping_of_rows_change_no_token(arch: Architecture) -> None:
    requests = prompts(23)
    requests[3] = Request(requests[3].prompt, 5, position=7, max_new=3)
    wanted = one_by_one(requests, 20, arch)
    for slots in (4, 256):
        made = engine(slots, arch=arch).generate(requests)
        assert [c.tokens.tolist() for c in made] == wanted
        assert all(c.stopped == (c.tokens[-1] == STOP) for c in made)
    assert len({len(tokens) for tokens in wanted}) > 3


def test_samples_of_one_prompt_share_its_reading_and_differ_by_their_noise() -> None:
    requests = [Request((3, 4, 5), key) for key in (1, 2, 3, 1)]
    made = [c.tokens.tolist() for c in engine().generate(requests)]
    assert made[0] == made[3]
    assert made[0] != made[1] != made[2]


def test_log_probabilities_are_those_of_the_full_pass() -> None:
    model = policy()
    for request, made in zip(prompts(9), engine(temperature=0.7).generate(prompts(9)), strict=True):
        whole = torch.tensor([[*request.prompt, *made.tokens.tolist()]])
        logits = model.logits(model.hidden_states(whole))[0, len(request.prompt) - 1 : -1] / 0.7
        right = torch.log_softmax(logits, -1).gather(1, torch.tensor(made.tokens.astype(np.int64))[:, None])[
            :, 0
        ]
        assert np.abs(right.numpy() - made.logprobs).max() < 1e-4


def test_proofs_of_the_decode_fit_the_teacher_forced_pass() -> None:
    model, requests = policy(), prompts(12)
    for request, made in zip(requests, engine().generate(requests), strict=True):
        whole = torch.tensor([[*request.prompt, *made.tokens.tolist()]])
        hidden = model.hidden_states(whole)[0, len(request.prompt) - 1 : -1]
        count = -(-len(made.tokens) // 8)
        filled = torch.nn.functional.pad(hidden, (0, 0, 0, -len(made.tokens) % 8))
        stats = toploc.verify(filled, toploc.decode(made.proof, 16, count), 16, 8)
        assert (stats.exponent_mismatches, stats.sign_mismatches) == (0, 0)
        assert stats.mantissa_mean < 0.2


def drain(made: RolloutEngine) -> list[Completion]:
    done: list[Completion] = []
    while made.running or made.waiting:
        done += made.step()
    return done


def test_new_weights_arrive_without_stopping_what_is_under_way() -> None:
    made = engine(slots=8)
    made.submit(Request(r.prompt, r.key, tag=i) for i, r in enumerate(prompts(8)))
    early = [made.step() for _ in range(2)]
    assert made.running > 0
    made.load(1, policy(seed=2))
    made.submit(Request(r.prompt, r.key, tag=100 + i) for i, r in enumerate(prompts(8)))
    done = {c.tag: c for c in [c for part in early for c in part] + drain(made)}
    assert len(done) == 16
    alone = {0: engine(), 1: RolloutEngine(Sampling(STOP, 20), proving=Proving(16, 8))}
    alone[1].load(1, policy(seed=2))
    for version, first in ((0, 0), (1, 100)):
        for i, wanted in enumerate(alone[version].generate(prompts(8))):
            assert done[first + i].version == version
            assert done[first + i].tokens.tolist() == wanted.tokens.tolist()


def test_slots_bound_what_is_in_flight_and_are_filled_again() -> None:
    made = engine(slots=6)
    made.submit(prompts(40))
    seen = 0
    while made.waiting:
        made.step()
        seen = max(seen, made.running)
    assert 4 < seen <= 6


def test_versions_only_go_forward() -> None:
    made = engine()
    with pytest.raises(CommonweightError) as caught:
        made.load(0, policy())
    assert caught.value.code == "E1610"
    with pytest.raises(CommonweightError):
        RolloutEngine(Sampling(STOP, 4)).generate(prompts(1))


def test_greedy_takes_the_likeliest_token_whatever_the_key() -> None:
    made = engine(temperature=0.0).generate([Request((4, 5, 6), key) for key in (1, 2)])
    assert made[0].tokens.tolist() == made[1].tokens.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_the_general_decoder_is_the_builtin_one(seed: int) -> None:
    arch = Architecture.of(MODEL, DecoderSpec(norm_eps=1.0000001e-5))
    assert not arch.builtin
    assert PLAIN.builtin
    flat = policy(seed=seed).flat
    tokens = torch.arange(40).remainder(32).view(2, 20)
    ours = Llama(arch, flat).hidden_states(tokens)
    assert (ours - models.forward(MODEL, flat, tokens)[1]).abs().max() < 1e-4
