"""The frozen definition of a task: what a person writes as TOML, checked strictly, canonicalised and named by its root.

`TaskFile` is the parsed TOML. Publishing turns it into a `Spec` (roots filled in, numeric profile pinned), whose
canonical bytes are an artifact; the chain knows its root. The economy goes to the chain as numbers of its own.
"""

from __future__ import annotations

import tomllib
import types
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from decimal import Decimal, DecimalException
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from . import codec, economics, merkle
from .codec import B32, U8, U16, U32, U64
from .errors import CommonweightError

T = TypeVar("T")
TOKEN = 10**18
KINDS = ("pretrain", "grpo")
MERGE_RULES = ("mean", "trimmed")
TOPOLOGIES = ("complete", "ring", "expander", "small-world", "exponential", "hypercube")
UPDATE_CODECS = ("none", "int8", "int4", "2bit", "topk8", "topk")
"""Wire codecs of updates, by their names in `collectives.codecs`."""
MAX_TRAJECTORIES = 65_536


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The built-in Llama-shaped decoder: RMSNorm, rotary positions, SwiGLU, tied embedding."""

    vocab: U32 = 256
    dim: U32 = 96
    layers: U16 = 3
    heads: U16 = 4
    hidden: U32 = 256
    context: U32 = 128
    seed: U64 = 7


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """Inner AdamW steps of one lease; ``segment`` steps are committed and audited together (c <= 10)."""

    steps: U32 = 40
    segment: U16 = 10
    batch: U16 = 8
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0

    @property
    def segments(self) -> int:
        """Number of committed segments of a work."""
        return self.steps // self.segment if self.segment else 0


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """The integer outer step: weights are ``lane * 2**-weight_bits``, update lanes are shifted by ``update_shift``.

    With the rule ``trimmed`` the ``trim`` percent lowest and highest values of each lane are left out. Updates are
    quantised by ``codec``, and what that drops is carried into the trainer's next work.
    """

    rule: str = "mean"
    weight_bits: U8 = 24
    update_shift: U8 = 8
    lr_num: U16 = 7
    lr_den: U16 = 10
    momentum_num: U16 = 9
    momentum_den: U16 = 10
    trim: U8 = 0
    codec: str = "none"


@dataclass(frozen=True, slots=True)
class VerificationSpec:
    """What a seat checks of a work: ``checks`` segments, and the thresholds of its proofs, steps and tokens.

    Of activation proofs: the worst values that any chunk may show, and the score of a whole sequence. Inside the pinned
    profile honest ones are all zero; for the default model weights one optimiser step old show 63, 4.6 and 20, weights
    rounded to bfloat16 5, 0.44 and 2. Steps are computed in ``arithmetic`` (f32 or bf16). With a ``tolerance`` of 0
    only machines of the pinned ``profile`` take part and replays must be equal bit for bit; above 0 others may, and
    between profiles a segment may be that far from its replay. `commonweight calibrate` measures what a task needs.
    """

    checks: U16 = 1
    topk: U16 = 128
    chunk: U16 = 32
    max_exponent_mismatches: U16 = 4
    max_mantissa_mean: float = 0.1
    max_sign_mismatches: U16 = 2
    max_proof_score: float = 0.05
    arithmetic: str = "f32"
    tolerance: float = 0.0
    profile: str = "auto"


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """How a model differs from the built-in decoder; zeros mean as many as there are query heads, and dim / heads.

    Rotary frequencies are divided by ``rope_factor``; with ``rope_low`` and ``rope_high`` above 0 only those of waves
    that are long beside ``rope_original`` positions (Llama 3). A token attends to the ``window`` tokens up to itself,
    to all with 0. A model of another family is the ``library``'s: canonical JSON of its configuration, which the
    transformers library computes, and its number of ``parameters``.
    """

    kv_heads: U16 = 0
    head_dim: U16 = 0
    norm_eps: float = 1e-5
    rope_base: float = 10_000.0
    qkv_bias: bool = False
    qk_norm: bool = False
    tied: bool = True
    rope_factor: float = 1.0
    rope_low: float = 0.0
    rope_high: float = 0.0
    rope_original: U32 = 0
    window: U32 = 0
    library: str = ""
    parameters: U32 = 0


@dataclass(frozen=True, slots=True)
class RlSpec:
    """Reinforcement learning of one lease: every segment learns from rollouts of the policy ``lag`` segments before.

    A segment consumes ``training.segment * training.batch`` trajectories, ``group`` per prompt. It plays ``oversample``
    times as many and learns from the first groups whose mean reward lies within ``min_solved..max_solved``. The last
    ``rollout_slots`` leases of a round deliver trajectories only; later leases learn from those that were accepted, if
    the policy that played them is at most ``rollout_age`` rounds old. ``clip_low``, ``clip_high`` and ``ratio_cap``
    bound importance ratios; tokens whose probability moved by more than ``mask`` since they were sampled teach nothing.
    ``max_margin`` and ``max_logprob_error`` (nats) are how far a sampled token may lie behind the replayed choice, and
    a claimed log-probability from the replayed one. A seat that draws rollouts replays ``block`` trajectories of a
    segment.
    """

    group: U16 = 16
    max_new: U16 = 12
    lag: U8 = 1
    temperature: float = 1.0
    algorithm: str = "dr_grpo"
    loss: str = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    ratio_cap: float = 4.0
    mask: float = 0.9
    lora_rank: U16 = 0
    block: U16 = 64
    max_margin: float = 1e-3
    max_logprob_error: float = 1e-3
    oversample: U8 = 1
    min_solved: float = 0.0
    max_solved: float = 1.0
    rollout_slots: U16 = 0
    rollout_age: U8 = 2


@dataclass(frozen=True, slots=True)
class ExchangeSpec:
    """Who merges with whom, and how many machines may share one lease.

    With ``complete`` all trainers of a round start from one model version. With any other ``topology`` each trainer
    goes on from a replica of its own, mixed after every round with the committed states of its neighbours in a graph
    of that ``degree``. A lease's segments may be shared out among the machines of a ``cell``, at most that many; the
    update is then the mean of theirs.
    """

    topology: str = "complete"
    degree: U16 = 4
    cell: U16 = 8

    @property
    def sparse(self) -> bool:
        """Whether trainers keep replicas of their own."""
        return self.topology != "complete"


@dataclass(frozen=True, slots=True)
class Spec:
    """The canonical spec; ``root`` names it on the chain."""

    name: str
    kind: str
    model: ModelSpec
    training: TrainingSpec
    merge: MergeSpec
    verification: VerificationSpec
    data_root: B32
    data_length: U64
    validation_length: U64
    initial_model: B32
    decoder: DecoderSpec = DecoderSpec()
    rl: RlSpec = RlSpec()
    exchange: ExchangeSpec = ExchangeSpec()

    def encode(self) -> bytes:
        """Canonical bytes."""
        return codec.encode(self)

    @property
    def root(self) -> bytes:
        """Merkle root of the canonical bytes: the spec's name."""
        return merkle.root(self.encode())

    @staticmethod
    def decode(data: bytes) -> Spec:
        """Strictly decode and check a spec received as an artifact."""
        spec = codec.decode(Spec, data)
        check_training(spec.kind, spec.model, spec.training, spec.merge, spec.verification)
        check_rl(spec.kind, spec.model, spec.decoder, spec.training, spec.rl, spec.verification)
        check_exchange(spec.kind, spec.merge, spec.exchange)
        if spec.kind == "pretrain" and not 0 < spec.validation_length < spec.data_length:
            raise _bad("validation_length", "must lie inside the data")
        return spec


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Where the publisher takes the text from: ``pydoc-topics``, ``stdlib``, or a file path relative to the TOML."""

    source: str = "pydoc-topics"
    validation_fraction: float = 0.1
    max_bytes: U32 = 4_000_000


@dataclass(frozen=True, slots=True)
class StartSpec:
    """Publisher's side: the initial weights. A Hugging Face folder relative to the TOML, or seeded ones; then at most
    ``warm_steps`` supervised steps on demonstrations of which the share ``warm_lazy`` only copies the question, until
    the held-out accuracy reaches ``warm_until``."""

    folder: str = ""
    warm_steps: U32 = 0
    warm_batch: U16 = 64
    warm_lr: float = 3e-3
    warm_lazy: float = 0.5
    warm_until: float = 1.0


@dataclass(frozen=True, slots=True)
class Windows:
    """Durations of a round's windows in seconds; each closes early when everybody who could use it has."""

    claim: U32 = 600
    train: U32 = 3600
    seal: U32 = 1800
    reveal: U32 = 900
    open: U32 = 900
    merge: U32 = 1800


@dataclass(frozen=True, slots=True)
class Economy:
    """What the chain is told at ``publish``; amounts are token wei."""

    reward: int = 10 * TOKEN
    bond: int = 10 * TOKEN
    merge_reward: int = 5 * TOKEN // 2
    merge_bond: int = 10 * TOKEN
    slots: U16 = 8
    rounds: U16 = 16
    fee_bps: U16 = 1000
    want: U16 = 5
    quorum: U8 = 2
    lag: U8 = 1
    decoy_one_in: U16 = 0
    windows: Windows = field(default_factory=Windows)

    @property
    def fee(self) -> int:
        """Validators' share of one lease, in token wei."""
        return economics.fee(self.terms)

    @property
    def escrow(self) -> int:
        """What the publisher locks: the worst case of all rounds, in token wei."""
        return economics.budget(self.terms)

    @property
    def terms(self) -> economics.Terms:
        """The same as the chain is told."""
        w = self.windows
        return economics.Terms(
            reward=self.reward,
            bond=self.bond,
            agg_reward=self.merge_reward,
            agg_bond=self.merge_bond,
            slots=self.slots,
            rounds=self.rounds,
            fee_bps=self.fee_bps,
            want=self.want,
            quorum=self.quorum,
            lag=self.lag,
            decoy_one_in=self.decoy_one_in,
            claim_t=w.claim,
            train_t=w.train,
            seal_t=w.seal,
            reveal_t=w.reveal,
            open_t=w.open,
            agg_t=w.merge,
        )


@dataclass(frozen=True, slots=True)
class TaskFile:
    """A publisher's TOML, parsed and checked."""

    name: str
    kind: str
    model: ModelSpec
    training: TrainingSpec
    merge: MergeSpec
    verification: VerificationSpec
    data: DataSpec
    economy: Economy
    decoder: DecoderSpec = DecoderSpec()
    rl: RlSpec = RlSpec()
    start: StartSpec = StartSpec()
    exchange: ExchangeSpec = ExchangeSpec()


_SECTIONS: dict[str, type] = {
    "model": ModelSpec,
    "training": TrainingSpec,
    "merge": MergeSpec,
    "verification": VerificationSpec,
    "data": DataSpec,
    "economy": Economy,
    "decoder": DecoderSpec,
    "rl": RlSpec,
    "start": StartSpec,
    "exchange": ExchangeSpec,
}
_AMOUNTS = {"reward", "bond", "merge_reward", "merge_bond"}


def parse_task(text: str) -> TaskFile:
    """Parse a task file.

    Raises `CommonweightError`: E1001 not TOML, E1002 unknown or missing key, E1003 wrong type, E1004 value out
    of range, E1005 impossible economy.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CommonweightError("E1001", f"the task file is not TOML: {error}") from error
    head = raw.pop("task", None)
    if not isinstance(head, dict):
        raise CommonweightError(
            "E1002", "the task file has no [task] section", "start from `commonweight task init`"
        )
    unknown = set(raw) - set(_SECTIONS)
    if unknown:
        raise _unknown(sorted(unknown)[0], _SECTIONS, "section")
    for key in set(head) - {"name", "kind"}:
        raise _unknown(f"task.{key}", ("name", "kind"), "key")
    name, kind = (_string(head, key) for key in ("name", "kind"))
    parts: dict[str, Any] = {
        section: _build(cls, raw.get(section, {}), section) for section, cls in _SECTIONS.items()
    }
    task = TaskFile(name=name, kind=kind, **parts)
    check_training(kind, task.model, task.training, task.merge, task.verification)
    check_rl(kind, task.model, task.decoder, task.training, task.rl, task.verification)
    check_exchange(kind, task.merge, task.exchange)
    if not 0 < task.data.validation_fraction < 0.9:
        raise _bad("data.validation_fraction", "must lie between 0 and 0.9")
    check_economy(task.economy)
    check_rollouts(task)
    if task.economy.decoy_one_in and task.verification.topk < 16:
        raise _bad("verification.topk", "must be 16 or more in a task with decoys")
    return task


def _string(head: dict[str, Any], key: str) -> str:
    value = head.get(key)
    if not isinstance(value, str) or not value or len(value) > 64:
        raise CommonweightError("E1003", f"task.{key} must be a string of 1 to 64 characters")
    return value


def _unknown(key: str, known: Any, what: str) -> CommonweightError:
    import difflib

    near = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(known), 1)
    hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(known))}"
    return CommonweightError("E1002", f"unknown {what} `{key}` in the task file", hint)


def _build(cls: type[T], raw: Any, where: str) -> T:
    if not isinstance(raw, dict):
        raise CommonweightError("E1003", f"`{where}` must be a section, not {type(raw).__name__}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls, include_extras=True)
    for key in raw:
        if key not in known:
            raise _unknown(f"{where}.{key}", known, "key")
    values: dict[str, Any] = {}
    for key, f in known.items():
        if key in raw:
            values[key] = _convert(hints[key], raw[key], f"{where}.{key}", key in _AMOUNTS)
        elif f.default is MISSING and f.default_factory is MISSING:
            raise CommonweightError("E1002", f"`{where}.{key}` is missing from the task file")
    return cls(**values)


def _convert(kind: Any, value: Any, where: str, amount: bool) -> Any:
    if amount:
        return _amount(value, where)
    if is_dataclass(kind):
        return _build(kind, value, where)  # type: ignore[arg-type]
    if get_origin(kind) is Annotated:
        size = get_args(kind)[1].size
        if type(value) is not int:
            raise _type(where, "an integer", value)
        if not 0 <= value < 1 << (8 * size):
            raise _bad(where, f"must fit {8 * size} bits, got {value}")
        return value
    if kind is float:
        if type(value) not in (int, float):
            raise _type(where, "a number", value)
        return float(value)
    if not isinstance(value, kind) or isinstance(kind, types.GenericAlias):
        raise _type(where, "a string", value)
    return value


def _amount(value: Any, where: str) -> int:
    """Tokens as a decimal string or an integer, in wei."""
    if type(value) not in (int, str):
        raise _type(where, 'an amount of tokens such as "2.5"', value)
    try:
        wei = Decimal(value) * TOKEN
    except DecimalException as error:
        raise _type(where, 'an amount of tokens such as "2.5"', value) from error
    if not wei.is_finite() or wei != wei.to_integral_value() or not 0 <= wei < 1 << 96:
        raise _bad(where, f"is no amount of tokens with at most 18 decimals: {value}")
    return int(wei)


def _type(where: str, want: str, value: Any) -> CommonweightError:
    return CommonweightError("E1003", f"`{where}` must be {want}, got {value!r}")


def _bad(where: str, why: str) -> CommonweightError:
    return CommonweightError("E1004", f"`{where}` {why}")


def check_training(
    kind: str, model: ModelSpec, training: TrainingSpec, merge: MergeSpec, verification: VerificationSpec
) -> None:
    """Refuse a spec that no honest node could train or check. Raises E1004."""
    rules = [
        (kind in KINDS, "task.kind", f"must be one of {', '.join(KINDS)}, got `{kind}`"),
        (
            model.vocab == 256 or (kind == "grpo" and 2 <= model.vocab <= 1 << 20),
            "model.vocab",
            "must be 256: tokens are bytes",
        ),
        (1 <= model.layers <= 48, "model.layers", "must be 1..48"),
        (1 <= model.heads and 8 <= model.dim <= 4096, "model.dim", "must be 8..4096"),
        (
            model.heads > 0 and model.dim % (2 * model.heads) == 0,
            "model.heads",
            "must divide dim into even parts",
        ),
        (8 <= model.hidden <= 16384, "model.hidden", "must be 8..16384"),
        (8 <= model.context <= 4096, "model.context", "must be 8..4096"),
        (
            1 <= training.segment <= 10,
            "training.segment",
            "must be 1..10 steps: longer ones cannot be audited",
        ),
        (
            training.steps > 0
            and training.steps <= 10_000
            and training.steps % max(1, training.segment) == 0,
            "training.steps",
            "must be 1..10000 and a multiple of training.segment",
        ),
        (1 <= training.batch <= 1024, "training.batch", "must be 1..1024"),
        (0 < training.lr < 1, "training.lr", "must lie between 0 and 1"),
        (0 <= training.beta1 < 1, "training.beta1", "must be 0 or more and below 1"),
        (0 <= training.beta2 < 1, "training.beta2", "must be 0 or more and below 1"),
        (0 < training.eps < 1, "training.eps", "must lie between 0 and 1"),
        (0 <= training.weight_decay < 10, "training.weight_decay", "must be 0 or more and below 10"),
        (0 < training.clip, "training.clip", "must be above 0"),
        (merge.rule in MERGE_RULES, "merge.rule", f"must be one of {', '.join(MERGE_RULES)}"),
        (8 <= merge.weight_bits <= 28, "merge.weight_bits", "must be 8..28"),
        (
            (merge.rule == "trimmed") == (0 < merge.trim) and merge.trim <= 49,
            "merge.trim",
            'must be 1..49 percent with the rule "trimmed", and 0 with "mean"',
        ),
        (merge.update_shift <= 15, "merge.update_shift", "must be 0..15"),
        (merge.codec in UPDATE_CODECS, "merge.codec", f"must be one of {', '.join(UPDATE_CODECS)}"),
        (0 < merge.lr_num and 0 < merge.lr_den, "merge.lr", "must be a positive fraction"),
        (merge.momentum_num < merge.momentum_den, "merge.momentum", "must be below 1"),
        (
            1 <= verification.checks and (kind == "grpo" or verification.checks <= training.segments),
            "verification.checks",
            f"must be 1..{training.segments}, the segments of a work",
        ),
        (1 <= verification.topk <= 1024, "verification.topk", "must be 1..1024"),
        # A window of one repeated token has equal hidden states, so that many equal values: no proof at all.
        (
            kind != "pretrain" or verification.topk > verification.chunk,
            "verification.topk",
            "must be above verification.chunk, or text that repeats one character cannot be proven",
        ),
        (
            kind != "grpo" or verification.topk <= model.dim,
            "verification.topk",
            "must be at most model.dim: a completion may be one token long",
        ),
        (
            1 <= verification.chunk and verification.chunk * model.dim >= 2 * verification.topk,
            "verification.topk",
            "must be at most half of chunk * model.dim",
        ),
        (verification.arithmetic in ("f32", "bf16"), "verification.arithmetic", "must be f32 or bf16"),
        (
            verification.tolerance == 0 or 1e-6 <= verification.tolerance <= 0.05,
            "verification.tolerance",
            "must be 0 (replays are equal bit for bit) or 1e-6..0.05: beyond that saved work goes unseen",
        ),
        (
            0 <= verification.max_mantissa_mean <= 128 and 0 <= verification.max_proof_score <= 256,
            "verification.max_proof_score",
            "and max_mantissa_mean must not be negative, nor above 256 and 128",
        ),
        (
            verification.chunk > 0
            and (kind == "grpo" or training.batch * model.context % verification.chunk == 0),
            "verification.chunk",
            "must divide training.batch * model.context, the tokens of a step",
        ),
    ]
    for ok, where, why in rules:
        if not ok:
            raise _bad(where, why)


ALGORITHMS = ("dr_grpo", "grpo", "rloo")
LOSSES = ("clip", "dppo", "ratio")


def check_rl(
    kind: str,
    model: ModelSpec,
    decoder: DecoderSpec,
    training: TrainingSpec,
    rl: RlSpec,
    verification: VerificationSpec,
) -> None:
    """Refuse a reinforcement-learning task that no honest node could train or check. Raises E1004."""
    if kind != "grpo":
        return
    kv, head = decoder.kv_heads or model.heads, decoder.head_dim or model.dim // model.heads
    rules = [
        (model.heads % kv == 0, "decoder.kv_heads", "must divide model.heads"),
        (2 <= head <= 512 and head % 2 == 0, "decoder.head_dim", "must be even and 2..512"),
        (0 < decoder.norm_eps < 1, "decoder.norm_eps", "must lie between 0 and 1"),
        (decoder.rope_base > 1, "decoder.rope_base", "must be above 1"),
        (1 <= decoder.rope_factor < 1e6, "decoder.rope_factor", "must be 1 or more"),
        (
            decoder.rope_low == decoder.rope_high == 0
            or (0 < decoder.rope_low < decoder.rope_high < 1e6 and decoder.rope_original > 0),
            "decoder.rope_low",
            "must be above 0 and below rope_high, with rope_original, or all three 0",
        ),
        (
            bool(decoder.library) == bool(decoder.parameters),
            "decoder.parameters",
            "must be the number of the library model's weights, and 0 for all others",
        ),
        (2 <= rl.group <= 256, "rl.group", "must be 2..256 samples of one prompt"),
        (training.batch % max(1, rl.group) == 0, "training.batch", "must be a multiple of rl.group"),
        (1 <= rl.block, "rl.block", "must be 1 or more trajectories"),
        (1 <= rl.oversample <= 16, "rl.oversample", "must be 1..16 times the prompts that are learnt from"),
        (
            training.steps * training.batch * rl.oversample <= MAX_TRAJECTORIES,
            "training.steps",
            f"times training.batch and rl.oversample must be at most {MAX_TRAJECTORIES} trajectories",
        ),
        (
            0 <= rl.min_solved <= rl.max_solved <= 1,
            "rl.min_solved",
            "and rl.max_solved must be mean rewards, 0..1, the smaller one first",
        ),
        (rl.rollout_age <= 8, "rl.rollout_age", "must be 0..8 rounds"),
        (
            verification.tolerance == 0 and verification.arithmetic == "f32",
            "verification.tolerance",
            "must be 0 and the arithmetic f32: this kind replays bit for bit",
        ),
        (1 <= rl.max_new < model.context, "rl.max_new", "must be 1 or more and below model.context"),
        (rl.lag <= 8, "rl.lag", "must be 0..8 segments"),
        (0.05 <= rl.temperature <= 10, "rl.temperature", "must be 0.05..10"),
        (rl.algorithm in ALGORITHMS, "rl.algorithm", f"must be one of {', '.join(ALGORITHMS)}"),
        (rl.loss in LOSSES, "rl.loss", f"must be one of {', '.join(LOSSES)}"),
        (0 < rl.clip_low < 1, "rl.clip_low", "must lie between 0 and 1"),
        (0 < rl.clip_high <= 10, "rl.clip_high", "must be above 0 and at most 10"),
        (rl.ratio_cap > 1, "rl.ratio_cap", "must be above 1"),
        (0 < rl.mask <= 1, "rl.mask", "must be above 0 and at most 1"),
        (0 < rl.max_margin < 1, "rl.max_margin", "must lie between 0 and 1"),
        (0 < rl.max_logprob_error < 1, "rl.max_logprob_error", "must lie between 0 and 1"),
    ]
    for ok, where, why in rules:
        if not ok:
            raise _bad(where, why)


def check_exchange(kind: str, merge: MergeSpec, exchange: ExchangeSpec) -> None:
    """Refuse an exchange that replicas could not keep, or nobody could audit. Raises E1004."""
    rules = [
        (exchange.topology in TOPOLOGIES, "exchange.topology", f"must be one of {', '.join(TOPOLOGIES)}"),
        (
            not exchange.sparse or kind == "pretrain",
            "exchange.topology",
            "must be complete: only the kind pretrain keeps replicas",
        ),
        (
            not exchange.sparse or merge.rule == "mean",
            "merge.rule",
            'must be "mean" where trainers keep replicas: their mean is the task\'s version',
        ),
        (2 <= exchange.degree <= 16, "exchange.degree", "must be 2..16 neighbours"),
        (1 <= exchange.cell <= 64, "exchange.cell", "must be 1..64 machines"),
    ]
    for ok, where, why in rules:
        if not ok:
            raise _bad(where, why)


def check_rollouts(task: TaskFile) -> None:
    """Refuse rollout leases that nobody could take, or that nobody would learn from. Raises E1004."""
    rl, e = task.rl, task.economy
    if not rl.rollout_slots:
        return
    if task.kind != "grpo":
        raise _bad("rl.rollout_slots", "is for tasks of kind grpo")
    if rl.rollout_slots >= e.slots:
        raise _bad("rl.rollout_slots", f"must be below economy.slots ({e.slots}): somebody has to learn")
    if rl.rollout_age < e.lag:
        raise _bad("rl.rollout_age", f"must be at least economy.lag ({e.lag}), or every rollout is too old")


_TERMS = {
    "reward": ("reward", "must be above 0"),
    "want": ("want", "must be 1..65535"),
    "bond": ("bond", "must be at least {least}, or cheating would pay"),
    "aggReward": ("merge_reward", "must be at most economy.reward"),
    "aggBond": ("merge_bond", "must be above 0"),
    "feeBps": ("fee_bps", "must be 100..5000: validators must be paid"),
    "decoyOneIn": ("decoy_one_in", "must be 0 or 10..4096"),
    "slots": ("slots", "must be 1..256"),
    "rounds": ("rounds", "must be 1..65535"),
    "quorum": ("quorum", "must be 1..want"),
    "lag": ("lag", "must be 1..4"),
    "risk": ("decoy_one_in", "makes a vote stake {value}; a seat's stake covers {most} at most"),
    "exitDelay": ("windows", "seal, reveal and open are too long: seats could leave before disputes end"),
}
"""What a complaint of `core.economics` is about in a task file, and what to say of it."""


def check_economy(e: Economy, host: economics.Host | None = None) -> None:
    """The inequalities that ``Tasks.publish`` checks on the chain. Raises E1005.

    ``host``: what the deployment fixes, the defaults if None.
    """
    for c in economics.complaints(e.terms, economics.Rule(), host or economics.Host()):
        key, why = _TERMS.get(c.what, ("windows", "each window must be 1 second to 7 days"))
        wei = c.what in ("bond", "risk")
        value, least, most = (f"{x / TOKEN:g}" if wei else str(x) for x in (c.value, c.least, c.most))
        why = why.format(value=value, least=least, most=most)
        raise CommonweightError("E1005", f"impossible economy: economy.{key} {why}")
