"""What members say to each other about a session: small dataclasses in the canonical encoding, one kind byte each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ..core import codec
from ..core.codec import B32, U8, U16, U32, U64
from ..core.errors import EncodingError

BEGIN, SETTLE, GATHER, REDUCE = range(4)
BLOB_LIMIT = 512  # bytes of a member's part in a gather


@dataclass(frozen=True, slots=True)
class Member:
    """A name and where it listens."""

    name: str
    host: str
    port: U16


@dataclass(frozen=True, slots=True)
class View:
    """Who takes part, in ring order; the first member leads. Numbers only grow."""

    number: U64
    members: tuple[Member, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names in ring order."""
        return tuple(m.name for m in self.members)

    def member(self, name: str) -> Member | None:
        """The member of that name."""
        return next((m for m in self.members if m.name == name), None)


@dataclass(frozen=True, slots=True)
class Part:
    """One member's part of an operation: a root, or a blob as hexadecimal text (strings are what is variable)."""

    name: str
    body: str


@dataclass(frozen=True, slots=True)
class Beat:
    """I am alive."""

    number: U64


@dataclass(frozen=True, slots=True)
class Join:
    """Let me in; I hold the state ``root``."""

    member: Member
    root: B32


@dataclass(frozen=True, slots=True)
class Ready:
    """I am at operation ``operation``; ``signature`` (kind, count, codec) must be the same for all."""

    operation: U64
    kind: U8
    signature: str
    body: str


@dataclass(frozen=True, slots=True)
class Done:
    """I hold the complete result of the operation as run in that view."""

    view: U64
    operation: U64


@dataclass(frozen=True, slots=True)
class Fault:
    """The operation broke; ``suspect`` is who I think is the cause, ``progress`` how many tiles I had received."""

    view: U64
    operation: U64
    suspect: str
    reason: str
    progress: U32


@dataclass(frozen=True, slots=True)
class Leave:
    """I go; do not wait for me."""

    name: str


@dataclass(frozen=True, slots=True)
class Start:
    """Run the operation in this view; a later one replaces it."""

    operation: U64
    view: View


@dataclass(frozen=True, slots=True)
class Changed:
    """The view, after somebody left or died between operations."""

    view: View


@dataclass(frozen=True, slots=True)
class Result:
    """The operation is over for all of ``view``; ``ran`` names whose values are in a reduction."""

    operation: U64
    view: View
    ran: tuple[str, ...]
    root: B32
    wanted: bool
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Recover:
    """The agreed state is ``root``; these members serve it."""

    root: B32
    providers: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """You are not in the session (any more)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """After a leader's loss: the view I was in, what I completed last and what I am waiting for."""

    member: Member
    view: View
    completed: U64
    last: tuple[Result, ...]
    waiting: tuple[Ready, ...]
    done_in: U64
    done_ran: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """The state that I hold, and whom I follow: myself if I lead; nobody yet, if ``engaged`` all the same."""

    work: U64
    root: B32
    engaged: bool
    leader: tuple[Member, ...]


Message = (
    Beat
    | Join
    | Ready
    | Done
    | Fault
    | Leave
    | Start
    | Changed
    | Result
    | Recover
    | Refuse
    | Report
    | Position
)
_KINDS: tuple[type, ...] = get_args(Message)


def encode(message: Message) -> bytes:
    """Kind byte and canonical encoding."""
    return bytes([_KINDS.index(type(message))]) + codec.encode(message)


def decode(data: bytes) -> Message:
    """Strict inverse of `encode`. Raises `EncodingError`."""
    if not data or data[0] >= len(_KINDS):
        raise EncodingError("a message of unknown kind")
    return codec.decode(_KINDS[data[0]], data[1:])
