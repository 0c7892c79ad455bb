"""The ring in one process: every member holds the same bits, the sum is right, hostile tiles are refused."""

from __future__ import annotations

import itertools
import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonweight.collectives.codecs import codec
from commonweight.collectives.ring import Broken, Plan, Ring, all_reduce_alone, default_tile, run
from commonweight.collectives.seals import SEALS, Seal
from commonweight.core.errors import EncodingError

KEYS = b"a" * 32, b"a" * 32


def in_a_ring(inputs: list[np.ndarray], name: str, tile: int, seal: str = "sum") -> list[np.ndarray]:
    """Run all members in threads over socket pairs."""
    size = len(inputs)
    pairs = [socket.socketpair() for _ in inputs]  # pairs[i]: from member i to its right
    outs = [np.full_like(x, 77) for x in inputs]
    failures: list[BaseException] = []

    def member(rank: int) -> None:
        right, left = pairs[rank][0], pairs[rank - 1][1]
        plan = Plan(rank, size, inputs[rank].size, tile)
        ring = Ring(plan, codec(name), inputs[rank], outs[rank], Seal(seal, *KEYS, operation=1))
        deadline = time.monotonic() + 20
        try:
            run(ring, left, right, lambda: deadline - time.monotonic())
        except BaseException as error:
            failures.append(error)
            right.close()
            left.close()

    for pair in pairs:
        for sock in pair:
            sock.setblocking(False)
    threads = [threading.Thread(target=member, args=(r,)) for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    for pair in pairs:
        for sock in pair:
            sock.close()
    if failures:
        raise failures[0]
    return outs


@settings(max_examples=25)
@given(
    size=st.integers(2, 5),
    count=st.sampled_from([1, 63, 64, 65, 300, 1000, 5000]),
    tile=st.sampled_from([64, 100, 4096]),
    name=st.sampled_from(["none", "fp16", "int8", "int4", "2bit:64"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_all_members_hold_the_same_bits_and_inputs_stay(
    size: int, count: int, tile: int, name: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal(count).astype(np.float32) for _ in range(size)]
    before = [x.copy() for x in inputs]
    outs = in_a_ring(inputs, name, tile)
    for out in outs[1:]:
        assert out.tobytes() == outs[0].tobytes()
    for x, y in zip(inputs, before, strict=True):
        assert np.array_equal(x, y)
    exact = np.sum(inputs, axis=0, dtype=np.float64)
    bound = {"none": 1e-6, "fp16": 4e-3, "int8": 0.05, "int4": 0.8, "2bit:64": 4.0}[name]
    assert np.abs(outs[0] - exact).max() <= bound * max(np.abs(exact).max(), 1.0) * size


@given(size=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_lanes_are_summed_exactly(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = [rng.integers(-(2**28), 2**28, 777).astype(np.int32) for _ in range(size)]
    for out in in_a_ring(inputs, "none", 100):
        assert np.array_equal(out, np.sum(inputs, axis=0, dtype=np.int32))


@pytest.mark.parametrize("seal", SEALS)
def test_both_seals_carry(seal: str) -> None:
    inputs = [np.arange(1000, dtype=np.float32) * i for i in range(3)]
    assert np.array_equal(in_a_ring(inputs, "none", 128, seal)[0], np.sum(inputs, axis=0))


def test_int8_error_is_less_than_half_of_one_scale_per_chunk() -> None:
    """The claim of the benchmark on a small scale: one scale per 64 values against one per chunk."""
    rng = np.random.default_rng(4)
    inputs = [rng.standard_normal(1 << 16).astype(np.float32) for _ in range(4)]
    exact = np.sum(inputs, axis=0, dtype=np.float64)
    error = np.linalg.norm(in_a_ring(inputs, "int8", 4096)[0] - exact) / np.linalg.norm(exact)
    assert error < 0.0105


@pytest.mark.parametrize("name", ["none", "int8"])
def test_a_member_with_nan_stops_the_reduction(name: str) -> None:
    inputs = [np.ones(500, dtype=np.float32) for _ in range(3)]
    inputs[1][250] = np.nan
    with pytest.raises((EncodingError, Broken)):
        in_a_ring(inputs, name, 64)


def test_a_silent_neighbour_ends_in_a_deadline() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    for pair in pairs:
        for sock in pair:
            sock.setblocking(False)
    x = np.ones(100, dtype=np.float32)
    ring = Ring(Plan(0, 2, 100, 64), codec("none"), x, np.zeros_like(x), Seal("sum", *KEYS, operation=1))
    began = time.monotonic()
    with pytest.raises(Broken) as caught:
        run(ring, pairs[1][1], pairs[0][0], lambda: 0.2)
    assert caught.value.side == "deadline"
    assert time.monotonic() - began < 5
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_a_call_to_stop_ends_it_at_once() -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    for pair in pairs:
        for sock in pair:
            sock.setblocking(False)
    x = np.ones(100, dtype=np.float32)
    ring = Ring(Plan(0, 2, 100, 64), codec("none"), x, np.zeros_like(x), Seal("sum", *KEYS, operation=1))
    pairs[2][0].send(b"x")
    with pytest.raises(Broken) as caught:
        run(ring, pairs[1][1], pairs[0][0], lambda: 20.0, pairs[2][1])
    assert caught.value.side == "abort"
    for pair in pairs:
        for sock in pair:
            sock.close()


@pytest.mark.parametrize("seal", SEALS)
@given(at=st.integers(0, 1 << 16), bit=st.integers(0, 7))
def test_a_flipped_bit_in_tile_or_header_is_noticed(seal: str, at: int, bit: int) -> None:
    seals = Seal(seal, *KEYS, operation=3)
    payload = bytes(range(203))
    whole = bytearray(seals.close(5, memoryview(payload)) + payload)
    whole[at % len(whole)] ^= 1 << bit
    with pytest.raises(EncodingError):
        seals.open(5, whole[: -len(payload)], memoryview(whole)[-len(payload) :])


@pytest.mark.parametrize(("operation", "index"), [(2, 0), (1, 1)])
def test_a_tile_of_another_operation_or_place_is_refused(operation: int, index: int) -> None:
    """Replay: the same bytes under the same key, at another time."""
    old = Seal("hmac", *KEYS, operation=1).close(0, memoryview(b"tile"))
    with pytest.raises(EncodingError):
        Seal("hmac", *KEYS, operation=operation).open(index, old, memoryview(b"tile"))


@given(count=st.integers(0, 10_000), size=st.integers(1, 9))
def test_chunks_partition_the_vector(count: int, size: int) -> None:
    plan = Plan(0, size, count, default_tile(count, size, "int8"))
    edges = [plan.chunk(i) for i in range(size)]
    assert edges[0][0] == 0
    assert edges[-1][1] == count
    assert all(a[1] == b[0] and a[0] <= a[1] for a, b in itertools.pairwise(edges))


def test_alone_the_values_are_what_would_have_been_sent() -> None:
    x = np.linspace(-1, 1, 100, dtype=np.float32)
    assert np.array_equal(all_reduce_alone(x, codec("none")), x)
    through = codec("int8")
    assert np.array_equal(all_reduce_alone(x, through), through.decode(through.encode(x), 100))
