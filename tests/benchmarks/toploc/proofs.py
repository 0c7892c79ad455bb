"""Activation proofs against `toploc` 0.1.6: parity over many chunks, then the speed of building and verifying."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import toploc as peer
import torch

from commonweight import toploc as ours
from commonweight.toploc.topk import select

from .report import interleaved, judge, save

K, CHUNK, SEED = 128, 32, 20_260
HIDDENS = (96, 2048, 4096, 8192, 8192, 16384, 16384, 16384, 16384, 16384)


@contextmanager
def numba(mode: str) -> Iterator[None]:
    """Run with the compiled kernels ``on`` or ``off``."""
    before = os.environ.get("COMMONWEIGHT_NUMBA")
    os.environ["COMMONWEIGHT_NUMBA"] = mode
    try:
        yield
    finally:
        if before is None:
            del os.environ["COMMONWEIGHT_NUMBA"]
        else:
            os.environ["COMMONWEIGHT_NUMBA"] = before


def activations(tokens: int, dim: int, kind: int, seed: int) -> torch.Tensor:
    """bfloat16 ``(tokens, dim)``: Gaussian, heavy-tailed, or Gaussian with a few outlier channels."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn((tokens, dim), generator=generator)
    if kind == 1:
        out = out * torch.randn((tokens, dim), generator=generator).abs().pow(3)
    elif kind == 2:
        out[:, :: max(1, dim // 7)] *= 12
    return out.to(torch.bfloat16)


def tied(rows: np.ndarray) -> np.ndarray:
    """Rows whose k-th and (k+1)-th largest magnitudes are equal: where the order among equals decides."""
    magnitudes = np.sort(rows & 0x7FFF, axis=1)
    return magnitudes[:, -K] == magnitudes[:, -K - 1]


def parity() -> None:
    """Bytes of both, both ways of verifying, statistics on jittered activations."""
    total = equal = reduced = ties = crossed = stats_equal = stats = 0
    for i, dim in enumerate(HIDDENS * 4):
        kind = i // len(HIDDENS) % 3
        hidden = activations(40 * CHUNK, dim, kind, SEED + i)
        theirs = peer.build_proofs_bytes(hidden, CHUNK, K, True)
        with numba("on" if i % 2 else "off"):
            mine = ours.build_proofs_bytes(hidden, CHUNK, K, True)
        rows = hidden.view(torch.int16).numpy().view(np.uint16).reshape(-1, CHUNK * dim)
        total += len(theirs)
        equal += sum(a == b for a, b in zip(mine, theirs, strict=True))
        reduced += sum(proof[:2] != b"\xff\xd9" for proof in theirs)
        ties += int(tied(rows).sum())
        canonical = ours.encode(ours.build(hidden, K, CHUNK))
        pieces = [canonical[j : j + 258] for j in range(0, len(canonical), 258)]
        theirs_of_ours = peer.verify_proofs_bytes(hidden, pieces, CHUNK, K, True)
        ours_of_theirs = ours.verify(hidden, ours.decode(b"".join(theirs), K, len(theirs)), K, CHUNK)
        # At a tied boundary the two orders keep other members: those points were not interpolated, all others were.
        other = [
            K - len(np.intersect1d(a, b))
            for a, b in zip(select(rows, K), select(rows, K, "torch-cpu"), strict=True)
        ]
        crossed += sum(r.exp_mismatches <= n for r, n in zip(theirs_of_ours, other, strict=True))
        crossed += len(theirs) if ours_of_theirs.exponent_mismatches <= max(other) else 0
        jittered = hidden + (0.01 * hidden.abs() * torch.randn(hidden.shape)).to(torch.bfloat16)
        for a, b in zip(
            ours.verify_proofs_bytes(jittered, theirs, CHUNK, K, True),
            peer.verify_proofs_bytes(jittered, theirs, CHUNK, K, True),
            strict=True,
        ):
            stats += 1
            same = a.exp_mismatches == b.exp_mismatches and a.mant_err_median == b.mant_err_median
            stats_equal += same and abs(a.mant_err_mean - b.mant_err_mean) < 1e-5
    row = {
        "chunks": total,
        "byte_identical": equal,
        "reduced_modulus": reduced / total,
        "tied_boundary": ties / total,
        "verify_both_ways": crossed / (2 * total),
        "statistics_equal": stats_equal / stats,
        "seed": SEED,
    }
    save("parity", row)
    print(judge("parity: chunks", total, 1000))
    print(judge("parity: byte-identical share", equal / total, 1))
    print(judge("parity: share with a reduced modulus", reduced / total, 0.05))
    print(judge("parity: share with a tied boundary", ties / total, 0.5))
    print(judge("parity: share that verifies across, each way", crossed / (2 * total), 1))
    print(judge("parity: share with the package's statistics", stats_equal / stats, 1))


def _ours(hidden: torch.Tensor, mode: str, canonical: bool) -> Any:
    def run() -> Any:
        with numba(mode):
            if canonical:
                return ours.encode(ours.build(hidden, K, CHUNK))
            return ours.build_proofs_bytes(hidden, CHUNK, K, True)

    return run


def _checks(hidden: torch.Tensor, proofs: list[bytes], mode: str, canonical: bool) -> Any:
    raw = b"".join(proofs)

    def run() -> Any:
        with numba(mode):
            if canonical:
                return ours.verify(hidden, ours.decode(raw, K, len(proofs)), K, CHUNK)
            return ours.verify_proofs_bytes(hidden, proofs, CHUNK, K, True)

    return run


def speed(repeats: int = 11) -> None:
    """CPU time of the package and ours, taking turns in one process on one thread; microseconds per chunk."""
    targets = {"canonical numba": (12, 5), "canonical numpy": (5, 2.5), "identical numba": (5, 2)}
    modes = {
        "canonical numba": ("on", True),
        "canonical numpy": ("off", True),
        "identical numba": ("on", False),
    }
    build_rows, verify_rows = [], []
    for dim in (512, 2048, 4096):
        for tokens in (CHUNK, 1024, 8192):
            hidden = activations(tokens, dim, 0, SEED)
            chunks = tokens // CHUNK
            proofs = peer.build_proofs_bytes(hidden, CHUNK, K, True)
            inner = {1: 20, 32: 5}.get(chunks, 1)
            flat = hidden.view(torch.int16)
            build = [lambda: peer.build_proofs_bytes(hidden, CHUNK, K, True), lambda: flat.max()]  # noqa: B023
            build += [_ours(hidden, *modes[name]) for name in targets]
            check = [lambda: peer.verify_proofs_bytes(hidden, proofs, CHUNK, K, True)]  # noqa: B023
            check += [_checks(hidden, proofs, *modes[name]) for name in targets]
            b = [1e6 * t / chunks for t in interleaved(build, repeats, inner)]
            v = [1e6 * t / chunks for t in interleaved(check, repeats, inner)]
            where = {"hidden": dim, "tokens": tokens, "package_us": b[0], "read_us": b[1]}
            build_rows.append(where | _ratios(b[0], b[2:], targets))
            verify_rows.append(
                {"hidden": dim, "tokens": tokens, "package_us": v[0]} | _ratios(v[0], v[1:], targets)
            )
            print(f"build  hidden {dim} tokens {tokens}: package {b[0]:.0f} us, one read {b[1]:.1f} us")
            print(f"verify hidden {dim} tokens {tokens}: package {v[0]:.0f} us")
            for i, (name, (build_at_least, verify_at_least)) in enumerate(targets.items()):
                # A lone chunk has one target: building with numba.
                if tokens > CHUNK or name == "canonical numba":
                    wanted = 5 if tokens == CHUNK else build_at_least
                    print(
                        judge(
                            f"  build {name} ({b[2 + i]:.1f} us, {b[2 + i] / b[1]:.1f} reads)",
                            b[0] / b[2 + i],
                            wanted,
                        )
                    )
                if tokens > CHUNK:
                    print(judge(f"  verify {name} ({v[1 + i]:.1f} us)", v[0] / v[1 + i], verify_at_least))
    save("build_speed", build_rows)
    save("verify_speed", verify_rows)


def _ratios(package: float, mine: list[float], names: Any) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, micros in zip(names, mine, strict=True):
        key = name.replace(" ", "_")
        out |= {f"{key}_us": micros, f"{key}_ratio": package / micros}
    return out


def warm() -> None:
    """Compile, or load what was compiled before."""
    hidden = activations(4096, 512, 0, 1)
    with numba("on"):
        for canonical in (True, False):
            _checks(hidden, ours.build_proofs_bytes(hidden, CHUNK, K, True), "on", canonical)()
        select(np.zeros((1, 16384), dtype=np.uint16), K)
