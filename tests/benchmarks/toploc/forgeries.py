"""Forged proofs and honest replays by the thousand, at thresholds calibrated on other text; and sampling cheats."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from commonweight.core.spec import DataSpec, ModelSpec, TrainingSpec, VerificationSpec
from commonweight.models import forward, initial_parameters, pin
from commonweight.tasks import data
from commonweight.tasks.calibration import proofs, steps
from commonweight.tasks.calibration.proofs import Scene
from commonweight.tasks.calibration.runs import Setting
from commonweight.toploc import noise, sampling
from commonweight.toploc.sampling import Sampling

from .report import judge, save

MODEL = ModelSpec(dim=64, layers=2, heads=4, hidden=172, context=128)
FORGED = int(os.environ.get("FORGED", "100000"))
REPLAYS = int(os.environ.get("REPLAYS", "30000"))
BATCH = 64
Run = Callable[[Scene], torch.Tensor]
ISAS = ("avx2", "default")


def _weights(text: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    """A model after 120 steps, and one step before."""
    setting = Setting(MODEL, TrainingSpec(batch=16))
    (segment,) = steps.segments(setting, initial_parameters(MODEL).numpy(), text, 1, (120,))
    return segment.state.theta, segment.before.theta


def _tokens(text: bytes, name: str, count: int) -> torch.Tensor:
    batches = steps.make_batches(Setting(MODEL, TrainingSpec(batch=count)), text, name, 1)
    return torch.from_numpy(batches[0].tokens[:, :-1].astype(np.int64))


def forgeries() -> None:
    """0 of FORGED forged sequences may pass, 0 of REPLAYS honest ones may fail."""
    pin()
    os.environ["COMMONWEIGHT_NUMBA"] = "on"
    text = data.load(DataSpec(source="stdlib", max_bytes=2_000_000), Path())
    theta, older = _weights(text)
    seen = _tokens(text, "seen", 256)

    def scene(name: str) -> Scene:
        return proofs.make_scene(MODEL, "f32", theta, older, _tokens(text, name, BATCH), seen)

    honest = []
    scenes = [scene(f"calibrate {i}") for i in range(4)]
    for run in [*proofs.HONEST.values(), *ISAS]:
        for s, states in zip(scenes, _states(run, scenes), strict=True):
            honest += [x for x in proofs.stats_of(s, states) if x is not None]
    v = proofs.thresholds(honest, VerificationSpec())
    start = time.process_time()
    passed, tried, least = _forge(scene, v)
    rejected, replays, worst = _replay(scene, v)
    row = {
        "forged": sum(tried.values()),
        "forged_accepted": sum(passed.values()),
        "by_forger": {
            n: {"tried": tried[n], "accepted": passed[n], "least_score": least.get(n)} for n in tried
        },
        "honest": replays,
        "honest_rejected": rejected,
        "honest_worst_score": worst,
        "max_proof_score": v.max_proof_score,
        "cpu_s": time.process_time() - start,
    }
    save("forgeries", row)
    print(judge("forged sequences", sum(tried.values()), FORGED))
    print(judge("forged sequences accepted", sum(passed.values()), 0, at_least=False))
    for name in tried:
        score = least.get(name, float("nan"))
        print(f"       {name:18} least score {score:.3g}, accepted {passed[name]} of {tried[name]}")
    print(judge("honest replays", replays, REPLAYS))
    print(judge("honest replays rejected", rejected, 0, at_least=False), f"; worst score {worst:.3g}")


def _forge(scene, v):  # type: ignore[no-untyped-def]
    passed: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    least: dict[str, float] = {}
    batch = 0
    while sum(tried.values()) < FORGED:
        s = scene(f"forge {batch}")
        batch += 1
        for name, forge in proofs.FORGERS.items():
            found = proofs.stats_of(s, forge(s))
            tried[name] += len(found)
            passed[name] += sum(proofs.accepted(x, v) for x in found)
            for x in found:
                if x is not None:
                    least[name] = min(x.score, least.get(name, x.score))
    return passed, tried, least


def _replay(scene, v):  # type: ignore[no-untyped-def]
    """Honest provers on other kernels, batch sizes, thread counts, and instruction sets (in child processes)."""
    ways = len(proofs.HONEST) + len(ISAS)
    batches = -(-REPLAYS // (ways * BATCH))
    scenes = [scene(f"replay {i}") for i in range(batches)]
    rejected = count = 0
    worst = 0.0
    for run in [*proofs.HONEST.values(), *ISAS]:
        for s, states in zip(scenes, _states(run, scenes), strict=True):
            for x in proofs.stats_of(s, states):
                count += 1
                rejected += not proofs.accepted(x, v)
                worst = max(worst, x.score if x is not None else float("inf"))
    return rejected, count, worst


def _states(run: Run | str, scenes: list[Scene]) -> list[torch.Tensor]:
    """Hidden states of all scenes, computed in one honest way: of this process, or with another instruction set."""
    return _elsewhere(run, scenes) if isinstance(run, str) else [run(s) for s in scenes]


def _elsewhere(isa: str, scenes: list[Scene]) -> list[torch.Tensor]:
    """Hidden states of all scenes from a child process that uses another instruction set."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        np.savez(
            path / "in.npz",
            theta=scenes[0].theta.numpy(),
            tokens=np.stack([s.tokens.numpy() for s in scenes]),
        )
        code = "from tests.benchmarks.toploc.forgeries import child; child()"
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": isa, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", code, folder], check=True, env=environment)
        return [torch.from_numpy(x) for x in np.load(path / "out.npy")]


def child() -> None:
    """Other end of `_elsewhere`."""
    pin()
    folder = Path(sys.argv[1])
    given = np.load(folder / "in.npz")
    theta = torch.from_numpy(given["theta"])
    out = [proofs.observe(MODEL, theta, torch.from_numpy(t), "f32").numpy() for t in given["tokens"]]
    np.save(folder / "out.npy", np.stack(out))


# -- sampling ----------------------------------------------------------------------------------------------------


def sample_check() -> None:
    """Sequences sampled honestly and by cheats, judged one by one from the verifier's own teacher-forced pass."""
    pin()
    text = data.load(DataSpec(source="stdlib", max_bytes=1_000_000), Path())
    theta, _ = _weights(text)
    small = initial_parameters(MODEL)
    rule = Sampling(1.0, 0.95)
    count, length = 24, 96
    prompts = _tokens(text, "prompts", count)[:, :32]
    keys = noise.sequence_keys([f"sequence {i}".encode() for i in range(count)])

    def generate(weights: torch.Tensor, keys: noise.Keys, rule: Sampling) -> torch.Tensor:
        tokens = prompts
        for position in range(length):
            with torch.no_grad():
                logits = forward(MODEL, weights, tokens)[0][:, -1]
            chosen = sampling.sample(logits, keys, np.full(count, position), rule)
            tokens = torch.cat((tokens, torch.from_numpy(chosen)[:, None]), dim=1)
        return tokens

    edited = generate(theta, keys, rule)
    honest = edited.clone()
    for i in range(count):
        edited[i, 32 + i] = (edited[i, 32 + i] + 1) % MODEL.vocab
    cheats = {
        "honest": honest,
        "smaller model": generate(small, keys, rule),
        "wrong seed": generate(theta, keys + np.uint64(1), rule),
        "temperature 0.8": generate(theta, keys, Sampling(0.8, 0.95)),
        "top-p 1.0": generate(theta, keys, Sampling(1.0, 1.0)),
        "top-p 0.8": generate(theta, keys, Sampling(1.0, 0.8)),
        "one edited token": edited,
    }
    out = {}
    for name, tokens in cheats.items():
        with torch.no_grad():
            logits = forward(MODEL, theta, tokens[:, :-1])[0][:, 31:]
        found = [
            sampling.replay(row, own[32:].numpy(), int(key), rule)
            for row, own, key in zip(logits, tokens, keys, strict=True)
        ]
        caught = sum(not r.honest for r in found)
        least = min(r.mismatches for r in found)
        worst = max(r.worst for r in found)
        out[name] = {"sequences": count, "caught": caught, "least_mismatches": least, "worst_margin": worst}
        if name == "honest":
            print(
                judge("sampling: honest sequences with a mismatch", caught, 0, at_least=False),
                f"; worst margin {worst:.2g}",
            )
        else:
            print(
                judge(f"sampling: {name}, caught of {count}", caught, count), f"; at least {least} mismatches"
            )
    save("sampling", out)
