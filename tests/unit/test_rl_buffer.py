"""Buffer and exchange: whole or not there, bounded, freshest first, nothing lost and nothing taken twice."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from commonweight.core.errors import CommonweightError
from commonweight.rl.buffer import TrajectoryBuffer, Unit
from commonweight.rl.exchange import Exchange
from commonweight.rl.trajectories import Columns, Trajectory


def columns(reward: int = 1, rows: int = 2) -> Columns:
    one = np.array([1, 2], dtype=np.int32)
    row = Trajectory(
        0, 3, 5, reward, one, one, np.ones(2, dtype=np.uint8), np.zeros(2, dtype=np.float32), b"x"
    )
    return Columns.of([row] * rows)


def test_the_freshest_version_comes_first_and_what_is_taken_is_gone(tmp_path: Path) -> None:
    buffer = TrajectoryBuffer(tmp_path)
    for unit in (Unit(7, 1), Unit(3, 2), Unit(2, 2), Unit(9, 0)):
        buffer.add(unit, columns(unit.number))
    assert buffer.units() == [Unit(2, 2), Unit(3, 2), Unit(7, 1), Unit(9, 0)]
    taken = buffer.take(Unit(3, 2))
    assert taken is not None
    assert taken.row(0).reward == 3
    assert buffer.take(Unit(3, 2)) is None
    assert buffer.counts == {"added": 4, "taken": 1}


def test_what_is_stale_or_too_much_is_dropped_and_counted(tmp_path: Path) -> None:
    buffer = TrajectoryBuffer(tmp_path, limit=3)
    for number in range(8):
        buffer.add(Unit(number, number), columns())
    buffer.prune(oldest=2)
    assert [u.version for u in buffer.units()] == [7, 6, 5]
    assert buffer.counts["stale"] == 2
    assert buffer.counts["full"] == 3
    small = TrajectoryBuffer(tmp_path, max_bytes=len(columns().encode()) + 10)
    small.prune(oldest=0)
    assert [u.version for u in small.units()] == [7]


def test_malformed_and_foreign_files_harm_nobody(tmp_path: Path) -> None:
    buffer = TrajectoryBuffer(tmp_path)
    buffer.add(Unit(1, 1), columns())
    (tmp_path / Unit(2, 1).name).write_bytes(b"rubbish")
    for name in ("notes.txt", "1-2.rl.tmp", "a-b.rl", "-.rl"):
        (tmp_path / name).write_bytes(b"?")
    assert [u.number for u in buffer.units()] == [1, 2]
    assert buffer.take(Unit(2, 1)) is None
    assert buffer.counts["malformed"] == 1
    assert [u.number for u in TrajectoryBuffer(tmp_path).units()] == [1]


def test_every_ticket_is_taken_once(tmp_path: Path) -> None:
    exchange, taken = Exchange(tmp_path), []

    def work(name: str) -> None:
        mine = Exchange(tmp_path)
        while (number := mine.claim(40, name)) is not None:
            taken.append(number)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40))
    assert exchange.claim(40, "late") is None
    assert exchange.claim(41, "late") == 40


def test_weights_are_those_of_their_head_or_refused(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    assert exchange.head() is None
    exchange.publish(1, torch.arange(5).float(), opened=4)
    head = exchange.head()
    assert head is not None
    weights = exchange.weights(head)
    assert weights is not None
    assert weights.tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "weights" / "00000001.f32").write_bytes(bytes(20))
    with pytest.raises(CommonweightError) as caught:
        exchange.weights(head)
    assert caught.value.code == "E1102"
    (tmp_path / "weights" / "00000001.f32").unlink()
    assert exchange.weights(head) is None
    (tmp_path / "head.json").write_text("{")
    with pytest.raises(CommonweightError):
        exchange.head()


def test_an_overdue_ticket_is_known_by_its_age(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    assert not exchange.overdue(0, 0.0)
    assert exchange.claim(1, "w") == 0
    assert exchange.overdue(0, 0.0)
    assert not exchange.overdue(0, 60.0)
