"""Requests that look like those of the artifact service and are wrong in one or several ways."""

from __future__ import annotations

import random

ROUTES = ["health", "manifest", "have", "any", "shards", "gossip", "push", "put"]
JUNK = [
    "",
    "0",
    "-1",
    "00",
    "1e3",
    "0x1",
    "%00",
    "%2e%2e",
    "..",
    "a" * 200,
    "%ff%fe",
    "0,0",
    ",",
    "1" * 30,
    "%2F",
    "é",
]


def case(route: str, rng: random.Random, root: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, path and headers of one request; one in four is well-formed."""
    name = root.hex() if rng.random() < 0.6 else _junk(rng)
    tail = str(rng.randrange(3)) if rng.random() < 0.5 else _junk(rng)
    paths = {
        "health": "/v1/health",
        "manifest": f"/v1/artifacts/{name}",
        "have": f"/v1/artifacts/{name}/have/{'0' if tail in '0123' else tail}",
        "any": f"/v1/artifacts/{name}/any/{tail}",
        "shards": f"/v1/artifacts/{name}/shards/{tail}",
        "gossip": "/v1/gossip",
        "push": f"/v1/artifacts/{name}",
        "put": f"/v1/artifacts/{name}/shards/{tail}",
    }
    writing = {"gossip": "POST", "push": "PUT", "put": "PUT"}
    method = writing.get(route, "GET")
    if rng.random() < 0.1:
        method = rng.choice(["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "get"])
    path = paths[route] + rng.choice(["", "", "", "/", "?a=b", "#x", "//"])
    headers = {}
    if route in writing or rng.random() < 0.1:
        headers["content-length"] = rng.choice(["0", "0", "00", "-1", "x"])
    if rng.random() < 0.3:
        headers[rng.choice(["range", "accept-encoding", "authorization", "x-forwarded-for", "cookie"])] = (
            _junk(rng)
        )
    return (
        method,
        path.encode("ascii", "ignore").decode(),
        {k: v.encode("ascii", "ignore").decode() for k, v in headers.items()},
    )


def _junk(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(JUNK)
    return "".join(chr(rng.randrange(33, 127)) for _ in range(rng.randrange(1, 80))).replace(" ", "")
