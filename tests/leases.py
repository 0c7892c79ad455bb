"""A tiny task, its leases and its artifacts in memory: what the tests of training and checking share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from commonweight.core import fixed, seeds
from commonweight.core.errors import CommonweightError
from commonweight.core.fixed import ModelVersion
from commonweight.core.hashing import tagged
from commonweight.core.spec import (
    DataSpec,
    Economy,
    MergeSpec,
    ModelSpec,
    Spec,
    TaskFile,
    TrainingSpec,
    VerificationSpec,
)
from commonweight.core.verdict import Verdict
from commonweight.tasks import checking, data, pretrain
from commonweight.tasks.lease import Lease, Product

CHAIN, TASKS, BEACON, BLINDING = 31337, b"T" * 20, b"B" * 32, b"blinding".ljust(32, b"\x07")
ALICE, BOB = b"A" * 20, b"b" * 20


@dataclass(frozen=True, slots=True)
class Tiny:
    """Spec, text and initial version of a task that trains in milliseconds."""

    spec: Spec
    text: bytes
    base: ModelVersion

    def lease(
        self, round_: int = 0, slot: int = 0, trainer: bytes = ALICE, base: ModelVersion | None = None
    ) -> Lease:
        """A lease as the chain would give it."""
        root = (base or self.base).root
        seed = seeds.lease_seed(CHAIN, TASKS, 1, round_, slot, root, BEACON, trainer)
        return Lease(CHAIN, TASKS, 1, round_, slot, trainer, root, seed)

    def train(self, lease: Lease, base: ModelVersion | None = None) -> Product:
        """Honest work."""
        return pretrain.train(self.spec, self.text, base or self.base, lease, blinding=BLINDING)

    def check(
        self, lease: Lease, shelf: Shelf, segments: tuple[int, ...], base: ModelVersion | None = None
    ) -> Verdict:
        """A seat's verdict on the work that the shelf holds."""
        root = shelf.product.root
        return checking.check(self.spec, self.text, base or self.base, lease, root, segments, shelf.fetch)

    def judge(
        self, lease: Lease, shelf: Shelf, tree: int, leaf: int, base: ModelVersion | None = None
    ) -> Verdict:
        """A juror's verdict on one leaf."""
        root = shelf.product.root
        return checking.judge_leaf(
            self.spec, self.text, base or self.base, lease, root, tree, leaf, shelf.fetch
        )

    def next_version(self, *products: Product, base: ModelVersion | None = None) -> ModelVersion:
        """The version after merging these works into ``base``."""
        count = pretrain.parameters(self.spec)
        updates = [fixed.decode_update(p.artifacts[p.header.update_root], count) for p in products]
        return fixed.merge(base or self.base, updates, self.spec.merge)


@dataclass(slots=True)
class Shelf:
    """A work's artifacts as a validator can fetch them; tests take some away or put others in their place."""

    product: Product
    artifacts: dict[bytes, bytes]

    @staticmethod
    def of(product: Product) -> Shelf:
        return Shelf(product, dict(product.artifacts))

    def fetch(self, root: bytes, limit: int) -> bytes:
        """As `shardcast` fetches: E1502 when nobody serves it, E1103 when it is too long."""
        found = self.artifacts.get(root)
        if found is None:
            raise CommonweightError("E1502", f"nobody serves artifact {root.hex()}")
        if len(found) > limit:
            raise CommonweightError(
                "E1103", f"artifact {root.hex()} has {len(found)} bytes, at most {limit} expected"
            )
        return found


@lru_cache(maxsize=1)
def tiny() -> Tiny:
    """One layer, 16 wide, context 16; four segments of two steps."""
    return make(
        ModelSpec(dim=16, layers=1, heads=2, hidden=32, context=16),
        TrainingSpec(steps=8, segment=2, batch=4, lr=0.01),
        VerificationSpec(topk=64),
    )


def make(
    model: ModelSpec,
    training: TrainingSpec,
    verification: VerificationSpec,
    merge: MergeSpec = MergeSpec(),  # noqa: B008 - frozen
) -> Tiny:
    """A task over 40 kB of Python's help topics."""
    source = DataSpec(max_bytes=40_000)
    file = TaskFile("tiny", "pretrain", model, training, merge, verification, source, Economy())
    text = data.load(source, Path())
    base = pretrain.initial_version(model, file.merge)
    return Tiny(pretrain.build_spec(file, text, base), text, base)


def with_header(product: Product, **fields: object) -> Product:
    """The product under another header: a new work root over the same artifacts."""
    changed = replace(product.header, **fields)  # type: ignore[arg-type]
    return replace(product, header=changed, artifacts={**product.artifacts, changed.root: changed.encode()})


def digest(product: Product) -> str:
    """One word for everything in a product."""
    return tagged("product", *(k + v for k, v in sorted(product.artifacts.items()))).hex()
