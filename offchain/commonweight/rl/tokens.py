"""Text and tokens: bytes for the built-in model, a Hugging Face ``tokenizer.json`` for models that bring one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from ..core.errors import CommonweightError

NEWLINE = 10


class Tokens(Protocol):
    """What environments' texts become."""

    @property
    def stop(self) -> int:
        """The token that ends a turn."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of tokens, without the stop token."""


class ByteTokens:
    """UTF-8 bytes; a newline ends a turn."""

    stop = NEWLINE

    def encode(self, text: str) -> list[int]:
        """One token per byte."""
        return list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        """Bytes that are no UTF-8 become replacement characters."""
        return bytes(t for t in tokens if t != NEWLINE).decode(errors="replace")


class FileTokens:
    """A ``tokenizer.json``, run by the `tokenizers` library (extra ``hf``)."""

    def __init__(self, definition: str, stop: int) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise CommonweightError(
                "E1008", "this task's model brings a tokenizer of its own", "pip install 'commonweight[hf]'"
            ) from error
        self._tokenizer: Any = Tokenizer.from_str(definition)
        self._stop = stop

    @property
    def stop(self) -> int:
        """The model's end-of-sequence token."""
        return self._stop

    def encode(self, text: str) -> list[int]:
        """Tokens without special ones: prompts are exactly what the environment says."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Iterable[int]) -> str:
        """Text up to the stop token."""
        return str(self._tokenizer.decode([t for t in tokens if t != self._stop], skip_special_tokens=True))
