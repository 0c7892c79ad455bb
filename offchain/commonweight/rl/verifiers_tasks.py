"""Tasksets of the `verifiers` library as environments (extra ``verifiers``): `verifiers:NAME` in a task's source.

The library is never imported here: a taskset lives in a process of its own (`verifiers_child`), as any environment of
somebody else does. A published task names it with a digest of its code and tasks, so that all score alike.
"""

from __future__ import annotations

from ..core.errors import CommonweightError
from .sandbox import Program, Sandbox

PREFIX = "verifiers"
CHILD = Program(("-m", "commonweight.rl.verifiers_child"), memory=8 << 30, files=256, load_seconds=120.0)


class VerifiersTasks(Sandbox):
    """One installed taskset. Raises E1613 when it cannot be used, and why."""

    def __init__(self, name: str, digest: str = "") -> None:
        try:
            super().__init__(name, CHILD)
        except CommonweightError as error:
            raise CommonweightError(
                "E1613",
                f"the taskset `{name}` of verifiers cannot be used: {error.message.split(': ', 1)[-1]}",
                "pip install 'commonweight[verifiers]' and the taskset; single-turn tasks without a runtime only",
            ) from error
        found = self.name.rpartition("@")[2]
        if digest and digest != found:
            self.close()
            raise CommonweightError(
                "E1613",
                f"the taskset `{name}` installed here has the digest {found}, the task was made with {digest}",
                "install the publisher's version of it, and of verifiers",
            )


def taskset(text: str) -> VerifiersTasks:
    """From ``NAME`` or ``NAME@DIGEST``."""
    name, _, digest = text.partition("@")
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise CommonweightError(
            "E1007", f"`{name}` is no name of a taskset", "for example verifiers:my-tasks"
        )
    return VerifiersTasks(name, digest)
