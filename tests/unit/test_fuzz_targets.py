"""The fuzz targets run on their seeds, on mutations of them and on arbitrary bytes; long runs are `make fuzz`."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS, run

SEEDS = seeds()


def test_every_target_has_seeds_that_decode() -> None:
    assert set(SEEDS) == set(TARGETS)
    for name, inputs in SEEDS.items():
        for data in inputs:
            if name not in ("update", "opening", "package_face", "leaves"):
                TARGETS[name](data)


@pytest.mark.parametrize("name", sorted(TARGETS))
@settings(max_examples=40)
@given(st.data())
def test_mutations_are_refused_or_decoded(name: str, data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from(SEEDS[name])))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    run(TARGETS[name], bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    run(TARGETS[name], data.draw(st.binary(max_size=300)))
