"""What a node wants to happen on chain, as one row: the states it passes and the moves between them that are
lawful.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PLANNED, SIGNED, SENT, SEEN = "planned", "signed", "sent", "seen"
CONFIRMED, REFUSED, FAILED = "confirmed", "refused", "failed"
FINAL = (CONFIRMED, REFUSED, FAILED)

# A final state can be left again: a deep reorganisation takes a confirmed or failed effect back to "sent",
# and a refused or failed one may be asked for anew. "signed" follows "sent" when a transaction is replaced,
# "refused" does when another transaction has taken its nonce for good and the contract would not have it any
# more.
MOVES: dict[str, tuple[str, ...]] = {
    PLANNED: (SIGNED, REFUSED),
    SIGNED: (SIGNED, SENT, SEEN, REFUSED),
    SENT: (SIGNED, SENT, SEEN, REFUSED),
    SEEN: (SEEN, SENT, CONFIRMED, FAILED),
    CONFIRMED: (SENT,),
    REFUSED: (PLANNED,),
    FAILED: (SENT, PLANNED),
}


@dataclass(frozen=True, slots=True)
class Effect:
    """One intent and what became of it. Fees are in wei, of the whole transaction for ``fee`` and per gas
    otherwise.
    """

    effect_id: str
    sender: bytes
    contract: str
    function: str
    args: str
    target: bytes
    data: bytes = field(repr=False)
    state: str = PLANNED
    nonce: int | None = None
    hash: bytes | None = None
    gas: int | None = None
    max_fee: int | None = None
    tip: int | None = None
    sent_block: int | None = None
    replaced: int = 0
    attempts: int = 0
    block: int | None = None
    block_hash: bytes | None = None
    status: int | None = None
    gas_used: int | None = None
    fee: int | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """It happened, and is deep enough to build on."""
        return self.state == CONFIRMED

    @property
    def final(self) -> bool:
        """Nothing more will be done for it unless it is asked for again or the chain is rewound."""
        return self.state in FINAL


@dataclass(frozen=True, slots=True)
class Signed:
    """One signed transaction of an effect; an effect that was replaced has several, and at most one can be
    mined.
    """

    hash: bytes
    effect_id: str
    nonce: int
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """The contract would revert now, so nothing was written or sent; ask again whenever the world may have
    changed.
    """

    effect_id: str
    error: str
    args: tuple[Any, ...] = ()

    @property
    def state(self) -> str:
        """Always ``refused``, so that a caller can look at one attribute of either answer."""
        return REFUSED

    @property
    def ok(self) -> bool:
        """Never."""
        return False

    @property
    def final(self) -> bool:
        """Always: there is nothing to wait for."""
        return True


def canonical(args: Sequence[Any]) -> str:
    """Arguments as one line of JSON, for people and for logs; bytes as hex."""
    return json.dumps(list(args), default=_plain, sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    slots = getattr(value, "__dataclass_fields__", None)
    if slots is None:
        raise TypeError(f"{type(value).__name__} cannot be an argument of a contract call")
    return {name: getattr(value, name) for name in slots}
