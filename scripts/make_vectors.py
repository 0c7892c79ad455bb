"""Write the vectors that Python and Solidity must both reproduce: `tests/vectors/{tree,merge,economics}.json`.

Merge vectors are lanes of random merges by the reference model (numpy int64); economics vectors are random terms with
what `core.economics` says about them. Both come from a fixed seed. The content of a tree vector is sha256(0),
sha256(1), ... (8-byte big-endian counters) cut to `length` bytes.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np
from eth_abi.abi import encode

from commonweight.core import economics, merkle

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.reference import merge

SEED = 20_261_124
VECTORS = Path(__file__).resolve().parents[1] / "tests" / "vectors"

CASES = (
    (1, 0),
    (224, 0),
    (1024, 0),
    (1025, 1),
    (3000, 2),
    (5 * 1024, 4),
    (7 * 1024 + 1, 6),
    (9000, 3),
    (64 * 1024, 37),
)


def content(length: int) -> bytes:
    """The bytes of the vector of this length."""
    return b"".join(sha256(i.to_bytes(8, "big")).digest() for i in range(-(-length // 32)))[:length]


def vector(length: int, index: int) -> dict[str, object]:
    """One opening as JSON values."""
    opening = merkle.open_leaf(content(length), index)
    return {
        "length": length,
        "index": index,
        "root": merkle.root(content(length)).hex(),
        "leaf": opening.leaf.hex(),
        "proof": [p.hex() for p in opening.path],
    }


MERGE_TYPES = [
    "uint8",
    "uint8",
    "uint16",
    "uint16",
    "uint16",
    "uint16",
    "int256",
    "int256",
    "int256[]",
    "uint256",
]
TERMS_TYPES = ["uint256[17]", "uint256[7]", "uint256[3]", "string", "uint256[3]", "uint256", "uint256"]


def merge_vectors(count: int = 96) -> list[str]:
    """Single lanes of merges, extremes included: ABI encodings of `MERGE_TYPES` and the two results."""
    rng = random.Random(SEED)
    return [merge_vector(rng, (200, 2**15, 2**31 - 1)[k % 3]) for k in range(count)]


def merge_vector(rng: random.Random, span: int) -> str:
    """One lane; its updates lie within ``span``."""
    rule = merge.Rule(
        rng.choice((0, 8, 24)),
        rng.choice((0, 0, 10, 25, 49)),
        *(rng.choice(((7, 10), (1, 1), (65_535, 1), (0, 3)))),
        *(rng.choice(((9, 10), (0, 1), (1, 1), (65_534, 65_535)))),
    )
    n = rng.choice((1, 2, 3, 7, 16, 64))
    lanes = [rng.randint(-span - 1, span) for _ in range(n)]
    late = [rng.random() < 0.3 for _ in range(n)]
    w, m = (rng.choice((0, -(2**31), 2**31 - 1, rng.randint(-(2**31), 2**31 - 1))) for _ in range(2))
    updates = [np.array([x], dtype=np.int64) for x in lanes]
    start = (np.array([w], dtype=np.int64), np.array([m], dtype=np.int64))
    weights, momentum = merge.merge(*start, updates, late, rule)
    bits = sum(1 << i for i, is_late in enumerate(late) if is_late)
    values = [*asdict(rule).values(), w, m, lanes, bits, int(weights[0]), int(momentum[0])]
    return "0x" + encode([*MERGE_TYPES, "int256", "int256"], values).hex()


def economics_vectors(count: int = 240) -> list[str]:
    """Random terms, half of them broken in one place, and the first complaint about them."""
    rng = random.Random(SEED + 1)
    return [economics_vector(rng) for _ in range(count)]


def economics_vector(rng: random.Random) -> str:
    """One set of terms under one deployment: the ABI encoding of `TERMS_TYPES`."""
    host = economics.Host(
        seat_stake=rng.choice((1000, 160, 17)) * 10**18,
        exit_delay=rng.choice((604_800, 36_000, 35_999)),
        risk_min=rng.choice((1, 10**17, 10**19)),
    )
    values = asdict(economics.Terms()) | {
        "reward": rng.choice((1, 10**15, 10**19, 2 * 10**20)),
        "slots": rng.choice((1, 8, 256)),
        "rounds": rng.choice((1, 16, 65_535)),
        "want": rng.choice((1, 2, 5, 65_535)),
        "decoy_one_in": rng.choice((0, 0, 10, 16, 4096)),
    }
    values["bond"] = values["reward"] * rng.choice((1, 1, 3))
    values["agg_reward"] = values["reward"] // 4
    rules = asdict(economics.Rule())
    _break(rng, 0.5, values, ("quorum", "lag"), (0, 1, 2**16 - 1, 9, 257, 5001))
    _break(rng, 0.2, rules, ("shift", "trim"), (0, 25, 50, 255, 1023))
    terms, rule = economics.Terms(**values), economics.Rule(**rules)
    wrong = economics.complaints(terms, rule, host)
    first = wrong[0] if wrong else economics.Complaint("", 0, 0, 0)
    encoded = encode(
        TERMS_TYPES,
        [
            list(values.values()),
            list(rules.values()),
            list(asdict(host).values()),
            first.what,
            [first.value, first.least, first.most],
            economics.budget(terms),
            economics.risk(terms, host.risk_min) if terms.want else 0,
        ],
    )
    return "0x" + encoded.hex()


def _break(
    rng: random.Random, chance: float, values: dict[str, int], bytes_: tuple[str, ...], odd: tuple[int, ...]
) -> None:
    """Now and then, give one of ``values`` an odd number; those in ``bytes_`` have one byte."""
    if rng.random() < chance:
        key = rng.choice(sorted(values))
        values[key] = rng.choice(odd) % (256 if key in bytes_ else 2**256)


def write(name: str, vectors: list[dict[str, object]] | list[str]) -> None:
    """Write one file of vectors."""
    (VECTORS / f"{name}.json").write_text(json.dumps(vectors, indent=1) + "\n")
    print(f"wrote {len(vectors)} vectors to {name}.json")


if __name__ == "__main__":
    write("tree", [vector(*case) for case in CASES])
    write("merge", merge_vectors())
    write("economics", economics_vectors())
