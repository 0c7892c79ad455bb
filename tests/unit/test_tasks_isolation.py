"""Checks in a child: the same verdicts, and whatever kills the child is our error and no verdict."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from commonweight.core.errors import CommonweightError
from commonweight.core.verdict import Evidence, Outcome
from commonweight.core.works import TREE_STEPS, WITHHELD
from commonweight.tasks import cheats, evidence
from commonweight.tasks.isolation import Checker, Limits
from tests.leases import BLINDING, Shelf, tiny


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    os.environ["MY_PRIVATE_KEY"] = "canary"
    found = Checker()
    yield found
    found.close()
    del os.environ["MY_PRIVATE_KEY"]


def ask(checker: Checker, shelf: Shelf, segments: tuple[int, ...] = (0, 1, 2, 3), fetch=None):  # type: ignore[no-untyped-def]
    t = tiny()
    return checker.check(
        t.spec, t.text, t.base, t.lease(), shelf.product.root, segments, fetch or shelf.fetch
    )


def test_the_child_gives_the_verdicts_of_this_process(checker: Checker) -> None:
    t = tiny()
    honest = Shelf.of(t.train(t.lease()))
    forged = Shelf.of(cheats.skip_steps(t.spec, t.text, t.base, t.lease(), blinding=BLINDING))
    for shelf in (honest, forged):
        assert ask(checker, shelf) == t.check(t.lease(), shelf, (0, 1, 2, 3))
    gone = Shelf.of(honest.product)
    del gone.artifacts[honest.product.header.update_root]
    assert ask(checker, gone).outcome is Outcome.WITHHELD
    child = checker._child
    assert child is not None
    assert b"canary" not in Path(f"/proc/{child.pid}/environ").read_bytes()
    judged = checker.judge_leaf(
        t.spec, t.text, t.base, t.lease(), forged.product.root, TREE_STEPS, 2, forged.fetch
    )
    assert judged == t.judge(t.lease(), forged, TREE_STEPS, 2)
    judged = checker.judge_leaf(
        t.spec, t.text, t.base, t.lease(), honest.product.root, 0, WITHHELD - 1, honest.fetch
    )
    assert judged.outcome is Outcome.VALID


def test_a_killed_child_is_an_error_and_the_next_check_has_a_new_one(checker: Checker) -> None:
    t = tiny()
    shelf = Shelf.of(t.train(t.lease()))

    def fetch(root: bytes, limit: int) -> bytes:
        child = checker._child
        assert child is not None
        os.kill(child.pid, signal.SIGSEGV)
        child.wait(10)
        return shelf.fetch(root, limit)

    verdict = ask(checker, shelf, fetch=fetch)
    assert verdict.outcome is Outcome.ERROR
    assert "signal 11" in verdict.reason
    assert verdict.vote(0) is None
    assert ask(checker, shelf).outcome is Outcome.VALID


def test_a_hanging_child_is_an_error() -> None:
    t = tiny()
    shelf = Shelf.of(t.train(t.lease()))
    slow = Checker(Limits(seconds=0.05))
    verdict = ask(slow, shelf)
    assert verdict.outcome is Outcome.ERROR
    assert "0.05 s" in verdict.reason


def test_too_little_memory_is_an_error() -> None:
    t = tiny()
    shelf = Shelf.of(t.train(t.lease()))
    poor = Checker(Limits(memory=100 << 20))
    assert ask(poor, shelf).outcome is Outcome.ERROR


def test_a_failing_parent_is_not_the_trainers_fault(checker: Checker) -> None:
    t = tiny()
    shelf = Shelf.of(t.train(t.lease()))

    def full(root: bytes, limit: int) -> bytes:
        raise CommonweightError("E1404", "the disk is full")

    verdict = ask(checker, shelf, fetch=full)
    assert verdict.outcome is Outcome.ERROR
    assert "the disk is full" in verdict.reason

    def broken(root: bytes, limit: int) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(checker, shelf, fetch=broken)
    assert checker._child is None, "a child in the middle of a question is of no more use"


# -- evidence ----------------------------------------------------------------------------------------------------


def test_evidence_repeats_from_artifacts_alone() -> None:
    t = tiny()
    for make in (t.train, lambda lease: cheats.random(t.spec, t.text, t.base, lease, blinding=BLINDING)):
        product = make(t.lease())
        shelf = Shelf.of(product)
        shelf.artifacts |= {
            t.spec.root: t.spec.encode(),
            t.spec.data_root: t.text,
            t.base.root: t.base.encode(),
        }
        lease, spec_root = evidence.claimed_lease(product.root, shelf.fetch)
        assert (lease, spec_root) == (t.lease(), t.spec.root)
        first = evidence.repeat(lease, spec_root, product.root, (1, 3), shelf.fetch)
        again = Evidence.decode(first.encode())
        assert again == first
        assert again.verdict == t.check(lease, shelf, (1, 3))
        second = evidence.repeat(
            evidence.lease_of(again), again.spec, again.work, again.segments, shelf.fetch
        )
        assert evidence.same_verdict(first, second)
        everything = evidence.repeat(lease, spec_root, product.root, None, shelf.fetch)
        assert everything.segments == (0, 1, 2, 3)
        assert not evidence.same_verdict(first, everything)


def test_what_is_no_evidence_is_named() -> None:
    for bad in (b"", b"\x00" * 400):
        with pytest.raises(CommonweightError) as caught:
            evidence.read(bad)
        assert caught.value.code == "E1607"
