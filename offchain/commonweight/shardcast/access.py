"""Who may write to this node, and how much: signatures, freshness, single use, and a bucket of tokens per identity."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from ..core.errors import EncodingError
from .limits import Limits
from .signing import REQUEST_SECONDS, SKEW_SECONDS, Domain, is_signed, read_authorization

Clock = Callable[[], float]


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Buckets:
    """Token buckets by name: ``rate`` tokens per second each, up to ``burst``. Remembers ``many`` names."""

    def __init__(self, rate: float, burst: float, many: int = 4096, clock: Clock = time.monotonic) -> None:
        self._rate, self._burst, self._many, self._clock = rate, burst, many, clock
        self._buckets: OrderedDict[bytes | str, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, name: bytes | str, tokens: float = 1.0) -> bool:
        """Take tokens if the bucket has them."""
        with self._lock:
            now = self._clock()
            bucket = self._buckets.pop(name, None) or _Bucket(self._burst, now)
            self._buckets[name] = bucket
            if len(self._buckets) > self._many:
                self._buckets.popitem(last=False)
            bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
            bucket.at = now
            if bucket.tokens < tokens:
                return False
            bucket.tokens -= tokens
            return True


class Denied(Exception):
    """A request that this node does not serve; ``status`` is the HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Leave:
    """A request whose sender is known; ``digest`` is the hash that its body must have."""

    sender: bytes
    digest: bytes

    def require(self, body: bytes | bytearray) -> None:
        """Raise `Denied` unless this is the body that was signed."""
        if sha256(body).digest() != self.digest:
            raise Denied(401, "the body is not the one that was signed")


class Doorkeeper:
    """Checks signed requests to this node. Used from any thread."""

    def __init__(
        self,
        domain: Domain,
        me: bytes,
        registered: Callable[[bytes], bool],
        limits: Limits,
        clock: Clock = time.time,
    ) -> None:
        """``registered``: whether the chain knows an address; ``clock``: Unix seconds."""
        self.domain, self.me = domain, me
        self._registered, self._limits, self._clock = registered, limits, clock
        self._hosts = Buckets(limits.checks_per_second, limits.checks_burst)
        self._requests = Buckets(limits.requests_per_second, limits.requests_burst)
        self._bytes = Buckets(limits.push_rate, limits.push_burst)
        self._nonces: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, authorization: str, host: str, method: str, path: str, length: int) -> Leave:
        """The identity behind a request of ``length`` body bytes. Raises `Denied`: 401 for whom, 429 for how often."""
        try:
            signed = read_authorization(authorization)
        except EncodingError as error:
            raise Denied(401, str(error)) from None
        request = signed.body
        now = self._clock()
        for holds, why in (
            (request.recipient == self.me, "it is for another node"),
            ((request.method, request.path) == (method, path), "it is for another request"),
            (now - SKEW_SECONDS <= request.expiry <= now + REQUEST_SECONDS + SKEW_SECONDS, "it has expired"),
            (self._registered(request.sender), "its sender is not registered on the chain"),
        ):
            if not holds:
                raise Denied(401, why)
        # recovering a signature costs milliseconds: a stranger who claims to be somebody gets few of them
        if not self._hosts.take(host):
            raise Denied(429, "too many signatures to check")
        if not is_signed(self.domain, signed):
            raise Denied(401, "the signature is wrong")
        if not self._requests.take(request.sender) or not self._bytes.take(request.sender, length):
            raise Denied(429, "too many requests or bytes of one identity")
        self._use(request.nonce, request.expiry, now)
        return Leave(request.sender, request.body)

    def _use(self, nonce: bytes, expiry: float, now: float) -> None:
        with self._lock:
            while self._nonces and next(iter(self._nonces.values())) < now:
                self._nonces.popitem(last=False)
            if nonce in self._nonces:
                raise Denied(401, "it was used before")
            if len(self._nonces) >= self._limits.nonces:
                raise Denied(429, "too many requests at the moment")
            # in order of arrival, and longer than any request of that moment stays valid
            self._nonces[nonce] = now + REQUEST_SECONDS + 2 * SKEW_SECONDS + 1
