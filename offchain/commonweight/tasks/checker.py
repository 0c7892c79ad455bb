"""The child of `isolation`: takes questions on standard input, asks for artifacts, answers with verdicts.

Limits are set before torch is loaded. Whatever a library prints goes to standard error, so that frames stay whole.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import BinaryIO

from ..core import codec, fixed
from ..core.errors import CommonweightError
from ..core.fixed import ModelVersion
from ..core.spec import Spec
from .evidence import lease_of, write
from .isolation import BYTES, CHECK, FETCH, HEAD, JUDGE, PART, REFUSED, VERDICT, Question, Refusal


def main() -> None:
    """Answer questions until standard input ends."""
    asked = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 256 << 20)
    _limit(resource.RLIMIT_NOFILE, 256)
    while True:
        head = asked.read(HEAD.size)
        if not head:
            return
        sort, size = HEAD.unpack(head)
        _answer(sort, asked.read(size), asked, answers)


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, hard))


def _answer(sort: int, body: bytes, asked: BinaryIO, answers: BinaryIO) -> None:
    start = time.process_time()
    question = codec.decode(Question, body)
    _limit(resource.RLIMIT_AS, question.memory)
    spec = Spec.decode(_part(asked, PART))
    data, version = _part(asked, PART), _part(asked, PART)

    from .kinds import parameters, task_kind

    def fetch(root: bytes, limit: int) -> bytes:
        _send(answers, FETCH, root + limit.to_bytes(8, "big"))
        kind, size = HEAD.unpack(asked.read(HEAD.size))
        got = asked.read(size)
        if kind == REFUSED:
            refusal = codec.decode(Refusal, got)
            raise CommonweightError(refusal.code, refusal.message)
        if kind != BYTES:
            raise AssertionError(f"frame {kind} instead of an artifact")
        return got

    count = parameters(spec)
    if len(version) != 8 * fixed.padded(count):
        raise AssertionError("the parent sent another model's version")
    base = ModelVersion.decode(version, count)
    record, kind = question.record, task_kind(spec.kind)
    lease = lease_of(record)
    if sort == CHECK:
        verdict = kind.check(spec, data, base, lease, record.work, record.segments, fetch)
    elif sort == JUDGE:
        verdict = kind.judge_leaf(spec, data, base, lease, record.work, question.tree, question.leaf, fetch)
    else:
        raise AssertionError(f"frame {sort} is no question")
    answer = write(lease, record.spec, record.work, record.segments, verdict)
    spent = int(1e6 * (time.process_time() - start))
    _send(answers, VERDICT, spent.to_bytes(8, "big") + answer.encode())


def _part(asked: BinaryIO, wanted: int) -> bytes:
    sort, size = HEAD.unpack(asked.read(HEAD.size))
    if sort != wanted:
        raise AssertionError(f"frame {sort} instead of {wanted}")
    return asked.read(size)


def _send(answers: BinaryIO, sort: int, body: bytes) -> None:
    answers.write(HEAD.pack(sort, len(body)) + body)
    answers.flush()


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(1)
