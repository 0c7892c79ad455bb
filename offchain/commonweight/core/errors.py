"""One error type with a stable id, so that a person, a script and a test can all name what went wrong.

Ranges: E10 spec and task files, E11 encodings and artifacts, E12 chain and deployment, E13 keys and funds,
E14 local state (database, store, locks), E15 network and peers, E16 verification, E19 command line.
"""

from __future__ import annotations


class CommonweightError(Exception):
    """Something the operator can understand and act upon.

    ``code`` is stable across versions; ``message`` says what was wrong; ``hint`` says what to do.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        tail = f" ({self.hint})" if self.hint else ""
        return f"error[{self.code}] {self.message}{tail}"


class EncodingError(CommonweightError):
    """Bytes that are not the canonical encoding of anything: from a peer, a file or a chain."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("E1101", message, hint)
