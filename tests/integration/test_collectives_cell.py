"""A cell of machines over real connections: one update, exact steps, an audit by replay, and a wrong merge refuted."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from commonweight.collectives.cell import (
    CellResult,
    CellStep,
    MemberWork,
    Share,
    lanes_root,
    member_seed,
    replay_step,
    train_cell,
)
from commonweight.collectives.codecs import codec
from commonweight.collectives.session import Rules
from commonweight.collectives.tcp import Settings, TcpCollective
from commonweight.collectives.wire import Credentials
from commonweight.core.errors import CommonweightError, EncodingError
from tests.integration.collectives_swarm import free_port

pytestmark = pytest.mark.soak

SEED = bytes(range(32))
START = np.random.default_rng(1).integers(-(2**20), 2**20, 3000).astype(np.int32)


def work(share: Share, lanes: np.ndarray) -> MemberWork:
    """A made-up step: a noisy pull towards zero, from the member's own seed."""
    noise = np.random.default_rng(list(share.seed)).integers(-50, 50, lanes.size)
    return MemberWork((lanes // 8 + noise).astype(np.int32), b"records of " + share.seed)


def run_cell(size: int, rounds: int, name: str, lost: int = -1) -> dict[int, CellResult]:
    """All machines in threads; machine ``lost`` closes its collective instead of training round 1."""
    port = free_port()
    results: dict[int, CellResult] = {}
    failures: list[BaseException] = []

    def machine(rank: int) -> None:
        settings = Settings(
            port=port if rank == 0 else 0,
            contacts=(("127.0.0.1", port),),
            founder=rank == 0,
            rules=Rules(silence=5, expect=size),
        )
        collective = TcpCollective(Credentials(f"box-{rank}", b"c" * 32), settings)

        def train(share: Share, lanes: np.ndarray) -> MemberWork:
            if rank == lost and share.round == 1:
                raise InterruptedError
            return work(share, lanes)

        try:
            results[rank] = train_cell(collective, START, SEED, rounds, train, codec(name), seconds=2)
        except InterruptedError:
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            collective.close()

    threads = [threading.Thread(target=machine, args=(r,)) for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    if failures:
        raise failures[0]
    return results


@pytest.mark.parametrize("name", ["none", "int8"])
def test_all_machines_hold_one_update_that_an_auditor_repeats(name: str) -> None:
    results = run_cell(3, 2, name)
    assert sorted(results) == [0, 1, 2]
    first = results[0]
    for result in results.values():
        assert result.steps == first.steps
        assert np.array_equal(result.update, first.update)
    lanes = START
    for step in first.steps:
        assert CellStep.decode(first.artifacts[step.root]) == step
        assert [p.index for p in step.parts] == [0, 1, 2]
        assert {first.artifacts[p.records] for p in step.parts} == {
            b"records of " + member_seed(SEED, step.round, i) for i in range(3)
        }
        lanes = replay_step(step, lanes, first.artifacts.__getitem__)
    assert np.array_equal(lanes, first.lanes)
    assert np.array_equal(START.astype(np.int64) - lanes, first.update)


def test_a_machine_that_goes_is_missing_from_the_step_and_the_rest_agree() -> None:
    results = run_cell(3, 2, "none", lost=2)
    assert sorted(results) == [0, 1]
    assert results[0].steps == results[1].steps
    assert len(results[0].steps[0].parts) == 3
    assert len(results[0].steps[1].parts) == 2
    lanes = replay_step(results[0].steps[0], START, results[0].artifacts.__getitem__)
    replay_step(results[0].steps[1], lanes, results[0].artifacts.__getitem__)


def test_a_wrong_merge_and_a_swapped_update_are_refuted() -> None:
    result = run_cell(1, 1, "none")[0]
    (step,) = result.steps
    after = result.lanes.copy()
    after[7] += 1
    with pytest.raises(CommonweightError) as caught:
        replay_step(replace(step, after=lanes_root(after)), START, result.artifacts.__getitem__)
    assert caught.value.code == "E1522"
    with pytest.raises(CommonweightError) as caught:
        replay_step(step, after, result.artifacts.__getitem__)
    assert caught.value.code == "E1522"
    with pytest.raises(CommonweightError) as caught:
        replay_step(step, START, lambda root: START.tobytes())
    assert caught.value.code == "E1102"


def test_parts_of_a_step_are_in_order_and_not_empty() -> None:
    (step,) = run_cell(1, 1, "none")[0].steps
    for parts in ((), (step.parts[0], step.parts[0])):
        with pytest.raises(EncodingError):
            CellStep.decode(replace(step, parts=parts).encode())


def test_members_data_differs_by_round_and_index() -> None:
    seeds = {member_seed(SEED, number, index) for number in range(10) for index in range(10)}
    assert len(seeds) == 100
