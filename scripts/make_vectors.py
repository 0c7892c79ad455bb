"""Write `tests/vectors/tree.json`: the Merkle vectors that Python and Solidity must both reproduce.

The content of a vector is sha256(0), sha256(1), ... (8-byte big-endian counters) cut to `length` bytes.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from commonweight.core import merkle

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


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "tests" / "vectors" / "tree.json"
    target.write_text(json.dumps([vector(*case) for case in CASES], indent=1) + "\n")
    print(f"wrote {len(CASES)} vectors to {target.name}")
