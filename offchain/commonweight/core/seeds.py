"""Every random choice of the protocol, derived by hashing from a beacon that did not exist when it was fixed.

Twins of the Solidity code: `seal_of`, `votes_hash`, `is_drawn`, `is_decoy`, `mandatory`, `decoy_noise`. The rest is
recomputed by every node.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from .hashing import abi_sha256, tagged, word

ALL_SEATS = 2**16 - 1


def seal_of(secret: bytes, trainer: bytes) -> bytes:
    """What `Tasks.claim` stores: ``sha256(abi.encode(secret, trainer))``."""
    return abi_sha256(secret, trainer)


def votes_hash(chain_id: int, panel: bytes, poll: int, seat: int, votes: Sequence[int], salt: bytes) -> bytes:
    """What `Panel.sealVotes` stores: ``sha256(abi.encode(chainid, panel, poll, seat, votes, salt))``."""
    head = b"".join(word(v) for v in (chain_id, panel, poll, seat, 6 * 32, salt))
    return sha256(head + word(len(votes)) + b"".join(word(v) for v in votes)).digest()


def is_drawn(seed: bytes, item: int, seat: int, seats: int, want: int) -> bool:
    """Sortition of one seat for one item of a poll (contracts: ``Panel.drawn``)."""
    return (
        want == ALL_SEATS
        or seats <= want
        or int.from_bytes(abi_sha256(seed, item, seat), "big") % seats < want
    )


def is_decoy(secret: bytes, seed: bytes, one_in: int) -> bool:
    """The lottery over a lease: its secret against its round's data seed (contracts: ``Exact.drawn``)."""
    return one_in != 0 and int.from_bytes(abi_sha256(secret, seed), "big") % one_in == 0


def mandatory(poll_seed: bytes | None, item: int, count: int) -> int:
    """The one of ``count`` trajectories of work ``item`` that every seat of its poll looks at."""
    head = word(3 * 32) + word(poll_seed or bytes(32)) + word(item)
    return int.from_bytes(sha256(head + _text("mandatory")).digest(), "big") % count


def decoy_noise(secret: bytes, index: int) -> tuple[int, ...]:
    """The first sixteen coefficients of a decoy's activation proof at trajectory ``index``, below 65497."""
    digest = sha256(word(3 * 32) + word(secret) + word(index) + _text("decoy")).digest()
    return tuple(int.from_bytes(digest[i : i + 2], "big") % 65_497 for i in range(0, 32, 2))


def _text(text: str) -> bytes:
    """A string of at most 32 bytes as ``abi.encode`` puts it behind the words: length, then padded bytes."""
    return word(len(text)) + text.encode().ljust(32, b"\x00")


def lease_seed(
    chain_id: int, tasks: bytes, task: int, round_: int, slot: int, base: bytes, beacon: bytes, trainer: bytes
) -> bytes:
    """The seed of everything a lease trains on: fixed by the chain after the lease was taken."""
    return tagged(
        "lease",
        chain_id.to_bytes(8, "big"),
        tasks,
        task.to_bytes(8, "big"),
        round_.to_bytes(4, "big"),
        slot.to_bytes(2, "big"),
        base,
        beacon,
        trainer,
    )


def uniform(seed: bytes, tag: str, count: int, span: int) -> tuple[int, ...]:
    """``count`` integers in ``[0, span)``; 128-bit draws, so the modulo bias is below 2**-64 for spans below 2**64."""
    draws = (tagged(tag, seed, i.to_bytes(8, "big")) for i in range(count))
    return tuple(int.from_bytes(d[:16], "big") % span for d in draws)


def batch_offsets(seed: bytes, step: int, batch: int, span: int) -> tuple[int, ...]:
    """Start offsets, in tokens, of the ``batch`` sequences of one inner step."""
    return uniform(tagged("step", seed, step.to_bytes(4, "big")), "offset", batch, span)


def shuffled(seed: bytes, count: int) -> tuple[int, ...]:
    """A permutation of ``range(count)``: sorted by hash."""
    return tuple(sorted(range(count), key=lambda i: tagged("shuffle", seed, i.to_bytes(8, "big"))))


def audit_segments(
    seed: bytes, item: int, segments: int, checks: int, seat: int, drawn: Sequence[int]
) -> tuple[int, ...]:
    """Segments of work ``item`` that ``seat`` replays, ascending.

    Drawn seats walk one shuffled ring in the order of their ids, so together they cover as many distinct segments as
    they can; a seat that was not drawn picks as if it stood behind them.
    """
    order = shuffled(tagged("audit", seed, item.to_bytes(8, "big")), segments)
    members = sorted(drawn)
    rank = members.index(seat) if seat in members else len(members)
    return tuple(sorted({order[(rank * checks + i) % segments] for i in range(min(checks, segments))}))
