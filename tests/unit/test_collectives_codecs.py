"""Codecs: canonical, total on hostile bytes, bounded in error, exact on lanes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from commonweight.collectives.codecs import CODECS, Feedback, codec
from commonweight.collectives.scales import FLOATS, LANES
from commonweight.core.errors import CommonweightError, EncodingError

NAMES = [
    *CODECS,
    "int8:8",
    "int8:256",
    "int4:16",
    "int4:1024",
    "2bit:8",
    "2bit:64",
    "topk:8/64",
    "topk:512/4096",
    "topk8:8/64",
]
EXACT = [name for name in NAMES if codec(name).exact]
QUANTISED = [name for name in EXACT if name != "none"]

seeds = st.integers(0, 2**32 - 1)
counts = st.one_of(st.integers(0, 70), st.sampled_from([255, 256, 257, 1023, 4096, 4097, 70_000]))
shapes = st.sampled_from(["normal", "cauchy", "zeros", "sparse", "tiny", "huge", "equal"])


def floats(seed: int, count: int, shape: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(count)
    if shape == "cauchy":
        x = np.clip(rng.standard_cauchy(count), -6e4, 6e4)
    elif shape == "sparse":
        x *= rng.random(count) < 0.02
    scale = {"zeros": 0.0, "tiny": 1e-38, "huge": 1e4, "equal": 0.0}.get(shape, 1.0)
    return (x * scale + (shape == "equal") * 0.7).astype(np.float32)


def lanes(seed: int, count: int, bits: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    bound = 2**bits
    dense = rng.integers(-bound, bound, count, endpoint=True)
    return (dense * (rng.random(count) < rng.random())).astype(np.int32)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(seed=seeds, count=counts, shape=shapes)
def test_float_encoding_is_canonical_and_of_fixed_size(name: str, seed: int, count: int, shape: str) -> None:
    through, x = codec(name), floats(seed, count, shape)
    payload = through.encode(x)
    assert len(payload) == through.size(count)
    decoded = through.decode(payload, count)
    assert decoded.dtype == np.float32
    assert decoded.shape == (count,)
    assert through.encode(decoded) == payload


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=30)
@given(seed=seeds, count=counts, bits=st.integers(0, 30))
def test_lane_encoding_is_canonical_and_of_fixed_size(name: str, seed: int, count: int, bits: int) -> None:
    through, x = codec(name), lanes(seed, count, bits)
    payload = through.encode_lanes(x)
    assert len(payload) == through.size(count)
    decoded = through.decode_lanes(payload, count)
    assert decoded.dtype == np.int32
    assert through.encode_lanes(decoded) == payload


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50)
@given(data=st.data(), count=st.integers(0, 70), exact=st.booleans(), seed=seeds)
def test_decoders_are_total_and_accept_only_canonical_bytes(
    name: str, data: st.DataObject, count: int, exact: bool, seed: int
) -> None:
    """Random bytes, and valid bytes with a few changed, either decode and encode to the same bytes or are refused."""
    through = codec(name)
    exact = exact and through.exact
    if data.draw(st.booleans()):
        raw = data.draw(st.binary(min_size=0, max_size=2 * through.size(count) + 1))
    else:
        raw = bytearray(
            through.encode_lanes(lanes(seed, count, 12))
            if exact
            else through.encode(floats(seed, count, "normal"))
        )
        for at, value in data.draw(
            st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=3)
        ):
            if raw:
                raw[at % len(raw)] = value
    try:
        decoded = through.decode_lanes(bytes(raw), count) if exact else through.decode(bytes(raw), count)
    except EncodingError:
        return
    assert decoded.shape == (count,)
    assert np.isfinite(decoded).all()
    again = through.encode_lanes(decoded) if exact else through.encode(decoded)
    assert again == bytes(raw)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_payload_of_another_length_is_refused(name: str, change: int) -> None:
    through = codec(name)
    payload = through.encode(floats(1, 100, "normal"))
    wrong = payload[:-1] if change < 0 else payload + b"\x00"
    with pytest.raises(EncodingError):
        through.decode(wrong, 100)
    for count in (-1, 1 << 60):  # refused before anything of that size is allocated
        with pytest.raises(EncodingError):
            through.decode(payload, count)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    x = floats(2, 300, "normal")
    x[123] = bad
    with pytest.raises(EncodingError):
        codec(name).encode(x)


def test_fp16_refuses_what_it_would_round_to_infinity() -> None:
    assert codec("fp16").decode(codec("fp16").encode(np.array([65519], np.float32)), 1)[0] == 65504
    with pytest.raises(EncodingError):
        codec("fp16").encode(np.array([65520], np.float32))


@pytest.mark.parametrize(("name", "levels"), [("int8", 127), ("int8:256", 127), ("int4", 7), ("int4:16", 7)])
@given(seed=seeds, count=st.integers(1, 600), shape=shapes)
def test_error_of_a_lane_is_at_most_half_a_level(
    name: str, levels: int, seed: int, count: int, shape: str
) -> None:
    block = {"int8": 64, "int8:256": 256, "int4": 128, "int4:16": 16}[name]
    x = floats(seed, count, shape)
    gap = np.abs(codec(name).decode(codec(name).encode(x), count) - x)
    for at in range(0, count, block):
        peak = np.abs(x[at : at + block]).max()
        assert gap[at : at + block].max() <= max(peak / levels * 0.506, 2.0**-92)


@given(seed=seeds, count=st.integers(1, 600), bits=st.integers(0, 28))
def test_error_of_an_int8_lane_is_at_most_half_a_scale(seed: int, count: int, bits: int) -> None:
    x, through = lanes(seed, count, bits), codec("int8")
    gap = np.abs(through.decode_lanes(through.encode_lanes(x), count).astype(np.int64) - x)
    for at in range(0, count, 64):
        scale = LANES.covering(np.abs(x[at : at + 64]).max(keepdims=True), 127)[0]
        assert gap[at : at + 64].max() <= scale / 2
    if bits < 7:
        assert not gap.any()


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("fp16", 0.0003),
        ("int8", 0.0063),
        ("int4", 0.12),
        ("int4:1024", 0.118),
        ("2bit", 0.349),
        ("topk", 0.945),
        ("topk8", 0.826),
    ],
)
def test_relative_error_on_gaussian_values(name: str, bound: float) -> None:
    x = floats(3, 1 << 17, "normal")
    through = codec(name)
    assert np.linalg.norm(through.decode(through.encode(x), x.size) - x) < bound * np.linalg.norm(x)


@pytest.mark.parametrize(
    ("name", "bits"), [("int8", 8.26), ("int4", 4.13), ("2bit", 2.02), ("topk8", 0.885), ("topk", 0.165)]
)
def test_bits_per_value(name: str, bits: float) -> None:
    assert codec(name).size(1 << 20) * 8 / (1 << 20) < bits


@given(seed=seeds)
def test_topk_keeps_the_largest_and_of_equal_ones_the_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, 200).astype(np.float32)
    through = codec("topk:8/64")
    kept = through.decode(through.encode(x), 200) != 0
    for at in range(0, 200, 64):
        part, mine = x[at : at + 64], kept[at : at + 64]
        order = np.lexsort((np.arange(part.size), -np.abs(part)))[:8]
        assert set(np.nonzero(mine)[0]) == {i for i in order if part[i] != 0}


def test_topk_of_a_single_value_keeps_it_and_invents_nothing() -> None:
    """Found while designing: a two-bit level has no zero, so padding a record would have sent noise."""
    x = np.zeros(5000, np.float32)
    x[4321] = 3.0
    decoded = codec("topk").decode(codec("topk").encode(x), 5000)
    assert decoded[4321] == pytest.approx(3.0, rel=0.01)
    assert np.count_nonzero(decoded) == 1


@given(st.integers(0, 2**30))
@example(255)
@example(256)
@example(257)
def test_lane_scales_cover_and_are_minimal(value: int) -> None:
    peak = np.array([value], dtype=np.int64)
    scale = LANES.covering(peak, 1)
    assert scale[0] >= value
    assert value == 0 or LANES.lower(scale)[0] < value
    assert np.array_equal(LANES.from_wire(LANES.to_wire(scale), 1), scale)


@given(st.integers(0, 2**16 - 1))
def test_scale_codes_have_one_meaning_each(word: int) -> None:
    for scales in (FLOATS, LANES):
        code = np.array([word], dtype=np.uint16)
        try:
            scale = scales.from_wire(code, 3)
        except EncodingError:
            continue
        assert np.array_equal(scales.to_wire(scale), code)


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=30)
@given(seed=seeds, rounds=st.integers(1, 6), decay=st.sampled_from([256, 243]))
def test_exact_feedback_loses_nothing(name: str, seed: int, rounds: int, decay: int) -> None:
    """What was wanted is what was sent plus what is left, to the last unit; without decay over all rounds."""
    feedback, sent_total, wanted_total = Feedback.start(300, exact=True, decay=decay), 0, 0
    for i in range(rounds):
        x = lanes(seed + i, 300, 14)
        carried = (feedback.residual.astype(np.int64) * decay) >> 8
        payload, sent, feedback = feedback.step_lanes(codec(name), x)
        assert np.array_equal(codec(name).decode_lanes(payload, 300), sent)
        assert np.array_equal(carried + x, sent.astype(np.int64) + feedback.residual)
        sent_total, wanted_total = sent_total + sent.astype(np.int64), wanted_total + x.astype(np.int64)
    if decay == 256:
        assert np.array_equal(wanted_total, sent_total + feedback.residual)


@pytest.mark.parametrize("name", QUANTISED)
def test_feedback_makes_the_average_right(name: str) -> None:
    """A constant gradient arrives: the mean of what was sent approaches it although each message is coarse."""
    x = floats(5, 4096, "normal")
    feedback, total, rounds = Feedback.start(x.size), np.zeros_like(x), 200
    for _ in range(rounds):
        _, sent, feedback = feedback.step(codec(name), x)
        total += sent
    assert np.linalg.norm(total / rounds - x) < 0.25 * np.linalg.norm(x)


@given(seed=seeds, count=st.integers(0, 40), exact=st.booleans())
def test_feedback_state_round_trip(seed: int, count: int, exact: bool) -> None:
    residual = lanes(seed, count, 20) if exact else floats(seed, count, "normal")
    state = Feedback(residual, 243)
    again = Feedback.decode(state.encode(), count)
    assert again.decay == 243
    assert again.residual.dtype == residual.dtype
    assert np.array_equal(again.residual, residual)


@given(st.binary(max_size=40), st.integers(0, 8))
def test_feedback_decoder_is_total(raw: bytes, count: int) -> None:
    try:
        state = Feedback.decode(raw, count)
    except EncodingError:
        return
    assert state.encode() == raw


@pytest.mark.parametrize(
    "bad", ["", "int9", "int8:", "int8:7", "int8:0", "none:4", "topk:64", "topk:65/4096", "int8:64/2"]
)
def test_unknown_codecs_are_named(bad: str) -> None:
    with pytest.raises(CommonweightError) as caught:
        codec(bad)
    assert caught.value.code == "E1518"


@given(seed=seeds)
def test_the_wire_is_the_same_on_every_machine(seed: int) -> None:
    """Lane decoding uses integers only: a plain Python decoder agrees with it."""
    x = lanes(seed, 40, 16)
    assume(x.any())
    through = codec("int4:16")
    payload = through.encode_lanes(x)
    blocks = 3
    plain = []
    for i in range(40):
        word = int.from_bytes(payload[2 * (i // 16) : 2 * (i // 16) + 2], "little")
        nibble = payload[2 * blocks + i // 2] >> 4 * (i % 2) & 15
        plain.append((nibble - 16 if nibble > 7 else nibble) * ((word & 255) << (word >> 8)))
    assert plain == through.decode_lanes(payload, 40).tolist()
