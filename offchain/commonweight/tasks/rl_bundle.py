"""The data artifact of a reinforcement-learning task: which environments, and how text becomes tokens.

Canonical JSON, so that its name is a function of its content. Everybody fetches it by its root.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from ..core.errors import CommonweightError, EncodingError
from ..core.spec import Spec
from ..rl.environments import Mixture, parse_mixture
from ..rl.rollout import Scene
from ..rl.tokens import ByteTokens, FileTokens, Tokens

FORMAT = "commonweight.rl/1"
MAX_BUNDLE = 32 << 20
_KEYS = {"format", "environments", "code", "tokenizer", "stop"}


@dataclass(frozen=True, slots=True)
class Bundle:
    """``environments`` as `parse_mixture` reads it; ``code`` is the one of the publisher's own in it; ``tokenizer``
    the text of a ``tokenizer.json`` and ``stop`` its end token. Empty for bytes and built-in environments."""

    environments: str
    code: str = ""
    tokenizer: str = ""
    stop: int = ByteTokens.stop

    def encode(self) -> bytes:
        """Canonical JSON."""
        fields = {name: getattr(self, name) for name in _KEYS - {"format"}}
        return json.dumps({"format": FORMAT, **fields}, sort_keys=True, separators=(",", ":")).encode()

    @staticmethod
    def decode(data: bytes) -> Bundle:
        """Strict inverse of `encode`. Raises `EncodingError`."""
        if len(data) > MAX_BUNDLE:
            raise EncodingError(f"an environment bundle has at most {MAX_BUNDLE} bytes, not {len(data)}")
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise EncodingError("the environment bundle is not JSON") from error
        if not isinstance(raw, dict) or set(raw) != _KEYS or raw.pop("format") != FORMAT:
            raise EncodingError(f"the environment bundle is not of format {FORMAT}")
        texts = (raw["environments"], raw["code"], raw["tokenizer"])
        if not all(isinstance(t, str) for t in texts) or type(raw["stop"]) is not int or raw["stop"] < 0:
            raise EncodingError("the environment bundle has a value of the wrong type")
        bundle = Bundle(**raw)
        if bundle.encode() != data:
            raise EncodingError("the environment bundle is not canonical")
        return bundle

    def mixture(self) -> Mixture:
        """The environments. Raises E1007."""
        if self.code:
            from ..rl.sandbox import sandboxed

            return parse_mixture(self.environments, sandboxed(self.code))
        return parse_mixture(self.environments)

    def tokens(self) -> Tokens:
        """How text becomes tokens. Raises E1008 when a library is missing."""
        return FileTokens(self.tokenizer, self.stop) if self.tokenizer else ByteTokens()


def scene(spec: Spec, data: bytes) -> Scene:
    """What is played in a task. Raises `EncodingError`, E1007, E1008."""
    return _scene(sha256(data).digest(), data, spec)


@lru_cache(maxsize=8)
def _scene(_: bytes, data: bytes, spec: Spec) -> Scene:
    bundle = Bundle.decode(data)
    tokens = bundle.tokens()
    if not 0 <= tokens.stop < spec.model.vocab:
        raise CommonweightError("E1004", f"the stop token {tokens.stop} lies outside the model's vocabulary")
    return Scene(bundle.mixture(), tokens, spec.rl.group, spec.rl.max_new, spec.model.context)
